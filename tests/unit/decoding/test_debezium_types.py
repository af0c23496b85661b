"""Values as connectors write them: those that captures of real servers do not hold, and those that are refused."""

from __future__ import annotations

import base64
import datetime as dt
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.changes import Effect
from lakeward.decoding.debezium import DebeziumDecoder, DebeziumSettings
from lakeward.decoding.debezium_members import Finder
from lakeward.decoding.json import Surroundings
from lakeward.records import Blobs, Decoded, RawBatch

PLACEHOLDER = "__debezium_unavailable_value"
PARAMETERS = {"scale": "2", "connect.decimal.precision": "10"}
DECIMAL = "org.apache.kafka.connect.data.Decimal"


def batch(values: list[Any], keys: list[Any] | None = None) -> RawBatch:
    offsets = np.arange(len(values), dtype=np.int64)
    keys = [{"id": 1}] * len(values) if keys is None else keys
    blobs = (Blobs.of([None if one is None else json.dumps(one).encode() for one in some]) for some in (keys, values))
    return RawBatch("t", np.zeros(len(values), np.int32), offsets, offsets, *blobs)


def described(kind: dict[str, Any], value: Any) -> dict[str, Any]:
    """An event, with its schema, of a row with one column, ``v``."""
    row = {"type": "struct", "optional": True, "fields": [{"optional": True, "field": "v", **kind}]}
    source = {"type": "struct", "fields": [], "field": "source"}
    fields = [row | {"field": "before"}, row | {"field": "after"}, source, {"type": "string", "field": "op"}]
    payload = {"before": None, "after": {"v": value}, "source": {}, "op": "c"}
    return {"schema": {"type": "struct", "fields": fields}, "payload": payload}


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """An event without a schema."""
    return {"before": None, "after": row, "source": {}, "op": "c"}


def decode(*values: Any, columns: pa.Schema | None = None) -> Decoded:
    return DebeziumDecoder(DebeziumSettings(keyed=False, columns=columns)).decode(batch(list(values)))


