"""Change events as Debezium 3.6 writes them in JSON without schemas, of databases that are dicts.

A `PostgresTable` or a `MongoCollection` changes at random, the same seed always the same way, and tells of it; ``rows``
is what it then holds, and so what a mirror of it must hold.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

UNAVAILABLE = "__debezium_unavailable_value"
"""Stands for a large value that an update has not touched."""

START_MS = 1_768_435_200_000
"""2026-01-15T00:00:00Z: when the first change happens; each takes a millisecond."""

_NOTE = "0123456789abcdef" * 160
_CITIES = ("Bern", "Zürich", "Genève", 'a "b" \\ c')


@dataclass(frozen=True, slots=True)
class Event:
    """One message: ``key`` and ``value`` (None: a tombstone), ``headers`` of events that change a key."""

    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)


class PostgresTable:
    """A table ``schema.table`` with a key ``id``, followed under ``prefix``; ``rows`` are values by column, by ``id``.

    Columns: ``id`` long, ``customer`` text, ``amount`` a decimal as text, ``qty`` integer, ``placed`` text of a moment,
    ``note`` text, every second so large that updates of other columns leave it out.
    """

    def __init__(self, seed: int, prefix: str = "shop", schema: str = "public", table: str = "orders") -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.topic = f"{prefix}.{schema}.{table}"
        self._place = {"name": prefix, "schema": schema, "table": table}
        self._chance = random.Random(seed)  # noqa: S311 - made-up data
        self._next, self._told = 1, 0

    def snapshot(self, count: int) -> list[Event]:
        """Put ``count`` rows there, which are told of as read, not as changes."""
        return [self._tell("r", row["id"], row) for row in (self._insert() for _ in range(count))]

    def changes(self, count: int) -> Iterator[Event]:
        """Make ``count`` changes, each of which is one event or, with tombstones and changed keys, up to three."""
        for _ in range(count):
            what = self._chance.random()
            if what < 0.25 or not self.rows:
                row = self._insert()
                yield self._tell("c", row["id"], row)
                continue
            key = self._chance.choice(list(self.rows))
            if what < 0.8:
                yield self._update(key)
            elif what < 0.85:
                yield from self._rename(key)
            else:
                del self.rows[key]
                yield from self._delete(key, {})

    def truncate(self) -> Event:
        """Delete all rows at once."""
        self.rows.clear()
        return Event(None, self._envelope("t", None, None))

    def _insert(self) -> dict[str, Any]:
        chance, key = self._chance, self._next
        self._next += 1
        self.rows[key] = {
            "id": key,
            "customer": f"customer {chance.choice(_CITIES)}",
            "amount": None
            if chance.random() < 0.1
            else f"{chance.randint(-(10**9), 10**9)}.{chance.randint(0, 99):02d}",
            "qty": chance.randint(-(2**31), 2**31 - 1),
            "placed": f"2026-01-{chance.randint(1, 28):02d}T12:30:15.{chance.randint(0, 999_999):06d}Z",
            "note": f"{key} {_NOTE}" if chance.random() < 0.5 else None,
        }
        return self.rows[key]

    def _update(self, key: int) -> Event:
        chance, row = self._chance, self.rows[key]
        row.update(qty=chance.randint(0, 99), amount=f"{chance.randint(0, 999)}.{chance.randint(0, 99):02d}")
        if chance.random() < 0.2:
            row["note"] = f"{chance.random()} {_NOTE}"
            return self._tell("u", key, row)
        return self._tell("u", key, _untouched(row))

    def _rename(self, key: int) -> Iterator[Event]:
        new, self._next = self._next, self._next + 1
        row = self.rows[new] = {**self.rows.pop(key), "id": new}
        yield from self._delete(key, {"__debezium.newkey": _json({"id": new})})
        yield self._tell("c", new, _untouched(row), {"__debezium.oldkey": _json({"id": key})})

    def _delete(self, key: int, headers: Mapping[str, bytes]) -> Iterator[Event]:
        # Of a deleted row PostgreSQL knows the key alone; for a column that must not be null Debezium makes a value up.
        before = {"id": key, "customer": "", "amount": None, "qty": None, "placed": None, "note": None}
        yield Event(_json({"id": key}), self._envelope("d", before, None), headers)
        yield Event(_json({"id": key}), None, headers)

    def _tell(self, op: str, key: int, row: Mapping[str, Any], headers: Mapping[str, bytes] | None = None) -> Event:
        return Event(_json({"id": key}), self._envelope(op, None, row), headers or {})

    def _envelope(self, op: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> bytes:
        self._told += 1
        at, lsn = START_MS + self._told, 22_000_000 + 56 * self._told
        source = {
            "version": "3.6.1.Final",
            "connector": "postgresql",
            "name": self._place["name"],
            "ts_ms": at,
            "snapshot": "true" if op == "r" else "false",
            "db": "postgres",
            "sequence": f'[null,"{lsn}"]',
            "ts_us": at * 1000,
            "ts_ns": at * 1_000_000,
            "schema": self._place["schema"],
            "table": self._place["table"],
            "txId": 700 + self._told,
            "lsn": lsn,
            "xmin": None,
            "origin": None,
            "origin_lsn": None,
        }
        told = {"ts_ms": at + 5, "ts_us": (at + 5) * 1000, "ts_ns": (at + 5) * 1_000_000}
        return _json({"before": before, "after": after, "source": source, "transaction": None, "op": op, **told})


class MongoCollection:
    """A collection, followed under ``prefix``; ``rows`` are documents by ``_id``, an ObjectId's 24 digits.

    ``looks_up``: updates are told of with the whole document (`change_streams_update_full`), else with what they set
    and removed. Fields: ``_id`` ObjectId, ``name`` text, ``total`` Decimal128, ``visits`` long, ``when`` date,
    ``address`` an object, ``tags`` an array. In ``rows`` a Decimal128 is its digits and a date milliseconds.
    """

    def __init__(self, seed: int, prefix: str = "shop", place: str = "shop.orders", *, looks_up: bool = True) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.topic = f"{prefix}.{place}"
        self._prefix, self._looks_up = prefix, looks_up
        self._database, self._collection = place.split(".")
        self._chance = random.Random(seed)  # noqa: S311 - made-up data
        self._next, self._told = 1, 0

    def snapshot(self, count: int) -> list[Event]:
        """Put ``count`` documents there, which are told of as read, not as changes."""
        return [self._tell("r", key) for key in (self._insert() for _ in range(count))]

    def changes(self, count: int) -> Iterator[Event]:
        """Make ``count`` changes, each of which is one event, or two where a document is deleted."""
        for _ in range(count):
            what = self._chance.random()
            if what < 0.25 or not self.rows:
                yield self._tell("c", self._insert())
                continue
            key = self._chance.choice(list(self.rows))
            if what < 0.75:
                yield self._update(key)
            elif what < 0.85:
                self.rows[key] = self._document(key)
                yield self._tell("u", key)
            else:
                del self.rows[key]
                yield self._event("d", key, None, None)
                yield Event(_key(key), None)

    def _insert(self) -> str:
        key = f"65f0000000000000{self._next:08x}"
        self._next += 1
        self.rows[key] = self._document(key)
        return key

    def _document(self, key: str) -> dict[str, Any]:
        chance = self._chance
        return {
            "_id": key,
            "name": f"customer {chance.choice(_CITIES)}",
            "total": f"{chance.randint(-(10**20), 10**20)}.{chance.randint(0, 99):02d}",
            "visits": chance.randint(0, 2**40),
            "when": START_MS + chance.randint(-(10**9), 10**9),
            "address": {"city": chance.choice(_CITIES), "zip": {"code": chance.randint(1000, 9999)}},
            "tags": [chance.choice(_CITIES) for _ in range(chance.randint(1, 3))],
        }

    def _update(self, key: str) -> Event:
        row = self.rows[key]
        row["total"] = f"{self._chance.randint(0, 999)}.50"
        changed: dict[str, Any] = {"total": {"$numberDecimal": row["total"]}}
        removed = None
        if self._chance.random() < 0.3:
            row.pop("visits", None)
            removed = ["visits"]
        description = {
            "removedFields": removed,
            "updatedFields": _extended(changed),
            "truncatedArrays": None,
        }
        return self._event("u", key, _extended(_bson(row)) if self._looks_up else None, description)

    def _tell(self, op: str, key: str) -> Event:
        return self._event(op, key, _extended(_bson(self.rows[key])), None)

    def _event(self, op: str, key: str, after: str | None, description: Mapping[str, Any] | None) -> Event:
        self._told += 1
        at = START_MS + self._told
        read = op == "r"
        source = {
            "version": "3.6.1.Final",
            "connector": "mongodb",
            "name": self._prefix,
            "ts_ms": at,
            "snapshot": "true" if read else "false",
            "db": self._database,
            "sequence": None,
            "ts_us": at * 1000,
            "ts_ns": at * 1_000_000,
            "collection": self._collection,
            "ord": -1 if read else self._told,
            "lsid": None,
            "txnNumber": None,
            "wallTime": None if read else at,
        }
        body = {"before": None, "after": after, "updateDescription": description, "source": source}
        return Event(_key(key), _json({**body, "op": op, "ts_ms": at + 5, "transaction": None}))


def _untouched(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "note": UNAVAILABLE if row["note"] is not None else None}


def _bson(row: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {"_id": "$oid", "total": "$numberDecimal", "when": "$date"}
    values = {name: {kinds[name]: value} if name in kinds else value for name, value in row.items()}
    visits = row.get("visits")
    if isinstance(visits, int) and visits >= 2**31:
        values["visits"] = {"$numberLong": str(visits)}
    return values


def _key(key: str) -> bytes:
    return _json({"id": _extended({"$oid": key})})


def _extended(value: Mapping[str, Any]) -> str:
    """As MongoDB's driver writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ": "))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
