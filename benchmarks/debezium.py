"""What change events cost: a decoder alone, events in memory as Debezium writes them.

``python -m benchmarks.debezium [--kinds json,schemas,avro,mongodb] [--messages N]``. CPU time of the whole process, all
threads; the best of several runs. The events are those of an order with ten columns: 60% updates, 20% inserts, 20%
deletions, each of these with its tombstone.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import fastavro
import numpy as np

from lakeward.cli.output import print_table
from lakeward.decoding.debezium import DebeziumDecoder, DebeziumSettings
from lakeward.decoding.registry import Registered
from lakeward.records import Blobs, RawBatch

KINDS = ("json", "schemas", "avro", "mongodb")
BATCH = 100_000
"""Messages in one batch, as a source hands them over."""
RUNS = 5
SOURCE: Mapping[str, Any] = {
    "version": "3.6.1.Final",
    "connector": "postgresql",
    "name": "shop",
    "ts_ms": 1_700_000_000_000,
    "snapshot": "false",
    "db": "shop",
    "sequence": '["23803719","23803720"]',
    "ts_us": 1_700_000_000_000_123,
    "ts_ns": 1_700_000_000_000_123_000,
    "schema": "public",
    "table": "orders",
    "txId": 7,
    "lsn": 23_803_720,
    "xmin": None,
}
COLUMNS: Mapping[str, tuple[str, str]] = {
    "id": ("int64", ""),
    "customer": ("int64", ""),
    "status": ("string", ""),
    "amount": ("string", ""),
    "currency": ("string", ""),
    "quantity": ("int32", ""),
    "paid": ("boolean", ""),
    "note": ("string", ""),
    "placed": ("int64", "io.debezium.time.MicroTimestamp"),
    "changed": ("string", "io.debezium.time.ZonedTimestamp"),
}
AVRO = {"int64": "long", "int32": "int"}


class _Known:
    """A registry of two schemas: of values, 1, and of keys, 2."""

    def schema(self, schema_id: int) -> Registered | None:
        """The schema with this id."""
        return Registered("AVRO", json.dumps({1: AVRO_VALUE, 2: AVRO_KEY}[schema_id]))

    def latest(self, subject: str) -> tuple[int, Registered] | None:  # noqa: ARG002  none is asked for
        """No subject is known."""
        return None


def _avro_type(kind: str, name: str) -> Any:
    plain = AVRO.get(kind, kind)
    return ["null", {"type": plain, "connect.name": name} if name else plain]


_ROW = {
    "type": "record",
    "name": "Value",
    "fields": [{"name": name, "type": _avro_type(*kind)} for name, kind in COLUMNS.items()],
}
_NUMBERS = {"ts_ms", "ts_us", "ts_ns", "txId", "lsn", "xmin"}
_AVRO_SOURCE = {
    "type": "record",
    "name": "Source",
    "fields": [{"name": name, "type": ["null", "long" if name in _NUMBERS else "string"]} for name in SOURCE],
}
AVRO_VALUE = {
    "type": "record",
    "name": "Envelope",
    "fields": [
        {"name": "before", "type": ["null", _ROW]},
        {"name": "after", "type": ["null", "Value"]},
        {"name": "source", "type": _AVRO_SOURCE},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"]},
    ],
}
AVRO_KEY = {"type": "record", "name": "Key", "fields": [{"name": "id", "type": "long"}]}


def rows(count: int) -> Iterator[tuple[str | None, int, dict[str, Any]]]:
    """Operation (None: a tombstone), key and row of so many messages."""
    chance = np.random.default_rng(7)
    kinds = chance.choice(np.array(["u", "c", "d"]), count, p=[0.6, 0.2, 0.2]).tolist()
    numbers = chance.integers(1, 10**7, count).tolist()
    made = 0
    for kind, number in zip(kinds, numbers, strict=True):
        row = {
            "id": number,
            "customer": number * 7919 % 100_003,
            "status": "shipped" if number % 3 else "open",
            "amount": f"{number % 100_000}.{number % 90 + 10}",
            "currency": "EUR",
            "quantity": number % 12,
            "paid": number % 2 == 0,
            "note": None if number % 4 else f"left with neighbour {number}",
            "placed": 1_700_000_000_000_000 + number,
            "changed": "2026-01-31T09:30:00.123456Z",
        }
        for operation in (kind, None) if kind == "d" else (kind,):
            if made == count:
                return
            yield operation, number, row
            made += 1


def _text(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(operation: str, row: Any) -> dict[str, Any]:
    after, before = (None, row) if operation == "d" else (row, None)
    now = {"ts_ms": 1_700_000_000_100, "ts_us": 1_700_000_000_100_000, "ts_ns": 1_700_000_000_100_000_000}
    return {"before": before, "after": after, "source": SOURCE, "transaction": None, "op": operation, **now}


def _described(value: Any, fields: Sequence[Mapping[str, Any]], name: str) -> Any:
    return {"schema": {"type": "struct", "fields": fields, "optional": False, "name": name}, "payload": value}


_FIELDS = [
    {"type": kind, "optional": name != "id", "field": name} | ({"name": meaning, "version": 1} if meaning else {})
    for name, (kind, meaning) in COLUMNS.items()
]
_SOURCE_FIELDS = [
    {"type": "int64" if name in _NUMBERS else "string", "optional": True, "field": name} for name in SOURCE
]
_ENVELOPE = [
    *({"type": "struct", "fields": _FIELDS, "optional": True, "field": name} for name in ("before", "after")),
    {"type": "struct", "fields": _SOURCE_FIELDS, "optional": False, "field": "source"},
    {"type": "string", "optional": False, "field": "op"},
    *({"type": "int64", "optional": True, "field": name} for name in ("ts_ms", "ts_us", "ts_ns")),
]


def _as_json(operation: str | None, number: int, row: Any) -> tuple[bytes, bytes | None]:
    return _text({"id": number}), None if operation is None else _text(_event(operation, row))


def _with_schemas(operation: str | None, number: int, row: Any) -> tuple[bytes, bytes | None]:
    key = _described({"id": number}, _FIELDS[:1], "shop.public.orders.Key")
    if operation is None:
        return _text(key), None
    return _text(key), _text(_described(_event(operation, row), _ENVELOPE, "shop.public.orders.Envelope"))


_SCHEMAS = {1: fastavro.parse_schema(AVRO_VALUE), 2: fastavro.parse_schema(AVRO_KEY)}


def _framed(schema_id: int, value: Any) -> bytes:
    stream = io.BytesIO(b"\0" + schema_id.to_bytes(4, "big"))
    stream.seek(5)
    fastavro.schemaless_writer(stream, _SCHEMAS[schema_id], value)
    return stream.getvalue()


def _as_avro(operation: str | None, number: int, row: Any) -> tuple[bytes, bytes | None]:
    return _framed(2, {"id": number}), None if operation is None else _framed(1, _event(operation, row))


def _of_mongodb(operation: str | None, number: int, row: Any) -> tuple[bytes, bytes | None]:
    identity = {"$oid": f"{number:024x}"}
    key = _text({"id": json.dumps(identity)})
    if operation is None:
        return key, None
    told = {"placed": {"$date": 1_700_000_000_000 + number}, "amount": {"$numberDecimal": row["amount"]}}
    document = json.dumps({"_id": identity, **row, **told, "customer": {"$numberLong": str(row["customer"])}})
    source = {"connector": "mongodb", "ts_ms": 1_700_000_000_000, "collection": "orders", "ord": number % 100}
    return key, _text({**_event(operation, None if operation == "d" else document), "source": source})


WRITERS: Mapping[str, Callable[[str | None, int, Any], tuple[bytes, bytes | None]]] = {
    "json": _as_json,
    "schemas": _with_schemas,
    "avro": _as_avro,
    "mongodb": _of_mongodb,
}


def batches(kind: str, messages: int) -> Iterator[RawBatch]:
    """So many messages."""
    pairs = [WRITERS[kind](*one) for one in rows(messages)]
    for low in range(0, messages, BATCH):
        keys, values = zip(*pairs[low : low + BATCH], strict=True)
        offsets = np.arange(low, low + len(keys), dtype=np.int64)
        yield RawBatch("t", np.zeros(len(keys), np.int32), offsets, offsets, Blobs.of(keys), Blobs.of(values))


def figures(kind: str, messages: int) -> dict[str, float]:
    """Messages a CPU-second, the best of several runs, and what a message weighs."""
    several = list(batches(kind, messages))
    decoder = DebeziumDecoder(DebeziumSettings(registry=_Known() if kind == "avro" else None))
    best = float("inf")
    for run in range(RUNS + 1):
        before = time.process_time()
        for raw in several:
            decoded = decoder.decode(raw)
            if decoded.rejects:
                raise AssertionError(decoded.rejects[0])
        if run:  # the first compiles
            best = min(best, time.process_time() - before)
    size = sum(int(np.maximum(raw.values.length, 0).sum()) for raw in several) / messages
    return {"messages_per_cpu_second": messages / best, "bytes": size}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--messages", type=int, default=200_000)
    chosen = parser.parse_args()
    found = {kind: figures(kind, chosen.messages) for kind in chosen.kinds.split(",")}
    columns = ("EVENTS", "MESSAGES/CPU-S", "BYTES")
    lines = [(kind, f"{one['messages_per_cpu_second']:,.0f}", f"{one['bytes']:,.0f}") for kind, one in found.items()]
    print_table(columns, lines)


if __name__ == "__main__":
    main()