def only(decoded: Decoded, column: str = "v") -> Any:
    """The one value of a column."""
    assert list(decoded.rejects) == []
    (part,) = decoded.parts
    (value,) = part.rows.column(column).to_pylist()
    return value


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def unscaled(number: int) -> str:
    return coded(number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


VARIABLE = {
    "type": "struct",
    "name": "io.debezium.data.VariableScaleDecimal",
    "fields": [{"type": "int32", "field": "scale"}, {"type": "bytes", "field": "value"}],
}
GEOMETRY = {
    "type": "struct",
    "name": "io.debezium.data.geometry.Geography",
    "fields": [{"type": "bytes", "field": "wkb"}, {"type": "int32", "optional": True, "field": "srid"}],
}
PAIR = {
    "type": "struct",
    "fields": [{"type": "int32", "field": "a"}, {"type": "bytes", "field": "b", "optional": True}],
}
WIDE = 10**300 + 7
EARLIER = dt.datetime(1969, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001  without a zone, as the column
CASES: list[tuple[dict[str, Any], Any, Any]] = [
    ({"type": "bytes", "name": DECIMAL, "parameters": PARAMETERS}, unscaled(-125), Decimal("-1.25")),
    ({"type": "bytes", "name": DECIMAL, "parameters": {"scale": "2"}}, unscaled(1), "0.01"),
    ({"type": "bytes", "name": DECIMAL, "parameters": {"scale": "-2"}}, unscaled(123), "12300"),
    ({"type": "bytes", "name": DECIMAL, "parameters": {"scale": "0"}}, unscaled(WIDE), str(WIDE)),
    (VARIABLE, {"scale": 3, "value": unscaled(-1)}, "-0.001"),
    (GEOMETRY, {"wkb": coded(b"\1\2"), "srid": 4326}, b"\1\2"),
    (PAIR, {"a": 1, "b": coded(b"x")}, {"a": 1, "b": b"x"}),
    ({"type": "bytes"}, "", b""),
    ({"type": "bytes"}, coded(b"\0\xff"), b"\0\xff"),
    ({"type": "array", "items": {"type": "bytes", "optional": True}}, [coded(b"x"), None], [b"x", None]),
    ({"type": "array", "items": VARIABLE}, [{"scale": 1, "value": unscaled(15)}], ["1.5"]),
    ({"type": "map", "keys": {"type": "string"}, "values": {"type": "string"}}, {"a": "1"}, [("a", "1")]),
    ({"type": "map", "keys": {"type": "string"}, "values": {"type": "bytes"}}, {"a": coded(b"y")}, [("a", b"y")]),
    ({"type": "int32", "name": "io.debezium.time.Time"}, 1, dt.time(microsecond=1000)),
    ({"type": "int64", "name": "io.debezium.time.NanoTime"}, 2_000, dt.time(microsecond=2)),
    (
        {"type": "int64", "name": "io.debezium.time.NanoTimestamp"},
        -1_000,
        EARLIER,
    ),
    ({"type": "int64", "name": "io.debezium.time.MicroDuration"}, 5, 5),
    ({"type": "float"}, "NaN", None),
    ({"type": "double"}, "-Infinity", float("-inf")),
    ({"type": "int16"}, 7, 7),
]


@pytest.mark.parametrize(("kind", "value", "wanted"), CASES, ids=[str(k) for k in range(len(CASES))])
def test_a_described_value_becomes_what_its_schema_says(kind: dict[str, Any], value: Any, wanted: Any) -> None:
    found = only(decode(described(kind, value)))
    if value == "NaN":
        assert found != found
        return
    assert found == wanted
    assert only(decode(described(kind, None))) is None


REFUSED: list[tuple[dict[str, Any], Any, str]] = [
    ({"type": "bytes"}, "a", "invalid-base64"),
    ({"type": "bytes", "name": DECIMAL, "parameters": PARAMETERS}, unscaled(10**10), "out-of-range"),
    (VARIABLE, {"scale": 10**9, "value": unscaled(1)}, "invalid-decimal"),
    ({"type": "int64", "name": "io.debezium.time.NanoTimestamp"}, 1, "inexact-timestamp"),
    ({"type": "int64", "name": "io.debezium.time.Timestamp"}, 10**15, "out-of-range"),
    ({"type": "int32", "name": "io.debezium.time.Date"}, 3_000_000, "out-of-range"),
    ({"type": "int32"}, "x", "wrong-type"),
    ({"type": "array", "items": {"type": "bytes"}}, [coded(b"x"), "b"], "invalid-base64"),
    ({"type": "unheard-of"}, 1, "unsupported-schema"),
]


@pytest.mark.parametrize(("kind", "value", "code"), REFUSED, ids=[one[2] + str(k) for k, one in enumerate(REFUSED)])
def test_a_described_value_that_no_column_holds_is_refused(kind: dict[str, Any], value: Any, code: str) -> None:
    decoded = decode(described(kind, value))
    assert [reject.code for reject in decoded.rejects] == [code]
    assert list(decoded.parts) == []


def test_numbers_of_any_scale_are_the_decimals_that_the_table_declares() -> None:
    columns = pa.schema([("v", pa.decimal128(8, 3))])
    decoded = decode(*(described(VARIABLE, {"scale": 2, "value": unscaled(n)}) for n in (-125, 10**9)), columns=columns)
    (part,) = decoded.parts
    assert part.rows.column("v").to_pylist() == [Decimal("-1.250")]
    assert [reject.code for reject in decoded.rejects] == ["inexact-decimal"]


def test_a_column_that_the_schema_gets_comes_with_rows_of_their_own() -> None:
    first, second = described({"type": "int32"}, 1), described({"type": "int64"}, 2)
    decoded = decode(first, second, first)
    assert [(str(part.rows.schema.field("v").type), part.index.tolist()) for part in decoded.parts] == [
        ("int32", [0, 2]),
        ("int64", [1]),
    ]


def test_undescribed_values_are_read_into_the_types_of_the_table() -> None:
    table = {
        "day": (pa.date32(), 19_782, dt.date(2024, 2, 29)),
        "iso": (pa.date32(), "2024-02-29Z", dt.date(2024, 2, 29)),
        "never": (pa.date32(), -2_147_472_692, None),
        "at": (pa.timestamp("us"), "2024-02-29T01:02:03.5Z", dt.datetime(2024, 2, 29, 1, 2, 3, 500_000)),  # noqa: DTZ001
        "clock": (pa.time64("us"), "01:02:03Z", dt.time(1, 2, 3)),
        "zoned": (pa.timestamp("us", "UTC"), "infinity", None),
        "raw": (pa.binary(), coded(b"x"), b"x"),
        "any": (pa.decimal128(9, 2), {"scale": 1, "value": unscaled(15)}, Decimal("1.50")),
        "none": (pa.decimal128(9, 2), "NAN", None),
        "free": (pa.string(), {"scale": 1, "value": unscaled(15)}, "1.5"),
        "point": (pa.binary(), {"wkb": coded(b"p"), "srid": None, "x": 1.0, "y": 2.0}, b"p"),
    }
    columns = pa.schema([(name, kind) for name, (kind, _, _) in table.items()])
    decoded = decode(plain({name: value for name, (_, value, _) in table.items()}), columns=columns)
    assert {name: only(decoded, name) for name in table} == {name: wanted for name, (_, _, wanted) in table.items()}


@pytest.mark.parametrize(
    ("kind", "value", "code", "setting"),
    [
        (pa.decimal128(9, 2), "gw==", "invalid-decimal", "decimal.handling.mode"),
        (pa.timestamp("us"), 5, "unknown-unit", "time.precision.mode"),
        (pa.timestamp("us", "UTC"), 5, "unknown-unit", "time.precision.mode"),
        (pa.time64("us"), 5, "unknown-unit", "time.precision.mode"),
    ],
)
def test_what_only_a_schema_could_tell_is_refused_with_the_setting_that_helps(
    kind: pa.DataType, value: Any, code: str, setting: str
) -> None:
    (reject,) = decode(plain({"v": value}), columns=pa.schema([("v", kind)])).rejects
    assert reject.code == code
    assert setting in reject.reason


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.string(), PLACEHOLDER),
        (pa.string(), coded(PLACEHOLDER.encode())),
        (pa.string(), PLACEHOLDER.encode().hex()),
        (pa.binary(), coded(PLACEHOLDER.encode())),
        (pa.list_(pa.string()), [PLACEHOLDER]),
        (pa.list_(pa.int64()), list(PLACEHOLDER.encode())),
        (pa.list_(pa.string()), [str(uuid.UUID("1d3fa4c5-0000-3000-8000-000000000000"))]),
        (pa.map_(pa.string(), pa.string()), {PLACEHOLDER: PLACEHOLDER}),
    ],
)
def test_a_value_that_the_source_does_not_tell_is_absent(kind: pa.DataType, value: Any) -> None:
    columns = pa.schema([("id", pa.int64()), ("v", kind)])
    decoded = DebeziumDecoder(DebeziumSettings(columns=columns)).decode(
        batch([plain({"id": 1, "v": value}), plain({"id": 1, "v": None})])
    )
    (part,) = decoded.parts
    assert part.changes is not None
    if value == ["1d3fa4c5-0000-3000-8000-000000000000"]:  # a uuid like any other
        assert part.changes.absent == {}
        return
    assert part.rows.column("v").to_pylist() == [None, None]
    assert part.changes.absent["v"].tolist() == [True, False]


