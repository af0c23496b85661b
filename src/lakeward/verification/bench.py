"""Two multisets of rows compared by DuckDB, exactly, in bounded memory: what the table holds, what the stream said.

Both go into one table on disk with a sign, and are grouped by every column: what does not cancel out differs. DuckDB
spills what does not fit. Nothing of the writer is used here: not its types, nor its order, nor its files' reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.sqltypes import DuckDBPyType
from numpy.typing import NDArray

from lakeward.engine import Engine, quoted
from lakeward.positions import Partition, Span
from lakeward.sinks.iceberg.inspection import Inspection
from lakeward.verification.names import CurrentNames
from lakeward.verification.verdict import SHOWN

MEMORY = "1GB"
PENDING_ROWS, PENDING_BYTES = 200_000, 64 << 20
"""Decoded rows are handed to DuckDB in portions of this size."""

_WIDER = {("integer", "bigint"), ("float", "double")}
_NESTED = {"struct", "list", "map"}


@dataclass(frozen=True, slots=True)
class Key:
    """The columns that say which record a row came from; ``topic`` is None where the table has one topic."""

    partition: str
    offset: str
    topic: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """The table's rows, sorted by where their key lies. Without a key all are ``inside``.

    ``inside``: in the spans that are compared; ``beyond``: at or above the position; ``strange``: no known partition.
    """

    total: int
    inside: int
    beyond: int = 0
    strange: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """What did not cancel out, in rows.

    ``missing``: in the stream, not in the table; ``extra``: the other way; ``copies``: those of the extra whose like
    (with a key: whose record) is in the stream, so that they are there too often; ``changed``: with a key, those that
    are both missing and extra. ``places``: the records of the first missing ones. ``columns``: those that changed.
    """

    missing: int
    extra: int
    copies: int
    changed: int
    places: Sequence[tuple[Partition, int]]
    columns: Sequence[str] = ()


class NotComparableError(Exception):
    """Columns or types of the stream do not fit the table's; says which."""


