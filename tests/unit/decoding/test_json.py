from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.decoding.json import JsonDecoder, Surroundings
from lakeward.decoding.json_inference import MOST_FIELDS, MOST_MEMBERS
from lakeward.decoding.json_rows import CHUNK_ROWS
from lakeward.errors import ConfigurationError, SchemaMismatchError
from lakeward.records import Blobs, Decoded, RawBatch


def batch(payloads: list[bytes | None]) -> RawBatch:
    count = len(payloads)
    offsets = np.arange(count, dtype=np.int64)
    return RawBatch("t", np.zeros(count, np.int32), offsets, offsets, Blobs.of([None] * count), Blobs.of(payloads))


def decode(decoder: JsonDecoder, records: list[Any]) -> Decoded:
    return decoder.decode(batch([json.dumps(record).encode() for record in records]))


def rows(decoded: Decoded) -> list[dict[str, Any]]:
    return [row for part in decoded.parts for row in part.rows.to_pylist()]


def test_declared_fields_tell_the_schema_before_the_first_record() -> None:
    fields = {"s": "string", "i": "int", "f": "float", "d": "date", "t": "timestamp", "z": "timestamptz"}
    decoder = JsonDecoder({**fields, "l": "long", "g": "double", "b": "boolean", "p": " decimal(38, 9) "})
    wanted = pa.schema(
        {
            "s": pa.string(),
            "i": pa.int32(),
            "f": pa.float32(),
            "d": pa.date32(),
            "t": pa.timestamp("us"),
            "z": pa.timestamp("us", "UTC"),
            "l": pa.int64(),
            "g": pa.float64(),
            "b": pa.bool_(),
            "p": pa.decimal128(38, 9),
        }
    )
    assert decoder.schema("any") == wanted
    assert decode(decoder, [{}]).parts[0].rows.schema == wanted
    assert JsonDecoder(None).schema("any") is None


@pytest.mark.parametrize("kind", ["strnig", "decimal(39,0)", "decimal(5,6)", "decimal(0,0)", "decimal", "varchar(3)"])
def test_an_impossible_type_is_a_configuration_error_that_names_the_field(kind: str) -> None:
    with pytest.raises(ConfigurationError, match="'price'"):
        JsonDecoder({"price": kind})


def test_a_mistyped_type_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigurationError, match='"timestamptz"'):
        JsonDecoder({"at": "timestamp_tz"})


def test_declaring_no_field_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="no field"):
        JsonDecoder({})


def test_rows_of_both_ways_of_reading_keep_the_order_of_the_messages() -> None:
    fast, slow, bad = b'{"x":%d}', b'{"\\u0078":%d}', b'{"x":%d.5}'
    payloads = [None if k % 7 == 3 else (fast, slow, fast, bad)[k % 4] % k for k in range(CHUNK_ROWS + 500)]
    decoded = JsonDecoder({"x": "long"}).decode(batch(payloads))
    good = [k for k in range(len(payloads)) if k % 7 != 3 and k % 4 != 3]
    [part] = decoded.parts
    assert part.index.tolist() == part.rows.column("x").to_pylist() == good
    assert [reject.index for reject in decoded.rejects] == [k for k in range(3, len(payloads), 4) if k % 7 != 3]
    assert decoded.skipped.tolist() == list(range(3, len(payloads), 7))


def test_a_record_larger_than_a_chunk_is_one_row() -> None:
    long = "é" * (9 << 20)
    decoded = decode(JsonDecoder({"x": "string"}), [{"x": "a"}, {"x": long}, {"x": None}])
    assert [row["x"] for row in rows(decoded)] == ["a", long, None]


def test_the_order_of_keys_may_change_at_any_record() -> None:
    names = [f"field_{k}" for k in range(30)]
    records = [dict.fromkeys(np.roll(names, k).tolist(), k) for k in range(40)]
    assert rows(decode(JsonDecoder(dict.fromkeys(names, "int")), records)) == [
        dict.fromkeys(names, k) for k in range(40)
    ]


def test_nulls_hide_nothing_of_the_memory_under_them() -> None:
    kinds = ["string", "int", "long", "float", "double", "boolean", "date", "timestamp", "decimal(9,2)"]
    decoder = JsonDecoder({f"f{k}": kind for k, kind in enumerate(kinds)})
    decode(decoder, [{"f2": -1, "f8": "-1.25", "f1": 77}] * 50)
    for column in decode(decoder, [{}, {"f1": None}] * 50).parts[0].rows.columns:
        assert column.null_count == 100
        for buffer in column.combine_chunks().buffers()[1:]:
            assert buffer is None or not any(buffer.to_pybytes())


