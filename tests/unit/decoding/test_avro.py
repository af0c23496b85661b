from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
import requests

from lakeward.admission import ALIASES
from lakeward.clock import SystemClock
from lakeward.decoding import avro_shape
from lakeward.decoding.avro import AvroDecoder
from lakeward.decoding.registry import Patience, RegistryClient
from lakeward.errors import SchemaMismatchError, UnreachableError
from lakeward.records import Blobs, Decoded, RawBatch
from lakeward.testing.registry import EmbeddedRegistry

UTC = dt.UTC
TRADE = {
    "type": "record",
    "name": "Trade",
    "namespace": "market",
    "fields": [
        {"name": "symbol", "type": "string", "doc": "the company's code on the exchange"},
        {"name": "company_id", "type": "int"},
        {"name": "exchange", "type": "string", "default": "ASX"},
        {"name": "exchange_timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 6}},
        {"name": "volume", "type": "long"},
        {"name": "qualifiers", "type": "int"},
        {"name": "venue", "type": "string"},
        {"name": "buyer_id", "type": ["null", "string"], "default": None},
        {"name": "ingestion_timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "sequence_number", "type": ["null", "long"], "default": None},
    ],
}
FIELDS: dict[str, Any] = {
    "boolean": "boolean",
    "int": "int",
    "long": "long",
    "string": "string",
    "bytes": "bytes",
    "fixed": {"type": "fixed", "name": "Three", "size": 3},
    "enum": {"type": "enum", "name": "Side", "symbols": ["buy", "sell"]},
    "decimal": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
    "wide": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 0},
    "date": {"type": "int", "logicalType": "date"},
    "time_millis": {"type": "int", "logicalType": "time-millis"},
    "time_micros": {"type": "long", "logicalType": "time-micros"},
    "timestamp": {"type": "long", "logicalType": "timestamp-millis"},
    "nanos": {"type": "long", "logicalType": "timestamp-nanos"},
    "uuid": {"type": "string", "logicalType": "uuid"},
    "longs": {"type": "array", "items": "long"},
    "nulls": {"type": "array", "items": "null"},
    "map": {"type": "map", "values": "int"},
    "union": {"type": "record", "name": "Holder", "fields": [{"name": "u", "type": ["int", "string", "null"]}]},
    "duration": {"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"},
    "fixed_uuid": {"type": "fixed", "name": "Id", "size": 16, "logicalType": "uuid"},
    "empty": {"type": "record", "name": "Nothing", "fields": []},
    "double": "double",
}
EVERYTHING = {
    "type": "record",
    "name": "Everything",
    "fields": [{"name": name, "type": ["null", kind]} for name, kind in FIELDS.items()],
}
"""Each field may be null, so that a message can hold any one of them."""


def zigzag(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def counted(content: bytes) -> bytes:
    return zigzag(len(content)) + content


def keyed(keys: list[bytes]) -> bytes:
    """A map of one block, with 1 under every key."""
    return zigzag(len(keys)) + b"".join(counted(key) + zigzag(1) for key in keys) + zigzag(0)


def written(schema: dict[str, Any], schema_id: int, row: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), row)
    return framed(schema_id, stream.getvalue())


def framed(schema_id: int, payload: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + payload


def batch(messages: list[bytes | None]) -> RawBatch:
    count = len(messages)
    offsets = np.arange(count, dtype=np.int64)
    keys = Blobs.of([None] * count)
    return RawBatch("trades", np.zeros(count, np.int32), offsets, offsets, keys, Blobs.of(messages))


def trade(k: int = 0, **changes: Any) -> dict[str, Any]:
    start = dt.datetime(2026, 1, 5, 10, tzinfo=UTC)
    row = {
        "symbol": "BHP",
        "company_id": 7078,
        "exchange": "ASX",
        "exchange_timestamp": start + dt.timedelta(milliseconds=k),
        "price": Decimal("45.670000"),
        "volume": 1_000 + k,
        "qualifiers": 0,
        "venue": "X",
        "buyer_id": None if k % 3 else f"B{k}",
        "ingestion_timestamp": start + dt.timedelta(milliseconds=k + 3),
        "sequence_number": k if k % 5 else None,
    }
    return {**row, **changes}


@pytest.fixture(scope="module")
def registry() -> Iterator[EmbeddedRegistry]:
    with EmbeddedRegistry() as running:
        yield running


@pytest.fixture(scope="module")
def decoder(registry: EmbeddedRegistry) -> Iterator[AvroDecoder]:
    client = RegistryClient(registry.url, None, SystemClock(), requests.Session())
    yield AvroDecoder(client, None)
    client.close()


@pytest.fixture(scope="module")
def trade_id(registry: EmbeddedRegistry) -> int:
    return registry.register("trades-value", json.dumps(TRADE))


@pytest.fixture(scope="module")
def everything_id(registry: EmbeddedRegistry) -> int:
    return registry.register("everything-value", json.dumps(EVERYTHING))


def only(field: str, raw: bytes) -> bytes:
    """A payload of `EVERYTHING` in which ``field`` is ``raw`` and all others are null."""
    return b"".join(b"\2" + raw if name == field else b"\0" for name in FIELDS)


@pytest.fixture
def read(decoder: AvroDecoder, everything_id: int) -> Any:
    """Decode one field between two good neighbours."""

    def read(field: str, raw: bytes) -> Decoded:
        good = framed(everything_id, only("string", counted("grün".encode())))
        decoded = decoder.decode(batch([good, framed(everything_id, only(field, raw)), good]))
        assert {0, 2} <= {int(i) for part in decoded.parts for i in part.index}
        (part,) = decoded.parts
        rows = part.rows.column("string").to_pylist()
        assert (rows[0], rows[-1]) == ("grün", "grün")
        part.rows.validate(full=True)
        return decoded

    return read


def code_of(decoded: Decoded) -> tuple[int, str]:
    (reject,) = decoded.rejects
    return reject.index, reject.code


def test_trades_come_out_as_they_went_in(decoder: AvroDecoder, trade_id: int) -> None:
    rows = [trade(k) for k in range(1000)]
    decoded = decoder.decode(batch([written(TRADE, trade_id, row) for row in rows]))
    (part,) = decoded.parts
    assert part.rows.to_pylist() == rows
    assert part.index.tolist() == list(range(1000))
    assert list(decoded.rejects) == []
    assert decoded.skipped.tolist() == []


def test_the_columns_have_exact_types_and_the_schemas_docs(decoder: AvroDecoder, trade_id: int) -> None:
    (part,) = decoder.decode(batch([written(TRADE, trade_id, trade())])).parts
    schema = part.rows.schema
    assert schema.field("price").type == pa.decimal128(18, 6)
    assert schema.field("exchange_timestamp").type == pa.timestamp("us", "UTC")
    assert not schema.field("symbol").nullable
    assert schema.field("buyer_id").nullable
    assert schema.field("symbol").metadata == {b"doc": b"the company's code on the exchange"}
    assert decoder.schema("trades") == schema


def test_prices_at_the_edge_of_the_precision_are_exact(decoder: AvroDecoder, trade_id: int) -> None:
    prices = [
        Decimal(n).scaleb(-6) for n in (10**18 - 1, -(10**18) + 1, 0, -1, 1, 127, 128, -128, -129, 2**31, -(2**55))
    ]
    decoded = decoder.decode(batch([written(TRADE, trade_id, trade(price=price)) for price in prices]))
    assert decoded.parts[0].rows.column("price").to_pylist() == prices


def test_timestamps_before_1970_and_empty_and_foreign_strings_are_kept(decoder: AvroDecoder, trade_id: int) -> None:
    rows = [
        trade(exchange_timestamp=dt.datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC), symbol="", buyer_id=""),
        trade(exchange_timestamp=dt.datetime(1, 1, 1, tzinfo=UTC), symbol="株式会社", venue="\0"),
        trade(exchange_timestamp=dt.datetime(9999, 12, 31, tzinfo=UTC), symbol="🙂" * 100, sequence_number=-(2**63)),
    ]
    decoded = decoder.decode(batch([written(TRADE, trade_id, row) for row in rows]))
    assert decoded.parts[0].rows.to_pylist() == rows


def test_an_empty_batch_has_no_parts(decoder: AvroDecoder) -> None:
    decoded = decoder.decode(batch([]))
    assert (list(decoded.parts), list(decoded.rejects), decoded.skipped.tolist()) == ([], [], [])


def test_nulls_are_skipped_and_broken_headers_rejected(decoder: AvroDecoder, trade_id: int) -> None:
    good = written(TRADE, trade_id, trade())
    decoded = decoder.decode(batch([None, b"", good, b"\0\0\0\0", b"\1" + good[1:], None, b'{"a": 1}', good]))
    assert decoded.skipped.tolist() == [0, 5]
    assert [(r.index, r.code) for r in decoded.rejects] == [
        (1, "too-short"),
        (3, "too-short"),
        (4, "wrong-magic"),
        (6, "wrong-magic"),
    ]
    assert [part.index.tolist() for part in decoded.parts] == [[2, 7]]


def test_each_writer_schema_of_a_batch_gets_its_own_part(
    decoder: AvroDecoder, registry: EmbeddedRegistry, trade_id: int
) -> None:
    newer = {**TRADE, "fields": [*TRADE["fields"], {"name": "tick", "type": "int"}]}  # type: ignore[misc]
    newer_id = registry.register("trades-value", json.dumps(newer))
    old = [written(TRADE, trade_id, trade(k)) for k in range(3)]
    new = [written(newer, newer_id, {**trade(k), "tick": k}) for k in range(3)]
    unknown = framed(999, old[0][5:])
    decoded = decoder.decode(batch([new[0], old[0], unknown, old[1], None, new[1], unknown, new[2], old[2]]))
    assert [part.index.tolist() for part in decoded.parts] == [[0, 5, 7], [1, 3, 8]]
    assert decoded.parts[0].rows.column("tick").to_pylist() == [0, 1, 2]
    assert decoded.parts[1].rows.to_pylist() == [trade(k) for k in range(3)]
    assert [(r.index, r.code, r.schema_id) for r in decoded.rejects] == [
        (2, "unknown-schema-id", 999),
        (6, "unknown-schema-id", 999),
    ]
    assert decoded.skipped.tolist() == [4]


def test_an_id_that_no_registry_gives_is_not_asked_for(
    decoder: AvroDecoder, registry: EmbeddedRegistry, trade_id: int
) -> None:
    good = written(TRADE, trade_id, trade())
    flipped = good[:1] + bytes([good[1] ^ 0x80]) + good[2:]
    registry.requests.clear()
    decoded = decoder.decode(batch([flipped, good]))
    assert [(r.index, r.code, r.schema_id) for r in decoded.rejects] == [(0, "unknown-schema-id", None)]
    assert decoded.parts[0].index.tolist() == [1]
    assert not [request for request in registry.requests if str(2**31 + trade_id) in request]


def test_a_registry_that_is_away_makes_no_rejects(registry: EmbeddedRegistry, trade_id: int) -> None:
    with requests.Session() as session:
        patience = Patience(attempts=2, first_pause=0.001)
        decoder = AvroDecoder(RegistryClient(registry.url, None, SystemClock(), session, patience), None)
        messages = batch([written(TRADE, trade_id, trade()), framed(4711, b"\0")])
        registry.fail(503, times=2)
        with pytest.raises(UnreachableError):
            decoder.decode(messages)
        decoded = decoder.decode(messages)
    assert decoded.parts[0].index.tolist() == [0]
    assert code_of(decoded) == (1, "unknown-schema-id")


def test_schemas_of_one_shape_share_one_program(
    decoder: AvroDecoder, registry: EmbeddedRegistry, trade_id: int
) -> None:
    renamed = json.loads(json.dumps(TRADE).replace("symbol", 'x\\"\\n#').replace("Trade", "Deal"))
    renamed_id = registry.register("deals-value", json.dumps(renamed).replace('x\\"\\n#', "ticker"))
    decoder.decode(batch([written(TRADE, trade_id, trade()), framed(renamed_id, written(TRADE, 1, trade())[5:])]))
    assert decoder._shapes[renamed_id].function is decoder._shapes[trade_id].function


def test_a_wide_record_is_read_and_its_failures_name_the_right_field(
    registry: EmbeddedRegistry, tmp_path: Path
) -> None:
    enums: list[Any] = [{"type": "enum", "name": f"E{k}", "symbols": list("ABC"[: k + 1])} for k in range(3)]
    kinds: list[Any] = ["int", ["null", "string"], {"type": "array", "items": "int"}, "string", *enums]
    fields = [{"name": f"f{k}", "type": kind} for k, kind in enumerate(kinds + kinds[:4] * 6)]
    schema = {"type": "record", "name": "Wide", "fields": fields}
    schema_id = registry.register("wide-value", json.dumps(schema))
    values = [[k, None if k % 8 else f"v{k}", [k] * (k % 3), f"é{k}"][k % 4] if k < 4 else None for k in range(4)]
    row = {f"f{k}": v for k, v in enumerate([*values, "A", "B", "C", *values * 6])}
    good = written(schema, schema_id, row)
    stray = framed(schema_id, good[5:].replace(b"\0\2\4", b"\0\4\4", 1))  # the second enum has two symbols
    for _ in range(2):  # the second decoder finds the program in the folder
        with requests.Session() as session:
            decoder = AvroDecoder(RegistryClient(registry.url, None, SystemClock(), session), tmp_path)
            decoded = decoder.decode(batch([good, stray, good[:-1], good]))
        assert decoded.parts[0].rows.to_pylist() == [row, row]
        assert [(r.index, r.code, r.reason.split(":")[0]) for r in decoded.rejects] == [
            (1, "invalid-enum-index", "field f5"),
            (2, "truncated", "field f30"),
        ]


def test_messages_may_lie_anywhere_in_the_buffer(decoder: AvroDecoder, trade_id: int) -> None:
    values = Blobs.of([written(TRADE, trade_id, trade(k)) for k in range(10)])
    order = np.array([7, 2, 9, 0])
    raw = batch([None] * 4)
    raw = RawBatch(raw.topic, raw.partition, raw.offset, raw.timestamp, raw.keys, values.select(order))
    assert decoder.decode(raw).parts[0].rows.column("volume").to_pylist() == [1007, 1002, 1009, 1000]


def test_many_small_chunks_join_to_one_part(
    decoder: AvroDecoder, trade_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(avro_shape, "CHUNK_BYTES", 150)
    monkeypatch.setattr(avro_shape, "CHUNK_ROWS", 7)
    messages: list[bytes | None] = [written(TRADE, trade_id, trade(k, symbol="S" * (k * 9 % 400))) for k in range(50)]
    messages[11] = None
    messages[20] = messages[20][:-1]  # type: ignore[index]
    decoded = decoder.decode(batch(messages))
    kept = [k for k in range(50) if k not in {11, 20}]
    assert decoded.parts[0].index.tolist() == kept
    assert decoded.parts[0].rows.column("volume").to_pylist() == [1000 + k for k in kept]
    assert [(r.index, r.code) for r in decoded.rejects] == [(20, "truncated")]
    assert decoded.skipped.tolist() == [11]


def test_values_that_are_much_larger_than_their_bytes_are_decoded_in_smaller_chunks(
    decoder: AvroDecoder, registry: EmbeddedRegistry
) -> None:
    wide = {"type": "fixed", "name": "Wide", "size": 100_000}
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "a", "type": {"type": "array", "items": ["null", wide]}}],
    }
    schema_id = registry.register("wide-items-value", json.dumps(schema))
    nulls = framed(schema_id, zigzag(20) + bytes(20) + zigzag(0))
    decoded = decoder.decode(batch([nulls] * 1_000))  # two gigabytes, if they were one chunk
    column = decoded.parts[0].rows.column("a")
    assert decoded.parts[0].index.tolist() == list(range(1_000))
    assert column.num_chunks > 4
    assert column.to_pylist() == [[None] * 20] * 1_000