def test_flat_rows_tell_of_their_events_in_columns_that_the_table_does_not_get() -> None:
    told = {"__op": "u", "__deleted": "false", "__source_ts_ms": 1_700_000_000_000, "__lsn": 23_803_720, "__table": "a"}
    rows = [
        {"id": 1, **told},
        {"id": 2, **told, "__deleted": "true", "__op": "d"},
        {"id": 3, **told, "__deleted": True},
    ]
    keys = [{"id": 1}, {"id": 2}, None]
    columns = pa.schema([("id", pa.int64())])
    settings = DebeziumSettings(columns=columns, surroundings=Surroundings(grows=lambda name: name == "__table"))
    decoded = DebeziumDecoder(settings).decode(batch(rows, keys))
    assert list(decoded.rejects) == []
    found = {}
    for part in decoded.parts:
        assert part.changes is not None
        assert part.events is not None
        assert part.rows.column_names == ["id", "__table"]
        assert part.events.source_position.to_pylist() == ["0/16B3748"] * len(part.index)
        assert part.events.source_timestamp[0].as_py() == dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)
        effects = [Effect(effect).name for effect in part.changes.effect]
        columns_of_it = effects, part.events.operation.to_pylist(), part.rows.column("id").to_pylist()
        found |= dict(zip(part.index.tolist(), zip(*columns_of_it, strict=True), strict=True))
    assert found == {0: ("UPSERT", "u", 1), 1: ("DELETE", "d", 2), 2: ("DELETE", "d", 3)}


def test_places_of_other_sources_are_told_in_their_own_words() -> None:
    sources = [
        {"connector": "mysql", "file": "binlog.000003", "pos": 154, "ts_ms": 5},
        {"connector": "sqlserver", "change_lsn": "00000025:00000d98:00a2"},
        {"connector": "oracle", "scn": "16348303"},
        {"connector": "mongodb", "ts_ms": 1_795_260_897_000, "ord": 2},
        {"connector": "mongodb", "ts_ms": 1_795_260_897_000, "ord": -1},
        {"connector": "postgresql", "lsn": 2**40 + 255},
        {},
    ]
    decoded = decode(*(plain({"id": 1}) | {"source": source} for source in sources))
    (part,) = decoded.parts
    assert part.events is not None
    assert part.events.source_position.to_pylist() == [
        "binlog.000003:154",
        "00000025:00000d98:00a2",
        "16348303",
        "1795260897.2",
        None,
        "100/FF",
        None,
    ]


def test_compiled_code_is_kept_in_its_folder_and_finds_the_same(tmp_path: Path) -> None:
    objects = Blobs.of([b'{"a": "}", "b": {"a": [1, "]"]}}', b'{"b":1', b'{"\\u0061":1}', None, b'{"c":1}'])
    for _ in range(2):
        found = Finder(["a", "b"], tmp_path).find(objects)
        assert found.count.tolist() == [2, -1, -1, -1, 1]
        assert [found.get("b").get(i) for i in (0, 3, 4)] == [b'{"a": [1, "]"]}', None, None]
    assert list(tmp_path.glob("*.py"))