def test_fields_are_inferred_from_the_first_batch_and_then_kept() -> None:
    decoder = JsonDecoder(None)
    sample = [
        {"id": 1, "ratio": 1, "ok": True, "name": "a", "at": "2026-01-01", "none": None, "mixed": 1, "big": 2**64},
        {"id": -5, "ratio": 0.5, "ok": None, "tags": ["x"], "at": None, "mixed": "1", "wide": 2**60, "empty": {}},
        {"id": 2**62, "mixed": [1, {"a": "é"}, None, True], "wide": 1.5, "user": {"id": 7, "who": {"n": None}}},
    ]
    decoded = decode(decoder, sample)
    user = pa.struct({"id": pa.int64(), "who": pa.string()})
    assert decoder.schema("t") == pa.schema(
        {
            "id": pa.int64(),
            "ratio": pa.float64(),
            "ok": pa.bool_(),
            "name": pa.string(),
            "at": pa.string(),
            "mixed": pa.string(),
            "big": pa.string(),
            "tags": pa.list_(pa.string()),
            "wide": pa.string(),
            "empty": pa.string(),
            "user": user,
        }
    )
    assert not decoded.rejects
    got = rows(decoded)
    assert [row["mixed"] for row in got] == ["1", "1", '[1,{"a":"é"},null,true]']
    assert [row["big"] for row in got] == ["18446744073709551616", None, None]
    assert [row["wide"] for row in got] == [None, "1152921504606846976", "1.5"]
    assert [row["user"] for row in got] == [None, None, {"id": 7, "who": '{"n":null}'}]
    later = decode(decoder, [{"id": 1.5}, {"id": 3, "name": {"a": 1.10}}])
    assert [reject.code for reject in later.rejects] == ["not-an-integer"]
    assert rows(later)[0]["name"] == '{"a":1.1}'


def test_a_field_that_appears_later_is_a_new_column_for_the_records_that_have_it() -> None:
    decoder = JsonDecoder(None)
    decode(decoder, [{"id": 1, "user": {"n": 1}, "tags": [{"a": 1}]}])
    records = [
        {"id": 2},
        {"id": 3, "new": 0.5},
        {"id": 4, "user": {"n": 2, "m": "x"}},
        {"id": 5, "tags": [{"b": True}]},
    ]
    narrow, wide = decode(decoder, records).parts
    assert (narrow.index.tolist(), narrow.rows.column_names) == ([0], ["id", "user", "tags"])
    assert (wide.index.tolist(), wide.rows.column_names) == ([1, 2, 3], ["id", "user", "tags", "new"])
    assert wide.rows.to_pylist() == [
        {"id": 3, "user": None, "tags": None, "new": 0.5},
        {"id": 4, "user": {"n": 2, "m": "x"}, "tags": None, "new": None},
        {"id": 5, "user": None, "tags": [{"a": None, "b": True}], "new": None},
    ]
    [part] = decode(decoder, [{"id": 6}]).parts
    assert part.rows.schema == wide.rows.schema == decoder.schema("t")


def test_a_field_that_may_not_be_added_rejects_its_records_and_is_learned_where_it_may() -> None:
    table = pa.schema({"id": pa.int64(), "user": pa.struct({"n": pa.int64()})})
    decoder = JsonDecoder.from_schema(table, surroundings=Surroundings(grows=lambda name: name == "left_out"))
    decoded = decode(decoder, [{"id": 1, "left_out": 1}, {"id": 2, "x": 1}, {"id": 3, "x": None}, {"user": {"m": 1}}])
    assert [(one.index, one.code) for one in decoded.rejects] == [(1, "undeclared-field"), (3, "undeclared-field")]
    assert [row["id"] for row in rows(decoded)] == [1, 3]
    assert "x" not in (decoder.schema("t") or table).names


def test_a_field_that_was_only_null_gets_its_column_with_its_first_value() -> None:
    decoder = JsonDecoder(None)
    assert rows(decode(decoder, [{"id": 1, "x": None}] * 2)) == [{"id": 1}] * 2
    first, second = decode(decoder, [{"id": 2, "x": None}, {"id": 3, "x": 7}]).parts
    assert (first.rows.to_pylist(), second.rows.to_pylist()) == ([{"id": 2}], [{"id": 3, "x": 7}])


def test_a_new_field_of_a_record_that_is_rejected_all_the_same_makes_no_column() -> None:
    decoder = JsonDecoder(None)
    decode(decoder, [{"id": 1}])
    assert [one.code for one in decode(decoder, [{"id": "x", "new": 1}]).rejects] == ["wrong-type"]
    assert decoder.schema("t") == pa.schema({"id": pa.int64()})


def test_objects_of_ever_other_keys_become_text_and_records_get_no_more_than_a_thousand_columns() -> None:
    decoder = JsonDecoder(None)
    decoded = decode(decoder, [{"by_id": {f"k{k}": k}} for k in range(MOST_MEMBERS + 1)])
    assert decoder.schema("t") == pa.schema({"by_id": pa.string()})
    assert rows(decoded)[3] == {"by_id": '{"k3":3}'}
    wide = decode(decoder, [{f"column_{k}": k} for k in range(MOST_FIELDS + 5)])
    assert [one.code for one in wide.rejects] == ["undeclared-field"] * 6
    assert len((decoder.schema("t") or pa.schema({})).names) == MOST_FIELDS


