"""Random work on a PostgreSQL: rows come, change, get other keys and go, in transactions that are sometimes undone."""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 -- a class with a function's name
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from servers.postgres import BOUNDED, Postgres
from tests.fixtures.captures import Shown

TABLES = {
    "accounts": """
        id bigint PRIMARY KEY, name text NOT NULL, balance numeric(12,2), free numeric, flag boolean,
        opened date, changed timestamptz DEFAULT now(), note text, tags text[], few smallint, ratio real""",
    "pairs": "region text, number integer, v text, weight double precision, PRIMARY KEY (region, number)",
    "people": "uid uuid PRIMARY KEY, name text, born timestamp, doc jsonb, photo bytea",
    "codes": "code text PRIMARY KEY, quantity integer, cash money, at time",
    "parted": "id integer, region text, v integer, PRIMARY KEY (id, region)",
}
_LETTERS = string.ascii_letters + string.digits + " äß€😀\"'\\\n,{}"
_REGIONS = ("a", "b", "c")


@dataclass
class Known:
    """A table as the workload knows it: columns that can be set, and what was added since the start."""

    name: str
    key: tuple[str, ...]
    makers: dict[str, Callable[[random.Random], object]]
    added: list[str] = field(default_factory=list)


class Workload:
    """Works on the schema ``schema`` of a database, which it creates; ``seed`` decides everything.

    ``keys_change``: rows get other keys; ``evolves``: columns are added, dropped and widened.
    """

    def __init__(self, dsn: str, schema: str, seed: int, *, keys_change: bool = True, evolves: bool = True) -> None:
        self._connection: Connection = psycopg2.connect(dsn, **BOUNDED)
        self._schema = schema
        self._chance = random.Random(seed)
        self._keys_change, self._evolves = keys_change, evolves
        self._counter = 0
        self._known = {name: Known(name, key, dict(makers)) for name, (key, makers) in _MAKERS.items()}
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            for name, columns in TABLES.items():
                parted = "PARTITION BY LIST (region)" if name == "parted" else ""
                cursor.execute(f"CREATE TABLE {schema}.{name} ({columns}) {parted}")
            cursor.execute(f"ALTER TABLE {schema}.accounts ALTER COLUMN note SET STORAGE EXTERNAL")
            cursor.execute(f"ALTER TABLE {schema}.pairs REPLICA IDENTITY FULL")
            cursor.execute(f"CREATE TABLE {schema}.parted_a PARTITION OF {schema}.parted FOR VALUES IN ('a')")
            cursor.execute(f"CREATE TABLE {schema}.parted_rest PARTITION OF {schema}.parted DEFAULT")
            cursor.execute(f"CREATE TABLE {schema}.zz_fence (id integer PRIMARY KEY)")
        self.fill(20)

    def fill(self, rows: int) -> None:
        """Put so many rows into each table."""
        with self._connection, self._connection.cursor() as cursor:
            for known in self._known.values():
                for _ in range(rows):
                    self._insert(cursor, known)

    def act(self) -> None:
        """Do one thing: mostly a transaction of several changes, sometimes something to a whole table."""
        what = self._chance.random()
        known = self._chance.choice(list(self._known.values()))
        with self._connection, self._connection.cursor() as cursor:
            if what < 0.004:
                cursor.execute(sql.SQL("TRUNCATE {}").format(self._table(known)))
            elif what < 0.02 and self._evolves:
                self._alter(cursor, known)
            elif what < 0.08:
                self._undone(cursor)
            else:
                for _ in range(self._chance.choice((1, 1, 2, 3, 8, 20))):
                    self._change(cursor, self._chance.choice(list(self._known.values())))

    def fence(self, number: int) -> None:
        """Write a row into the table `zz_fence`."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {self._schema}.zz_fence VALUES (%s)", (number,))

    def shows(self) -> dict[str, Shown]:
        """The tables as psql shows them."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            return {name: shown(cursor, self._schema, name) for name in self._known}

    def close(self) -> None:
        """Leave the database."""
        self._connection.close()

    def _undone(self, cursor: Cursor) -> None:
        cursor.execute("SAVEPOINT s")
        for _ in range(self._chance.randint(1, 5)):
            self._change(cursor, self._chance.choice(list(self._known.values())))
        cursor.execute("ROLLBACK TO s")

    def _change(self, cursor: Cursor, known: Known) -> None:
        what = self._chance.random()
        key = None if what < 0.35 else self._some_key(cursor, known)
        if key is None:
            self._insert(cursor, known)
        elif what < 0.75:
            columns = self._chance.sample(sorted(known.makers), self._chance.randint(1, min(3, len(known.makers))))
            self._update(cursor, known, key, {name: known.makers[name](self._chance) for name in columns})
        elif what < 0.8 and self._keys_change:
            self._update(cursor, known, key, dict(zip(known.key, self._new_key(known), strict=True)))
        elif what < 0.85:
            self._delete(cursor, known, key)
            self._insert(cursor, known, key)
        else:
            self._delete(cursor, known, key)

    def _insert(self, cursor: Cursor, known: Known, key: tuple[object, ...] | None = None) -> None:
        values = {
            **dict(zip(known.key, key or self._new_key(known), strict=True)),
            **{name: make(self._chance) for name, make in known.makers.items()},
        }
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            self._table(known),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(sql.Placeholder() * len(values)),
        )
        cursor.execute(statement, list(values.values()))

    def _update(self, cursor: Cursor, known: Known, key: tuple[object, ...], values: Mapping[str, object]) -> None:
        sets = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values)
        statement = sql.SQL("UPDATE {} SET {} WHERE {}").format(self._table(known), sets, self._where(known))
        cursor.execute(statement, [*values.values(), *key])

    def _delete(self, cursor: Cursor, known: Known, key: tuple[object, ...]) -> None:
        statement = sql.SQL("DELETE FROM {} WHERE {}").format(self._table(known), self._where(known))
        cursor.execute(statement, key)

    def _where(self, known: Known) -> sql.Composed:
        return sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in known.key)

    def _some_key(self, cursor: Cursor, known: Known) -> tuple[object, ...] | None:
        keys = sql.SQL(", ").join(map(sql.Identifier, known.key))
        cursor.execute(sql.SQL("SELECT {0} FROM {1} ORDER BY {0}").format(keys, self._table(known)))
        found = cursor.fetchall()
        return self._chance.choice(found) if found else None

    def _new_key(self, known: Known) -> tuple[object, ...]:
        self._counter += 1
        number = self._counter
        match known.name:
            case "pairs":
                return (_word(self._chance), number)
            case "people":
                return (str(uuid.UUID(int=self._chance.getrandbits(128))),)
            case "codes":
                return (f"{_word(self._chance)}{number}",)
            case "parted":
                return (number, self._chance.choice(_REGIONS))
        return (number * (1 if number % 3 else 2**40),)

    def _alter(self, cursor: Cursor, known: Known) -> None:
        table, what = self._table(known), self._chance.random()
        if what < 0.5 and len(known.added) < 6:
            self._counter += 1
            name, kind = f"added_{self._counter}", self._chance.choice(sorted(_ADDED))
            cursor.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(table, sql.Identifier(name), sql.SQL(kind))
            )
            known.makers[name] = _ADDED[kind]
            known.added.append(name)
        elif what < 0.7 and known.added:
            name = known.added.pop(self._chance.randrange(len(known.added)))
            del known.makers[name]
            cursor.execute(sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table, sql.Identifier(name)))
        elif known.name in _WIDENED:
            name, kind, make = _WIDENED[known.name]
            cursor.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {}").format(table, sql.Identifier(name), sql.SQL(kind))
            )
            known.makers[name] = make

    def _table(self, known: Known) -> sql.Identifier:
        return sql.Identifier(self._schema, known.name)