def test_messages_too_short_for_a_large_fixed_take_no_room_for_it(
    decoder: AvroDecoder, registry: EmbeddedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [{"name": "a", "type": "string"}, {"name": "b", "type": {"type": "fixed", "name": "Large", "size": 2**20}}]
    schema_id = registry.register("large-value", json.dumps({"type": "record", "name": "R", "fields": fields}))
    allocated = []
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda *given: allocated.append(empty(*given)) or allocated[-1])
    good = framed(schema_id, counted(b"x") + bytes(2**20))
    decoded = decoder.decode(batch([framed(schema_id, counted(b"abc"))] * 10_000 + [good]))
    assert decoded.parts[0].index.tolist() == [10_000]
    assert {reject.code for reject in decoded.rejects} == {"truncated"}
    assert max(array.nbytes for array in allocated) < 4 << 20


@pytest.mark.parametrize("levels", [16, 17, 60])
def test_arrays_may_lie_deep_in_one_another(decoder: AvroDecoder, registry: EmbeddedRegistry, levels: int) -> None:
    kind: Any = "int"
    value: Any = 5
    for _ in range(levels):
        kind, value = {"type": "array", "items": kind}, [value]
    schema = {"type": "record", "name": "Deep", "fields": [{"name": "a", "type": kind}]}
    schema_id = registry.register(f"deep-{levels}-value", json.dumps(schema))
    good = framed(schema_id, zigzag(1) * levels + zigzag(5) + zigzag(0) * levels)
    decoded = decoder.decode(batch([good, good[:-1]]))
    assert decoded.parts[0].rows.to_pylist() == [{"a": value}]
    assert code_of(decoded) == (1, "truncated")


