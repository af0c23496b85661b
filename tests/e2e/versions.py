"""Twelve versions of one Avro schema, records of each, and what a table must show of them."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import fastavro
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import IcebergType, ListType, MapType, StructType

from lakeward.engine import Engine

LATEST = {"old": "title", "label": "title", "name": "full_name"}
"""Former names of fields: what they are called in the end."""
Rows = list[dict[str, Any]]


def _field(name: str, kind: Any, *aliases: str, **default: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **({"aliases": list(aliases)} if aliases else {}), **default}


def _record(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def _decimal(precision: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": 2}


def versions() -> list[dict[str, Any]]:
    """The schemas, oldest first, each compatible with those before, as a registry checks it."""
    fields = {
        "n": _field("n", "long"),
        "price": _field("price", "int"),
        "size": _field("size", "float"),
        "amount": _field("amount", _decimal(8)),
        "note": _field("note", ["null", "string"]),
        "customer": _field("customer", _record("Customer", _field("name", "string"))),
        "items": _field(
            "items", {"type": "array", "items": _record("Item", _field("sku", "string"), _field("count", "int"))}
        ),
        "tags": _field("tags", {"type": "map", "values": "int"}),
        "title": _field("old", "string"),
    }
    made: list[dict[str, Any]] = []

    def add() -> None:
        made.append(json.loads(json.dumps(_record("Order", *fields.values()))))

    add()
    fields["currency"] = _field("currency", "string", default="CHF")
    add()
    fields["price"] = _field("price", "long")
    add()
    fields = dict(sorted(fields.items(), reverse=True))
    add()
    fields["size"] = _field("size", "double")
    add()
    fields["amount"] = _field("amount", _decimal(14))
    add()
    fields["title"] = _field("label", "string", "old")
    add()
    del fields["note"]
    add()
    fields["customer"] = _field(
        "customer", _record("Customer", _field("name", "string"), _field("city", ["null", "string"], default=None))
    )
    fields["tags"] = _field("tags", {"type": "map", "values": "long"})
    add()
    fields["title"] = _field("label", ["null", "string"], "old")
    add()
    customer = _record(
        "Customer", _field("city", ["null", "string"], default=None), _field("full_name", "string", "name")
    )
    fields["customer"] = _field("customer", customer)
    gift = _field("gift", "boolean", default=False)
    item = _record("Item", _field("count", "long"), _field("sku", "string"), gift)
    fields["items"] = _field("items", {"type": "array", "items": item})
    add()
    fields["title"] = _field("title", ["null", "string"], "label", "old")
    address = _record("Address", _field("street", "string"), _field("zip", ["null", "int"]))
    fields["address"] = _field("address", ["null", address], default=None)
    add()
    return made


class Orders:
    """Records of all versions, each with a number of its own."""

    def __init__(self, seed: int, register: Callable[[str], int]) -> None:
        self.schemas = versions()
        self.ids = [register(json.dumps(schema)) for schema in self.schemas]
        self._parsed = [fastavro.parse_schema(schema) for schema in self.schemas]
        self._chance = random.Random(seed)
        self.sent: Rows = []
        """What a table with every column should say, in the order in which it was sent."""

    def payloads(self, count: int, upto: int) -> list[bytes]:
        """``count`` messages, each of any of the first ``upto`` versions."""
        return [self._payload(self._chance.randrange(upto)) for _ in range(count)]

    def _payload(self, version: int) -> bytes:
        row = self._row(version)
        schema = self.schemas[version]
        out = io.BytesIO(struct.pack(">bI", 0, self.ids[version]))
        out.seek(0, io.SEEK_END)
        fastavro.schemaless_writer(out, self._parsed[version], _written(row, schema))
        self.sent.append(_kept(row, self.schemas))
        return out.getvalue()

    def _row(self, version: int) -> dict[str, Any]:
        """The values that a writer of ``version`` has, by final names."""
        pick, n = self._chance, len(self.sent)
        schema = self.schemas[version]
        kinds = {LATEST.get(f["name"], f["name"]): f["type"] for f in schema["fields"]}
        row: dict[str, Any] = {
            "n": n,
            "price": pick.randint(-100, 100) * (2**33 if kinds["price"] == "long" else 1),
            "size": pick.randint(0, 1000) / (7 if kinds["size"] == "double" else 8),
            "amount": Decimal(pick.randint(-99_999_999, 99_999_999)) / 100,
            "note": pick.choice([None, "a note"]),
            "customer": {"full_name": f"customer {n}", "city": pick.choice([None, "Bern"])},
            "items": [
                {"sku": f"{n}-{i}", "count": pick.randint(0, 9), "gift": pick.random() < 0.5}
                for i in range(pick.randint(0, 3))
            ],
            "tags": {f"t{i}": pick.randint(0, 9) for i in range(pick.randint(0, 2))},
            "title": pick.choice([None, "a title"]) if isinstance(kinds["title"], list) else "a title",
            "currency": "CHF",
            "address": pick.choice([None, {"street": "Gasse", "zip": pick.choice([None, 3000])}]),
        }
        return {name: _cut(value, kinds[name]) for name, value in row.items() if name in kinds}


def _cut(value: Any, kind: Any) -> Any:
    """``value`` with what ``kind`` has of it."""
    if isinstance(kind, list):
        return None if value is None else _cut(value, next(one for one in kind if one != "null"))
    if isinstance(kind, dict) and kind["type"] == "record":
        names = [LATEST.get(f["name"], f["name"]) for f in kind["fields"]]
        return {name: value[name] for name in names}
    if isinstance(kind, dict) and kind["type"] == "array":
        return [_cut(one, kind["items"]) for one in value]
    return value


def _written(value: Any, kind: Any) -> Any:
    """``value`` under the names that ``kind`` has."""
    if value is None:
        return None
    if isinstance(kind, list):
        return _written(value, next(one for one in kind if one != "null"))
    if isinstance(kind, dict) and kind["type"] == "record":
        return {f["name"]: _written(value[LATEST.get(f["name"], f["name"])], f["type"]) for f in kind["fields"]}
    if isinstance(kind, dict) and kind["type"] == "array":
        return [_written(one, kind["items"]) for one in value]
    return value


def _kept(row: dict[str, Any], schemas: Sequence[Any]) -> dict[str, Any]:
    names = {LATEST.get(f["name"], f["name"]) for schema in schemas for f in schema["fields"]}
    return {name: row.get(name) for name in names}


def differences(table: Table, sent: Rows, snapshot_id: int) -> list[str]:
    """How what DuckDB and PyIceberg read at a snapshot differs from ``sent``, the rows that it should have."""
    snapshot = table.snapshot_by_id(snapshot_id)
    assert snapshot is not None
    assert snapshot.schema_id is not None
    schema = table.schemas()[snapshot.schema_id]
    wanted = sorted((_told(row, schema.as_struct(), table.schema()) for row in sent), key=lambda row: int(row["n"]))
    engine = Engine(table.catalog.properties)
    engine.add(table)
    location = table.metadata_location.removeprefix("file://")
    names, values = engine.rows(f"SELECT * FROM iceberg_scan('{location}', snapshot_from_id = {snapshot_id})")
    read = {
        "DuckDB": [dict(zip(names, row, strict=True)) for row in values],
        "PyIceberg": table.scan(snapshot_id=snapshot_id).to_arrow().to_pylist(),
    }
    wrong = []
    for reader, rows in read.items():
        got = sorted((_plain(row, schema.as_struct()) for row in rows), key=lambda row: int(row["n"]))
        if len(got) != len(wanted):
            wrong.append(f"{reader} reads {len(got)} rows of {len(wanted)}")
        wrong += [f"{reader}: {a} instead of {b}" for a, b in zip(got, wanted, strict=False) if a != b]
    return wrong


def _told(value: Any, kind: IcebergType, final: Schema) -> Any:
    """``value`` under the names of ``kind``; it has the names of ``final``."""
    if value is None:
        return None
    if isinstance(kind, StructType):
        names = {f.name: final.find_field(f.field_id).name for f in kind.fields}
        return {f.name: _told(value.get(names[f.name]), f.field_type, final) for f in kind.fields}
    if isinstance(kind, ListType):
        return [_told(one, kind.element_type, final) for one in value]
    return value


def _plain(value: Any, kind: IcebergType) -> Any:
    if value is None:
        return None
    if isinstance(kind, StructType):
        return {f.name: _plain(value[f.name], f.field_type) for f in kind.fields}
    if isinstance(kind, ListType):
        return [_plain(one, kind.element_type) for one in value]
    return dict(value) if isinstance(kind, MapType) else value