class Bench:
    """One comparison. ``topics``: all that feed the table; ``folder``: where rows are kept meanwhile."""

    def __init__(self, engine: Engine, inspection: Inspection, topics: Sequence[str], folder: Path) -> None:
        self._view = quoted(inspection.table)
        self._current = CurrentNames(inspection.table)
        self._topics = list(topics)
        self._names = [field.name for field in inspection.table.schema().fields]
        self._columns = [f"c{k}" for k in range(len(self._names))]
        self._db = engine.workspace(folder, MEMORY)
        relation = self._db.sql(f"SELECT * FROM {self._view}")  # noqa: S608 - quoted
        self._types: list[DuckDBPyType] = list(relation.types)
        self._rows = f"(SELECT * FROM {self._view}) AS v({', '.join(self._columns)})"  # noqa: S608 - quoted
        self._db.execute(
            "CREATE TABLE work.rows AS SELECT 0::TINYINT AS n, 0::SMALLINT AS t, 0::INTEGER AS p, 0::BIGINT AS o, v.* "  # noqa: S608
            f"FROM {self._rows} LIMIT 0"
        )
        self._pending: list[pa.Table] = []
        self._size = 0

    def close(self) -> None:
        """Let go of the database in the folder."""
        self._db.execute("DETACH work")
        self._db.close()

    def hold(self, key: Key | None, spans: Mapping[Partition, Sequence[Span]], ends: Mapping[Partition, int]) -> Held:
        """Take the table's rows: all of them, or with a ``key`` those inside ``spans``; ``ends`` are the positions."""
        self._key = key
        if key is None:
            inside = self._changed(
                f"INSERT INTO work.rows SELECT 1, NULL, NULL, NULL, v.* FROM {self._rows}"  # noqa: S608 - quoted
            )
            return Held(inside, inside)
        self._db.execute("CREATE TABLE work.spans (t SMALLINT, topic VARCHAR, p INTEGER, a BIGINT, b BIGINT)")
        self._db.execute("CREATE TABLE work.ends (topic VARCHAR, p INTEGER, e BIGINT)")
        for partition, parts in spans.items():
            for span in _merged(parts):
                row = [self._topics.index(partition.topic), *partition, *span]
                self._db.execute("INSERT INTO work.spans VALUES (?, ?, ?, ?, ?)", row)
        self._db.executemany("INSERT INTO work.ends VALUES (?, ?, ?)", [[*p, end] for p, end in ends.items()])
        number, offset = self._column(key.partition), self._column(key.offset)
        topic = f" AND v.{self._column(key.topic)} = k.topic" if key.topic is not None else ""
        counts = self._row(
            f"SELECT count(*), count(k.p), count(*) FILTER (v.{offset} >= k.e) FROM {self._rows} "  # noqa: S608 - quoted
            f"LEFT JOIN work.ends k ON v.{number} = k.p AND v.{offset} IS NOT NULL{topic}"
        )
        inside = self._changed(
            f"INSERT INTO work.rows SELECT 1, k.t, k.p, v.{offset}, v.* FROM {self._rows} "  # noqa: S608 - quoted
            f"JOIN work.spans k ON v.{number} = k.p AND v.{offset} >= k.a AND v.{offset} < k.b{topic}"
        )
        return Held(counts[0], inside, counts[2], counts[0] - counts[1])

    def add(self, rows: pa.Table, topic: str, partition: NDArray[np.int32], offset: NDArray[np.int64]) -> None:
        """Take rows that the stream says, and which record each is.

        Raises:
            NotComparableError: a column that the table lacks, or whose values would change in the table's type.
        """
        rows = self._current.given(rows)
        unknown = [f.name for f in rows.schema if f.name not in self._names and not pa.types.is_null(f.type)]
        if unknown:
            raise NotComparableError(f"the records have a field that the table does not have: {unknown[0]}")
        count = len(rows)
        arrays: list[Any] = [
            pa.array(np.full(count, -1, np.int8)),
            pa.array(np.full(count, self._topics.index(topic), np.int16)),
            pa.array(partition),
            pa.array(offset),
        ]
        arrays += [rows.column(name) if name in rows.column_names else pa.nulls(count) for name in self._names]
        table = pa.table(arrays, names=["n", "t", "p", "o", *self._columns])
        if self._pending and self._pending[0].schema != table.schema:
            self._flush()
        self._pending.append(table)
        self._size += table.nbytes
        if self._size >= PENDING_BYTES or sum(map(len, self._pending)) >= PENDING_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        self._db.register("pending", pa.concat_tables(self._pending))
        relation = self._db.table("pending")
        for name, given, wanted in zip(self._names, relation.types[4:], self._types, strict=True):
            position = self._pending[0].schema.field(self._column(name)).type
            if not pa.types.is_null(position) and not fits(given, wanted):
                raise NotComparableError(f"column {name}: the records hold {given}, the table stores {wanted}")
        self._db.execute("INSERT INTO work.rows SELECT * FROM pending")
        self._db.unregister("pending")
        self._pending, self._size = [], 0

    def difference(self) -> Difference:
        """Group everything, and say what is left."""
        self._flush()
        columns = ", ".join(self._columns)
        # 0.0 and -0.0 are one group to SQL, and two values to us.
        signs = "".join(
            f", signbit({column})"
            for column, kind in zip(self._columns, self._types, strict=True)
            if kind.id in {"float", "double"}
        )
        self._db.execute(
            f"CREATE TABLE work.net AS SELECT {columns}, sum(n)::BIGINT AS net, count(*) FILTER (n < 0) AS said "  # noqa: S608
            f"FROM work.rows GROUP BY {columns}{signs} HAVING sum(n) <> 0"
        )
        missing, extra, copies = self._row(
            "SELECT coalesce(sum(-net) FILTER (net < 0), 0)::BIGINT, coalesce(sum(net) FILTER (net > 0), 0)::BIGINT, "
            "coalesce(sum(net) FILTER (net > 0 AND said > 0), 0)::BIGINT FROM work.net"
        )
        if self._key is None or not extra:
            return Difference(missing, extra, copies, 0, self._places() if missing else ())
        return self._by_key(self._key, missing, extra)

    def _by_key(self, key: Key, missing: int, extra: int) -> Difference:
        """The rest of a comparison whose rows name their record."""
        names = [self._column(name) for name in (key.topic, key.partition, key.offset) if name is not None]
        match = " AND ".join(f"a.{name} = b.{name}" for name in names)
        pairs = f"work.net a JOIN work.net b ON {match} AND a.net < 0 AND b.net > 0"
        changed = self._row(f"SELECT count(DISTINCT ({', '.join(f'a.{n}' for n in names)})) FROM {pairs}")[0]  # noqa: S608
        topic = " AND r.t = k.t" if key.topic is None else f" AND r.t = k.t AND a.{self._column(key.topic)} = k.topic"
        copies = self._row(
            "SELECT coalesce(sum(a.net), 0)::BIGINT FROM work.net a WHERE a.net > 0 AND EXISTS (SELECT 1 "  # noqa: S608
            "FROM work.rows r JOIN work.spans k ON r.p = k.p AND r.o >= k.a AND r.o < k.b"
            f" WHERE r.n < 0 AND r.p = a.{self._column(key.partition)} AND r.o = a.{self._column(key.offset)}{topic})"
        )[0]
        differing = ", ".join(f"count(*) FILTER (a.{c} IS DISTINCT FROM b.{c})" for c in self._columns)
        counts = self._row(f"SELECT {differing} FROM {pairs}") if changed else ()  # noqa: S608
        columns = [name for name, count in zip(self._names, counts, strict=False) if count]
        return Difference(missing, extra, copies, changed, self._places() if missing else (), columns)

    def _places(self) -> list[tuple[Partition, int]]:
        same = " AND ".join(f"r.{column} IS NOT DISTINCT FROM d.{column}" for column in self._columns)
        found = self._db.execute(
            "SELECT r.t, r.p, r.o FROM work.rows r WHERE r.n < 0 AND EXISTS (SELECT 1 FROM work.net d "  # noqa: S608
            f"WHERE d.net < 0 AND {same}) ORDER BY ALL LIMIT {SHOWN}"
        ).fetchall()
        return list(starmap(lambda t, p, o: (Partition(self._topics[t], p), o), found))

    def _column(self, name: str) -> str:
        return self._columns[self._names.index(name)]

    def _row(self, sql: str) -> tuple[Any, ...]:
        return self._db.execute(sql).fetchall()[0]

    def _changed(self, sql: str) -> int:
        """Run an INSERT; return how many rows it made."""
        return int(self._row(sql)[0])


def fits(given: DuckDBPyType, wanted: DuckDBPyType) -> bool:
    """Whether every value of ``given`` is one of ``wanted`` that means the same."""
    if given == wanted or (given.id, wanted.id) in _WIDER:
        return True
    if given.id != wanted.id:
        return False
    inner: dict[str, Any] = dict(given.children) if given.id in _NESTED or given.id == "decimal" else {}
    outer: dict[str, Any] = dict(wanted.children) if inner else {}
    if given.id == "decimal":
        return bool(inner["scale"] == outer["scale"] and inner["precision"] <= outer["precision"])
    return bool(inner) and all(name in outer and fits(kind, outer[name]) for name, kind in inner.items())


def _merged(spans: Sequence[Span]) -> list[Span]:
    """The same offsets, none twice."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def explained(error: duckdb.Error) -> str:
    """The first line of what DuckDB says; it names files and types."""
    return str(error).strip().splitlines()[0]