def test_bytes_after_the_last_field_are_rejected(decoder: AvroDecoder, trade_id: int) -> None:
    good = written(TRADE, trade_id, trade())
    decoded = decoder.decode(batch([good, good + b"\0", good]))
    assert code_of(decoded) == (1, "trailing-bytes")
    assert decoded.parts[0].index.tolist() == [0, 2]


def test_every_truncation_is_rejected_and_names_the_field(decoder: AvroDecoder, trade_id: int) -> None:
    good = written(TRADE, trade_id, trade(1))
    decoded = decoder.decode(batch([good[:k] for k in range(5, len(good))]))
    assert list(decoded.parts) == []
    assert {r.code for r in decoded.rejects} == {"truncated"}
    assert decoded.rejects[0].reason.startswith("field symbol: ")
    assert decoded.rejects[-1].reason.startswith("field sequence_number: ")
    assert {r.schema_id for r in decoded.rejects} == {trade_id}


@pytest.mark.parametrize(
    ("field", "raw", "code"),
    [
        ("boolean", b"\2", "invalid-boolean"),
        ("int", zigzag(2**31), "int-overflow"),
        ("int", zigzag(-(2**31) - 1), "int-overflow"),
        ("date", zigzag(2**31), "int-overflow"),
        ("long", b"\xff" * 9 + b"\x02", "varint-too-long"),
        ("long", b"\x80" * 10 + b"\x01", "varint-too-long"),
        ("string", zigzag(-1), "negative-length"),
        ("bytes", zigzag(-(2**63)), "negative-length"),
        ("string", zigzag(1000), "truncated"),
        ("string", zigzag(2**63 - 1), "truncated"),
        ("string", counted(b"abc\xff"), "invalid-utf8"),
        ("string", counted(b"\xed\xa0\x80"), "invalid-utf8"),
        ("string", counted(b"abcdefgh\xc0\xaf"), "invalid-utf8"),
        ("string", counted(b"\xffabcdefghijkl"), "invalid-utf8"),
        ("string", counted("grün".encode()[:3]), "invalid-utf8"),
        ("enum", zigzag(2), "invalid-enum-index"),
        ("enum", zigzag(-1), "invalid-enum-index"),
        ("decimal", counted((10_000).to_bytes(2, "big", signed=True)), "decimal-overflow"),
        ("decimal", counted((-10_000).to_bytes(2, "big", signed=True)), "decimal-overflow"),
        ("decimal", counted((-(2**63)).to_bytes(8, "big", signed=True)), "decimal-overflow"),
        ("decimal", counted((10_000).to_bytes(20, "big", signed=True)), "decimal-overflow"),
        ("decimal", counted(b"\1" + bytes(16)), "decimal-overflow"),
        ("decimal", counted(b"\1" + bytes(8)), "decimal-overflow"),
        ("wide", counted((10**38).to_bytes(16, "big", signed=True)), "decimal-overflow"),
        ("wide", counted((-(10**38)).to_bytes(16, "big", signed=True)), "decimal-overflow"),
        ("wide", counted(b"\0" + b"\xff" * 16), "decimal-overflow"),
        ("wide", counted(b"\xff" + bytes(16)), "decimal-overflow"),
        ("wide", counted(b"\1" + bytes(16)), "decimal-overflow"),
        ("time_millis", zigzag(-1), "time-out-of-range"),
        ("time_millis", zigzag(86_400_000), "time-out-of-range"),
        ("time_micros", zigzag(86_400_000_000), "time-out-of-range"),
        ("timestamp", zigzag(2**63 // 1000 + 1), "timestamp-overflow"),
        ("timestamp", zigzag(-(2**63) // 1000 - 1), "timestamp-overflow"),
        ("uuid", counted(b"6f1c2ab0-0000-4000-8000-00000000000"), "invalid-uuid"),
        ("uuid", counted(b"6f1c2ab0-0000-4000-8000-00000000000g"), "invalid-uuid"),
        ("uuid", counted(b"6f1c2ab0+0000-4000-8000-000000000000"), "invalid-uuid"),
        ("longs", zigzag(2**62), "too-many-items"),
        ("longs", zigzag(-(2**63)) + zigzag(1), "too-many-items"),
        ("longs", zigzag(-1) + zigzag(-1), "negative-length"),
        ("longs", zigzag(-1) + zigzag(2**40), "truncated"),
        ("nulls", zigzag(2**62), "too-many-items"),
        ("nulls", zigzag(4000) + zigzag(4000) + zigzag(0), "too-many-items"),
        ("map", zigzag(2**62), "too-many-items"),
        ("map", zigzag(-(2**63)) + zigzag(0), "too-many-items"),
        ("map", zigzag(1) + counted(b"\xff") + zigzag(1) + zigzag(0), "invalid-utf8"),
        ("map", zigzag(1) + counted(b"a") + zigzag(2**31) + zigzag(0), "int-overflow"),
        ("map", keyed([b"a", b"b", b"a"]), "duplicate-key"),
        ("map", keyed([b"a"])[:-1] + keyed([b"a"]), "duplicate-key"),
        ("map", keyed([b"", b"x", b""]), "duplicate-key"),
        ("map", keyed([b"k%d" % k for k in range(500)] + [b"k77"]), "duplicate-key"),
        ("union", zigzag(3), "invalid-union-index"),
        ("union", zigzag(-1), "invalid-union-index"),
        ("union", zigzag(1) + counted(b"\xff"), "invalid-utf8"),
    ],
)
def test_a_damaged_field_rejects_its_message_alone(read: Any, field: str, raw: bytes, code: str) -> None:
    decoded = read(field, raw)
    assert code_of(decoded) == (1, code)
    assert decoded.rejects[0].reason.startswith(f"field {field}")


@pytest.mark.parametrize(
    ("field", "raw", "value"),
    [
        ("boolean", b"\1", True),
        ("int", zigzag(-(2**31)), -(2**31)),
        ("int", b"\x82\x80\x00", 1),  # longer than need be, and allowed
        ("long", zigzag(2**63 - 1), 2**63 - 1),
        ("long", zigzag(-(2**63)), -(2**63)),
        ("string", counted(b""), ""),
        ("string", counted(b"12345678"), "12345678"),
        ("string", counted("123456789ü".encode()), "123456789ü"),
        ("bytes", counted(b"\xff\0\xfe"), b"\xff\0\xfe"),
        ("fixed", b"\xff\0\1", b"\xff\0\1"),
        ("enum", zigzag(1), "sell"),
        ("decimal", counted(b""), Decimal("0.00")),
        ("decimal", counted((-9_999).to_bytes(2, "big", signed=True)), Decimal("-99.99")),
        ("decimal", counted((-9_999).to_bytes(20, "big", signed=True)), Decimal("-99.99")),
        ("wide", counted((10**38 - 1).to_bytes(17, "big", signed=True)), Decimal(10**38 - 1)),
        ("wide", counted((1 - 10**38).to_bytes(16, "big", signed=True)), Decimal(1 - 10**38)),
        ("wide", counted((-(2**64)).to_bytes(9, "big", signed=True)), Decimal(-(2**64))),
        ("date", zigzag(-1), dt.date(1969, 12, 31)),
        ("time_millis", zigzag(86_399_999), dt.time(23, 59, 59, 999_000)),
        ("time_micros", zigzag(1), dt.time(0, 0, 0, 1)),
        ("nanos", zigzag(-(2**63)), -(2**63)),
        ("uuid", counted(b"6F1C2ab0-0000-4000-8000-00000000000f"), "6F1C2ab0-0000-4000-8000-00000000000f"),
        ("longs", zigzag(2) + zigzag(5) + zigzag(6) + zigzag(1) + zigzag(7) + zigzag(0), [5, 6, 7]),
        ("longs", zigzag(-2) + zigzag(2) + zigzag(5) + zigzag(6) + zigzag(0), [5, 6]),
        ("longs", zigzag(0), []),
        ("nulls", zigzag(4096) + zigzag(0), [None] * 4096),
        ("map", zigzag(0), []),
        ("map", keyed([b"b", b"a"]), [("b", 1), ("a", 1)]),
        ("map", keyed([b"b"])[:-1] + keyed([b"a"]), [("b", 1), ("a", 1)]),
        ("map", zigzag(-1) + zigzag(3) + counted(b"b") + zigzag(7) + zigzag(0), [("b", 7)]),
        ("map", keyed([b"k%d" % k for k in range(5000)]), [(f"k{k}", 1) for k in range(5000)]),
        ("union", zigzag(0) + zigzag(5), {"u": {"int": 5, "string": None}}),
        ("union", zigzag(1) + counted(b"x"), {"u": {"int": None, "string": "x"}}),
        ("union", zigzag(2), {"u": None}),
        ("duration", b"\1\0\0\0\2\0\0\0\xff\xff\xff\xff", {"months": 1, "days": 2, "milliseconds": 2**32 - 1}),
        ("fixed_uuid", bytes(range(0x0F, 0xFF, 0x0F)), "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"),
        ("empty", b"", True),
        ("double", b"\0\0\0\0\0\0\xf8\x3f", 1.5),
    ],
)
def test_a_field_is_read_exactly(read: Any, field: str, raw: bytes, value: Any) -> None:
    decoded = read(field, raw)
    assert list(decoded.rejects) == []
    assert decoded.parts[0].rows.column(field).to_pylist()[1] == value


@pytest.mark.parametrize("length", range(1, 26))
def test_a_bad_byte_is_found_at_every_place_of_a_string(read: Any, length: int) -> None:
    for place in range(length):
        text = b"a" * place + b"\xfe" + b"a" * (length - place - 1)
        assert code_of(read("string", counted(text))) == (1, "invalid-utf8")


def test_an_invalid_union_branch_is_rejected(decoder: AvroDecoder, everything_id: int) -> None:
    for index in (b"\4", b"\1", zigzag(2**62)):
        decoded = decoder.decode(batch([framed(everything_id, index + b"\0" * (len(FIELDS) - 1))]))
        assert code_of(decoded) == (0, "invalid-union-index")


def test_no_reject_shows_a_value(read: Any) -> None:
    for field, raw in (
        ("uuid", counted(b"secret")),
        ("string", counted(b"secret\xff")),
        ("int", zigzag(123_456_789_012)),
    ):
        reason = read(field, raw).rejects[0].reason
        assert "secret" not in reason
        assert "123456789012" not in reason


def test_a_schema_that_cannot_become_columns_costs_its_messages_and_nothing_else(
    decoder: AvroDecoder, registry: EmbeddedRegistry, trade_id: int
) -> None:
    wide = {"type": "bytes", "logicalType": "decimal", "precision": 39}
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "b", "type": wide}]}
    schema = {"type": "record", "name": "Outer", "fields": [{"name": "a", "type": inner}]}
    schema_id = registry.register("outer-value", json.dumps(schema))
    good = written(TRADE, trade_id, trade())
    decoded = decoder.decode(batch([framed(schema_id, b"\0\0"), good]))
    assert code_of(decoded) == (0, "unsupported-schema")
    assert decoded.rejects[0].reason.startswith(f"schema id {schema_id}: a decimal of 39 digits")
    assert "at field a.b" in decoded.rejects[0].reason
    assert decoded.parts[0].index.tolist() == [1]
    with pytest.raises(SchemaMismatchError, match=r"subject outer-value: .* at field a\.b"):
        decoder.schema("outer")


@pytest.mark.parametrize("kind", ["JSON", "PROTOBUF"])
def test_a_schema_of_another_kind_is_refused_by_name(
    decoder: AvroDecoder, registry: EmbeddedRegistry, kind: str
) -> None:
    body = {"schema": f"of {kind}", "schemaType": kind}
    schema_id = registry.store.register("foreign-value", body).id
    decoded = decoder.decode(batch([framed(schema_id, b"x")]))
    assert code_of(decoded) == (0, "foreign-schema-type")
    assert f"schema id {schema_id} is a {kind} schema" in decoded.rejects[0].reason
    with pytest.raises(SchemaMismatchError, match=f"is a {kind} schema"):
        decoder.schema("foreign")


def test_types_of_other_subjects_are_found_through_references(decoder: AvroDecoder, registry: EmbeddedRegistry) -> None:
    side = {"type": "enum", "name": "Side", "namespace": "market", "symbols": ["buy", "sell"]}
    leg = {"type": "record", "name": "Leg", "fields": [{"name": "side", "type": "market.Side"}]}
    top = {
        "type": "record",
        "name": "Top",
        "namespace": "elsewhere",
        "fields": [
            {"name": "legs", "type": {"type": "array", "items": "Leg"}},
            {"name": "side", "type": "market.Side"},
        ],
    }
    registry.register("side", json.dumps(side))
    to_side = {"name": "market.Side", "subject": "side", "version": 1}
    registry.store.register("leg", {"schema": json.dumps(leg), "references": [to_side]})
    to_leg = {"name": "Leg", "subject": "leg", "version": 1}
    schema_id = registry.store.register("top-value", {"schema": json.dumps(top), "references": [to_leg, to_side]}).id
    decoded = decoder.decode(batch([framed(schema_id, zigzag(2) + zigzag(1) + zigzag(0) + zigzag(0) + zigzag(1))]))
    assert decoded.parts[0].rows.to_pylist() == [{"legs": [{"side": "sell"}, {"side": "buy"}], "side": "sell"}]
    assert decoder.schema("top") == decoded.parts[0].rows.schema


@pytest.mark.parametrize(
    ("schema", "payload", "value"),
    [
        ("string", counted(b"abc"), "abc"),
        ({"type": "array", "items": "int"}, zigzag(1) + zigzag(5) + zigzag(0), [5]),
        (["null", "long"], b"\0", None),
        ({"type": "map", "values": "int"}, keyed([b"a"]), [("a", 1)]),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, zigzag(1), "B"),
    ],
)
def test_a_schema_that_is_no_record_is_one_column(
    decoder: AvroDecoder, registry: EmbeddedRegistry, schema: Any, payload: bytes, value: Any
) -> None:
    schema_id = registry.register("plain-value", json.dumps(schema))
    decoded = decoder.decode(batch([framed(schema_id, payload), framed(schema_id, payload + b"\0")]))
    assert decoded.parts[0].rows.to_pylist() == [{"value": value}]
    assert code_of(decoded) == (1, "trailing-bytes")


def test_former_names_are_told_at_every_level(decoder: AvroDecoder, registry: EmbeddedRegistry) -> None:
    leg = {"type": "record", "name": "Leg", "aliases": ["a.Part"]}
    inner = {**leg, "fields": [{"name": "price", "aliases": ["cost", "rate"], "type": "int"}]}
    fields = [{"name": "legs", "aliases": ["parts"], "type": {"type": "array", "items": ["int", inner]}}]
    registry.register("named-value", json.dumps({"type": "record", "name": "Top", "fields": fields}))
    schema = decoder.schema("named")
    assert schema is not None
    told = schema.field("legs").metadata[ALIASES]
    assert json.loads(told) == ["parts"]
    member = schema.field("legs").type.value_type.field("Leg")
    assert json.loads(member.metadata[ALIASES]) == ["Part"]
    assert json.loads(member.type.field("price").metadata[ALIASES]) == ["cost", "rate"]


def test_the_schema_of_an_unknown_topic_is_none(decoder: AvroDecoder) -> None:
    assert decoder.schema("nobody") is None