def shown(cursor: Cursor, schema: str, table: str) -> Shown:
    """A table as psql shows it, its rows in the order of their texts."""
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod), EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid"
        " AND indisprimary AND attnum = ANY (indkey)) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (f"{schema}.{table}",),
    )
    columns = cursor.fetchall()
    # Not a cast to text, which would cut the blanks off char(5).
    text = sql.SQL("CASE WHEN {0} IS NOT NULL THEN format('%%s', {0}) END")
    texts = sql.SQL(", ").join(text.format(sql.Identifier(name)) for name, _, _ in columns)
    cursor.execute(sql.SQL("SELECT {} FROM {} ORDER BY 1, 2").format(texts, sql.Identifier(schema, table)), ())
    rows = [list(row) for row in cursor.fetchall()]
    return Shown({name: kind for name, kind, _ in columns}, [name for name, _, key in columns if key], rows)


def database(postgres: Postgres, name: str) -> str:
    """Create a database and return its address."""
    with closing(psycopg2.connect(postgres.dsn, **BOUNDED)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return postgres.dsn.removesuffix("/postgres") + f"/{name}"


def _word(chance: random.Random) -> str:
    return "".join(chance.choices(_LETTERS, k=chance.randint(0, 12)))


def _or_null(make: Callable[[random.Random], object]) -> Callable[[random.Random], object]:
    return lambda chance: None if chance.random() < 0.15 else make(chance)


def _text(chance: random.Random) -> str:
    """Every third is stored out of line, and not told of again where it stays as it is."""
    return _word(chance) if chance.random() < 0.7 else f"{_word(chance)}{'0123456789abcdef' * 160}"


def _digits(whole: int, scale: int) -> Callable[[random.Random], object]:
    return lambda chance: (
        f"{chance.randint(-(10**whole) + 1, 10**whole - 1)}.{chance.randint(0, 10**scale - 1):0{scale}d}"
    )


def _moment(chance: random.Random) -> str:
    parts = [chance.randint(1900, 2100), *(chance.randint(1, 12) for _ in range(2))]
    clock = [chance.randint(0, 23), *(chance.randint(0, 59) for _ in range(2)), chance.randint(0, 999_999)]
    return "{:04d}-{:02d}-{:02d} {:02d}:{:02d}:{:02d}.{:06d}".format(*parts, *clock)


_MAKERS: Mapping[str, tuple[tuple[str, ...], Mapping[str, Callable[[random.Random], object]]]] = {
    "accounts": (
        ("id",),
        {
            "name": _word,
            "balance": _or_null(_digits(10, 2)),
            "free": _or_null(lambda chance: _digits(chance.randint(1, 30), chance.randint(1, 20))(chance)),
            "flag": _or_null(lambda chance: chance.random() < 0.5),
            "opened": _or_null(lambda chance: _moment(chance)[:10]),
            "changed": _or_null(lambda chance: _moment(chance) + "Z"),
            "note": _or_null(_text),
            "tags": _or_null(lambda chance: [f"tag{chance.randint(1, 9)}" for _ in range(chance.randint(0, 3))]),
            "few": _or_null(lambda chance: chance.randint(-(2**15), 2**15 - 1)),
            "ratio": _or_null(lambda chance: chance.uniform(-1e6, 1e6)),
        },
    ),
    "pairs": (
        ("region", "number"),
        {"v": _or_null(_word), "weight": _or_null(lambda chance: chance.uniform(-1e9, 1e9))},
    ),
    "people": (
        ("uid",),
        {
            "name": _or_null(_word),
            "born": _or_null(_moment),
            "doc": _or_null(lambda chance: f'{{"a": {chance.randint(0, 9)}, "b": [null, "x"]}}'),
            "photo": _or_null(lambda chance: chance.randbytes(chance.randint(0, 20))),
        },
    ),
    "codes": (
        ("code",),
        {
            "quantity": _or_null(lambda chance: chance.randint(-(2**31), 2**31 - 1)),
            "cash": _or_null(_digits(6, 2)),
            "at": _or_null(lambda chance: _moment(chance)[11:]),
        },
    ),
    "parted": (("id", "region"), {"v": _or_null(lambda chance: chance.randint(0, 1000))}),
}
_ADDED: Mapping[str, Callable[[random.Random], object]] = {
    "bigint": _or_null(lambda chance: chance.randint(-(2**63), 2**63 - 1)),
    "boolean": _or_null(lambda chance: chance.random() < 0.5),
    "double precision": _or_null(lambda chance: chance.uniform(-1, 1)),
    "numeric(10,3)": _or_null(_digits(7, 3)),
    "text": _or_null(_word),
}
_WIDENED: Mapping[str, tuple[str, str, Callable[[random.Random], object]]] = {
    "accounts": ("balance", "numeric(16,2)", _or_null(_digits(14, 2))),
    "codes": ("quantity", "bigint", _or_null(lambda chance: chance.randint(-(2**63), 2**63 - 1))),
    "parted": ("v", "bigint", _or_null(lambda chance: chance.randint(0, 2**40))),
}
