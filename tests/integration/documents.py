"""Random work on a MongoDB, and whether a table holds the same documents."""

from __future__ import annotations

import datetime as dt
import json
import random
import string
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
from bson import Decimal128, Int64, ObjectId
from servers.mongodb import MongoDb

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
_SHOWN_DIFFERENCES = 8
COLLECTIONS = ("orders", "counters", "labels")
"""Documents whose `_id` is an ObjectId, a number, a text."""


class Documents:
    """Works on the database ``name``, which it creates; ``seed`` decides everything."""

    def __init__(self, server: MongoDb, name: str, seed: int) -> None:
        self._client = server.client()
        self._database = self._client[name]
        self._chance = random.Random(seed)
        self._keys: dict[str, list[Any]] = {collection: [] for collection in COLLECTIONS}
        self._counter = 0
        for collection in (*COLLECTIONS, "zz_fence"):
            self._database.create_collection(collection)
        for collection in COLLECTIONS:
            for number in range(20):
                self._insert(collection, number)

    def act(self) -> None:
        """One change, or several in a transaction that is sometimes undone."""
        if self._chance.random() < 0.8:
            self._change(self._chance.choice(COLLECTIONS))
            return
        before = {collection: list(keys) for collection, keys in self._keys.items()}
        with self._client.start_session() as session:
            session.start_transaction()
            for _ in range(self._chance.randint(2, 8)):
                self._change(self._chance.choice(COLLECTIONS), session)
            if self._chance.random() < 0.25:
                session.abort_transaction()
                self._keys = before
            else:
                session.commit_transaction()

    def fence(self, number: int) -> None:
        """Write a document into the collection `zz_fence`."""
        self._database["zz_fence"].insert_one({"_id": number})

    def shows(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """All documents."""
        return {collection: list(self._database[collection].find()) for collection in COLLECTIONS}

    def close(self) -> None:
        """Leave the server."""
        self._client.close()

    def _change(self, collection: str, session: Any = None) -> None:
        keys, what = self._keys[collection], self._chance.random()
        if what < 0.3 or not keys:
            self._insert(collection, self._chance.randrange(100), session)
            return
        at = self._chance.randrange(len(keys))
        query, place = {"_id": keys[at]}, self._database[collection]
        if what < 0.45:
            place.replace_one(query, self._document(self._chance.randrange(100)), session=session)
        elif what < 0.85:
            place.update_one(query, self._update(), session=session)
        else:
            place.delete_one(query, session=session)
            del keys[at]

    def _insert(self, collection: str, number: int, session: Any = None) -> None:
        self._counter += 1
        key: Any = {
            "orders": ObjectId(f"{self._counter:024x}"),
            "counters": self._counter * (1 if self._counter % 2 else 2**33),
            "labels": f"{self._word()}{self._counter}",
        }[collection]
        self._database[collection].insert_one({"_id": key, **self._document(number)}, session=session)
        self._keys[collection].append(key)

    def _update(self) -> dict[str, Any]:
        chance = self._chance
        return chance.choice(
            [
                {"$set": {"name": self._word(), "address.city": self._word()}},
                {"$unset": {"note": ""}},
                {"$push": {"lines": {"sku": self._word(), "qty": chance.randint(1, 9)}}},
                {"$inc": {"visits": chance.randint(-5, 5)}},
                {"$set": {"mixed": self._mixed(chance.randrange(6))}},
                {
                    "$set": {
                        "when": self._moment(),
                        "total": self._digits(),
                        "large": Int64(chance.randint(-(2**63), 0)),
                    }
                },
            ]
        )

    def _document(self, number: int) -> dict[str, Any]:
        chance = self._chance
        return {
            "name": self._word(),
            "total": self._digits(),
            "visits": chance.randint(0, 99),
            "large": Int64(chance.randint(0, 2**63 - 1000)),
            "ratio": chance.uniform(-1e6, 1e6),
            "when": self._moment(),
            "paid": chance.random() < 0.5,
            "raw": chance.randbytes(chance.randint(1, 12)),
            "address": {"city": self._word(), "zip": {"code": chance.randint(1000, 9999)}},
            "lines": [{"sku": self._word(), "qty": chance.randint(1, 9)} for _ in range(1 + number % 3)],
            "tags": [self._word() for _ in range(1 + number % 3)],
            "mixed": self._mixed(number % 6),
            **({"note": self._word() * 50} if number % 2 else {}),
        }

    def _mixed(self, kind: int) -> Any:
        chance = self._chance
        values = (self._word(), chance.randint(0, 9), chance.random() < 0.5, {"a": [1, None]}, [1, "x"], None)
        return values[kind]

    def _moment(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._chance.randint(-(10**9), 4 * 10**9), dt.UTC)

    def _digits(self) -> Decimal128:
        return Decimal128(f"{self._chance.randint(-(10**20), 10**20)}.{self._chance.randint(0, 99):02d}")

    def _word(self) -> str:
        return "".join(self._chance.choices(string.ascii_letters + " äß€😀\"'\\\n", k=self._chance.randint(1, 10)))


def document_differences(wanted: Sequence[Mapping[str, Any]], held: pa.Table) -> str:
    """How the rows of ``held`` differ from the documents ``wanted``, as text; empty where they do not."""
    expected = {_plain(one["_id"]): {name: _plain(value) for name, value in one.items()} for one in wanted}
    rows = held.to_pylist()
    found = {_plain(row["_id"]): row for row in rows}
    lines = [f"{len(rows)} rows have {len(found)} keys"] if len(found) != len(rows) else []
    lines += [f"missing: {key!r}" for key in expected.keys() - found.keys()]
    lines += [f"too many: {key!r}" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        for name in held.column_names:
            value, there = expected[key].get(name), _plain(found[key][name])
            if value != there and not _as_json(value, found[key][name]):
                lines.append(f"changed: {key!r}: {name}: {there!r} and not {value!r}")
        lines += [f"missing: {key!r}: {name}" for name in expected[key].keys() - set(held.column_names)]
    if len(lines) > _SHOWN_DIFFERENCES:
        lines = [*lines[:_SHOWN_DIFFERENCES], f"and {len(lines) - _SHOWN_DIFFERENCES} more"]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """A value of a document, or of a row, as what both mean."""
    match value:
        case ObjectId() | Decimal128() | Decimal():
            return str(value)
        case dt.datetime():
            return (value.replace(tzinfo=value.tzinfo or dt.UTC) - _EPOCH) // _MILLISECOND
        case Mapping():
            return {name: _plain(one) for name, one in value.items() if one is not None}
        case list():
            return [_plain(one) for one in value]
    return value


def _as_json(value: Any, text: Any) -> bool:
    """Whether ``text`` is ``value`` in a column of mixed types."""
    return not isinstance(value, str) and isinstance(text, str) and _plain(json.loads(text)) == value
