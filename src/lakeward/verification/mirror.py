"""A mirror against its stream: the last change of each key, worked out anew by DuckDB, and the row of the table.

Nothing of the writer is used but the decoder: no collapse, no index, no reader of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lakeward.changes import Effect
from lakeward.engine import Engine, quoted
from lakeward.records import DecodedPart, RawBatch
from lakeward.sinks.iceberg.inspection import Inspection
from lakeward.verification.bench import MEMORY, NotComparableError, fits
from lakeward.verification.names import CurrentNames
from lakeward.verification.verdict import SHOWN


@dataclass(frozen=True, slots=True)
class MirrorDifference:
    """What differs, in rows. ``keys``: how many keys the stream still tells of; ``rows``: how many of them hold one.

    ``missing``: the stream has a row, the table none; ``extra``: the other way, though the stream tells of the key;
    ``changed``: other values; ``columns``: which. ``untold``: rows of keys whose beginning the stream does not tell;
    ``wandering``: keys with changes in several partitions, whose order nobody knows here.
    """

    keys: int
    rows: int
    missing: int
    extra: int
    changed: int
    columns: Sequence[str]
    untold: int
    wandering: int


class MirrorBench:
    """One comparison. ``compared``: the columns whose values the stream tells; ``folder`` holds what is read."""

    def __init__(self, engine: Engine, inspection: Inspection, compared: Sequence[str], folder: Path) -> None:
        self._table = quoted(inspection.table)
        self._current = CurrentNames(inspection.table)
        self._key = list(inspection.key)
        self._names = list(compared)
        self._db = engine.workspace(folder, MEMORY)
        chosen = ", ".join(map(_quoted, self._names))
        relation = self._db.sql(f"SELECT {chosen} FROM {self._table}")  # noqa: S608 - quoted
        self._types = list(relation.types)
        absent = ", ".join(f"false AS a{k}" for k in range(len(self._names)))
        columns = ", ".join(f"{_quoted(name)} AS c{k}" for k, name in enumerate(self._names))
        self._db.execute(
            "CREATE TABLE work.changes AS SELECT 0::BIGINT AS seq, 0::INTEGER AS home, 0::TINYINT AS effect, "  # noqa: S608 - quoted
            f"{columns}, {absent} FROM {self._table} LIMIT 0"
        )
        self._seen = 0

    def close(self) -> None:
        """Let go of the database in the folder."""
        self._db.execute("DETACH work")
        self._db.close()

    def add(self, raw: RawBatch, parts: Sequence[tuple[DecodedPart, pa.Table]]) -> None:
        """Take the changes of ``raw``: parts with the rows that they would become.

        Raises:
            NotComparableError: a column that the table lacks, or whose values would change in the table's type.
        """
        for part, given in parts:
            if part.changes is None:
                continue
            rows = self._current.given(given)
            absent = part.changes.absent
            arrays = [
                pa.array(part.index + self._seen),
                pa.array(raw.partition[part.index]),
                pa.array(part.changes.effect.astype(np.int8)),
                *[rows.column(name) if name in rows.column_names else pa.nulls(len(rows)) for name in self._names],
                *[pa.array(absent.get(name, np.zeros(len(rows), np.bool_))) for name in self._names],
            ]
            names = ["seq", "home", "effect"]
            names += [f"c{k}" for k in range(len(self._names))] + [f"a{k}" for k in range(len(self._names))]
            self._db.register("pending", pa.table(arrays, names=names))
            relation = self._db.table("pending")
            given_types = zip(self._names, relation.types[3:], self._types, arrays[3:], strict=False)
            for name, mine, wanted, values in given_types:
                if not pa.types.is_null(values.type) and not fits(mine, wanted):
                    raise NotComparableError(f"column {name}: the records hold {mine}, the table stores {wanted}")
            self._db.execute("INSERT INTO work.changes SELECT * FROM pending")
            self._db.unregister("pending")
        self._seen += len(raw)

    def difference(self) -> MirrorDifference:
        """Work out what each key should hold, and compare."""
        at = [self._names.index(name) for name in self._key]
        key = ", ".join(f"c{k}" for k in at)
        same = " AND ".join(f"g.c{k} = s.c{k}" for k in at)
        truncated = f"(SELECT coalesce(max(seq), -1) FROM work.changes WHERE effect = {Effect.TRUNCATE})"  # noqa: S608 - a number
        values = ", ".join(
            f"arg_max_null(s.c{k}, s.seq) FILTER (WHERE NOT s.a{k}) AS c{k}, bool_or(NOT s.a{k}) AS t{k}"
            for k in range(len(self._names))
            if k not in at
        )
        keys = ", ".join(f"s.c{k}" for k in at)
        self._db.execute(
            f"CREATE TABLE work.gone AS SELECT {key}, greatest({truncated}, "  # noqa: S608 - names of our own, numbers
            f"coalesce(max(seq) FILTER (WHERE effect = {Effect.DELETE}), -1)) AS gone, "
            f"count(DISTINCT home) FILTER (WHERE effect <> {Effect.TRUNCATE}) AS homes "
            f"FROM work.changes WHERE effect <> {Effect.TRUNCATE} GROUP BY {key}"
        )
        self._db.execute(
            f"CREATE TABLE work.said AS SELECT {keys}{', ' if values else ''}{values} "  # noqa: S608 - as above
            f"FROM work.changes s JOIN work.gone g ON {same} AND s.seq > g.gone "
            f"WHERE s.effect <> {Effect.TRUNCATE} AND g.homes = 1 GROUP BY {keys} "
            f"HAVING bool_or(s.effect = {Effect.UPSERT})"
        )
        return self._compared(at)

    def _compared(self, at: Sequence[int]) -> MirrorDifference:
        held = ", ".join(f"{_quoted(name)} AS c{k}" for k, name in enumerate(self._names))
        table = f"(SELECT {held}, true AS there FROM {self._table})"  # noqa: S608 - quoted
        same = " AND ".join(f"s.c{k} = h.c{k}" for k in at)
        known = " AND ".join(f"g.c{k} = h.c{k}" for k in at)
        others = [k for k in range(len(self._names)) if k not in at]
        differs = {k: f"(s.t{k} AND {_distinct(f's.c{k}', f'h.c{k}', str(self._types[k]))})" for k in others}
        counts = ", ".join(f"count(*) FILTER (WHERE {differs[k]})" for k in others)
        changed, *by_column = self._row(
            f"SELECT count(*) FILTER (WHERE {' OR '.join(differs.values()) or 'false'})"  # noqa: S608 - quoted
            f"{', ' if counts else ''}{counts} "
            f"FROM work.said s JOIN {table} h ON {same}"
        )
        (missing,) = self._row(f"SELECT count(*) FROM work.said s ANTI JOIN {table} h ON {same}")  # noqa: S608
        # A key that was only marked, or changed in part, may have had its row before all that is told here.
        (untold,) = self._row(
            f"SELECT count(*) FROM {table} h LEFT JOIN work.gone g ON {known} ANTI JOIN work.said s ON {same} "  # noqa: S608
            "WHERE g.homes IS NULL OR (g.homes = 1 AND g.gone < 0)"
        )
        (extra,) = self._row(
            f"SELECT count(*) FROM {table} h JOIN work.gone g ON {known} ANTI JOIN work.said s ON {same} "  # noqa: S608
            "WHERE g.homes = 1 AND g.gone >= 0"
        )
        keys, wandering = self._row("SELECT count(*), count(*) FILTER (WHERE homes > 1) FROM work.gone")
        (rows,) = self._row("SELECT count(*) FROM work.said")
        columns = [self._names[k] for k, count in zip(others, by_column, strict=True) if count][:SHOWN]
        return MirrorDifference(keys, rows, missing, extra, changed, columns, untold, wandering)

    def _row(self, sql: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self._db.execute(sql).fetchall()[0])


def _distinct(one: str, other: str, kind: str) -> str:
    if kind in {"FLOAT", "DOUBLE"}:  # 0.0 and -0.0 are equal to SQL, and two values to us
        return f"({one} IS DISTINCT FROM {other} OR signbit({one}) IS DISTINCT FROM signbit({other}))"
    return f"{one} IS DISTINCT FROM {other}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