def test_the_types_of_the_table_win_over_those_inferred_beside_it() -> None:
    table: list[pa.Schema | None] = [None]
    decoder = JsonDecoder(None, surroundings=Surroundings(columns=lambda: table[0]))
    decode(decoder, [{"x": 1, "y": 1}])
    table[0] = pa.schema({"x": pa.float64()})
    assert rows(decode(decoder, [{"x": 1.5, "y": 2}])) == [{"x": 1.5, "y": 2}]
    assert decoder.schema("t") == pa.schema({"x": pa.float64(), "y": pa.int64()})


def test_text_of_json_keeps_numbers_as_they_were_written() -> None:
    decoder = JsonDecoder.from_schema(pa.schema({"x": pa.string()}))
    payloads = [b'{"x": 1.10}', b'{"x": [ 1E+2 , 0.0 ]}', b'{"x": {"b": 1, "a": "\\u00e9\\n"}}', b'{"x": "plain"}']
    decoded = decoder.decode(batch(list(payloads)))
    assert [row["x"] for row in rows(decoded)] == ["1.10", "[1E+2,0.0]", '{"b":1,"a":"é\\n"}', "plain"]


def test_nothing_is_inferred_from_tombstones_damage_and_empty_objects() -> None:
    decoder = JsonDecoder(None)
    decoded = decoder.decode(batch([None, b"{", b"{}"]))
    assert not decoded.parts
    assert [(reject.index, reject.code) for reject in decoded.rejects] == [(1, "malformed-json"), (2, "no-fields")]
    assert decoded.skipped.tolist() == [0]
    assert decoder.schema("t") is None
    assert rows(decode(decoder, [{}, {"a": 1}])) == [{"a": None}, {"a": 1}]


def test_the_columns_of_a_table_decode_as_they_were_inferred() -> None:
    table = pa.schema(
        {
            "id": pa.int64(),
            "name": pa.large_string(),
            "tags": pa.large_list(pa.large_string()),
            "user": pa.struct({"n": pa.float64()}),
            "price": pa.decimal128(9, 2),
        }
    )
    record = {"id": 1, "name": 5, "tags": ["a", 1], "user": {"n": 0.5}, "price": "1.5"}
    [row] = rows(decode(JsonDecoder.from_schema(table), [record]))
    assert row["name"] == "5"
    assert row["tags"] == ["a", "1"]
    assert (row["id"], row["user"], str(row["price"])) == (1, {"n": 0.5}, "1.50")


@pytest.mark.parametrize("kind", [pa.time64("ns"), pa.map_(pa.int64(), pa.int64()), pa.timestamp("ns")])
def test_a_table_with_a_column_that_json_cannot_fill_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(SchemaMismatchError, match=r"'outer\.odd'"):
        JsonDecoder.from_schema(pa.schema({"outer": pa.struct({"odd": kind})}))


def test_compiled_code_is_kept_between_runs(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    assert rows(decode(JsonDecoder({"x": "long"}, folder), [{"x": 1}])) == [{"x": 1}]
    kept = sorted(path.name for path in folder.rglob("*.nb?"))
    assert kept
    assert rows(decode(JsonDecoder({"y": "string", "z": "date"}, folder), [{"y": "b"}])) == [{"y": "b", "z": None}]
    assert sorted(path.name for path in folder.rglob("*.nb?")) == kept


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from lakeward.decoding.json import JsonDecoder, Surroundings
from lakeward.decoding.json_inference import MOST_FIELDS, MOST_MEMBERS
from lakeward.records import Blobs, RawBatch

PAGE = mmap.PAGESIZE
memory = mmap.mmap(-1, 2 * PAGE)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mprotect(ctypes.c_void_p(at + PAGE), ctypes.c_size_t(PAGE), 0) == 0
fields = {"a_rather_long_name_of_a_field": "string", "t": "timestamptz", "x": "decimal(38,3)", "d": "double"}
decoder = JsonDecoder(fields)
full = b'{"a_rather_long_name_of_a_field":"caf\\\\u00e9 \\xc3\\xa9","t":"2026-01-01T00:00:00.5+01:00"'
full += b',"x":"1.5","d":-1e3}'
zero = np.zeros(1, np.int64)
good = 0
for size in range(len(full) + 1):
    memory[PAGE - size : PAGE] = full[:size]
    data = np.ctypeslib.as_array(ctypes.cast(at, ctypes.POINTER(ctypes.c_uint8)), (PAGE,))
    values = Blobs(data, np.array([PAGE - size]), np.array([size], np.int32))
    decoded = decoder.decode(RawBatch("t", np.zeros(1, np.int32), zero, zero, Blobs.of([None]), values))
    good += sum(part.rows.num_rows for part in decoded.parts)
print("rows", good)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects memory as Linux does")
def test_nothing_is_read_behind_the_buffer_wherever_a_record_is_cut() -> None:
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "rows 1\n", "")
