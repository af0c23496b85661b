"""What a dead-letter table says about one table's letters: which count, and which are rows by now (PROTOCOL D2, D4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakeward.dead_letters.rows import MOMENT, PLACE, SCHEMA, Kind, Owner
from lakeward.ledger import LedgerEntry
from lakeward.letters import Confirmed

PAYLOAD = ("key", "value", "headers")
"""The columns that may be large; they are read only for the letters that are shown or tried again."""
KEYS = (*PLACE, "batch")
"""A letter's name: where its record was, and the commit that brought it."""


class Shelf(Protocol):
    """A table that can be read as a whole."""

    def rows(self, columns: Sequence[str], only: tuple[str, Collection[str]] | None = None) -> pa.Table | None:
        """Its rows, or those where a column has one of some values; None where there is no table."""


@dataclass(frozen=True, slots=True)
class Book:
    """Letters without what they carry, sorted by place; the last trial in vain has the last word about its letter.

    ``open`` count and are no rows yet; ``replayed`` are rows. Besides the columns of SCHEMA they have ``last_seen``.
    ``void`` is how many do not count: their commit was refused, died, or was rolled back.
    """

    open: pa.Table
    replayed: pa.Table
    void: int


def read(shelf: Shelf, owner: Owner, entry: LedgerEntry | None) -> Book:
    """What ``shelf`` says about the letters of ``owner``, whose table is at ``entry``.

    Load the entry first: what it counts was durable in the dead-letter table before it.
    """
    columns = [name for name in SCHEMA.names if name not in PAYLOAD]
    rows = _rows(shelf, columns, ("table", [owner.table]))
    if rows is None or entry is None:
        none = _last_words(_schema(columns).empty_table(), [])
        return Book(none, none, 0 if rows is None else len(_of(rows, Kind.LETTER, owner)))
    confirmed: dict[str, list[Confirmed]] = {}
    for note in _of(rows, Kind.CONFIRMED, owner).select(["batch", "line", "number"]).to_pylist():
        confirmed.setdefault(note["batch"], []).append(Confirmed(note["line"], note["number"]))

    def counting(kind: Kind) -> tuple[pa.Table, int]:
        all_ = _of(rows, kind, owner)
        commits = pc.unique(all_.column("batch")).to_pylist()
        alive = [c for c in commits if entry.letters.count(c, entry.number, confirmed.get(c, ()))]
        counted = all_.filter(pc.is_in(all_.column("batch"), pa.array(alive, pa.string())))
        return counted, len(all_) - len(counted)

    letters, void = counting(Kind.LETTER)
    letters = letters.sort_by([(name, "ascending") for name in KEYS])
    back = _among(letters, counting(Kind.REPLAY)[0])
    letters = _last_words(letters, _of(rows, Kind.FAILED, owner).sort_by("seen_at").to_pylist())
    return Book(letters.filter(pa.array(~back)), letters.filter(pa.array(back)), void)


def with_payload(shelf: Shelf, letters: pa.Table) -> pa.Table:
    """``letters`` as all columns tell them, in their order."""
    commits = pc.unique(letters.column("batch")).to_pylist()
    rows = _rows(shelf, SCHEMA.names, ("batch", commits))
    if rows is None:
        return SCHEMA.empty_table()
    rows = rows.filter(pc.equal(rows.column("kind"), Kind.LETTER.value))
    numbered = letters.select(KEYS).append_column("at", pa.array(np.arange(len(letters))))
    indexed = rows.select(KEYS).append_column("from", pa.array(np.arange(len(rows))))
    joined = numbered.join(indexed, list(KEYS), join_type="inner").sort_by("at")
    return rows.take(joined.column("from"))


def _schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([SCHEMA.field(name) for name in columns])


def _rows(shelf: Shelf, columns: Sequence[str], only: tuple[str, Collection[str]]) -> pa.Table | None:
    rows = shelf.rows(columns, only)
    return None if rows is None else rows.cast(_schema(columns))


def _of(rows: pa.Table, kind: Kind, owner: Owner) -> pa.Table:
    mine = pc.and_(pc.equal(rows.column("kind"), kind.value), pc.equal(rows.column("pipeline"), owner.pipeline))
    return rows.filter(mine)


def _last_words(letters: pa.Table, trials: Sequence[Mapping[str, Any]]) -> pa.Table:
    """``letters`` with the reason of the last of ``trials``, which are in the order of time, and when that was."""
    if not trials:
        return letters.append_column("last_seen", letters.column("seen_at"))
    last = {(*(trial[name] for name in PLACE), trial["letter"]): trial for trial in trials}
    names = zip(*(letters.column(name).to_pylist() for name in KEYS), strict=True)
    rows = [last.get(name, letter) for name, letter in zip(names, letters.to_pylist(), strict=True)]
    for column in ("code", "message"):
        values = pa.array([row[column] for row in rows], pa.string())
        letters = letters.set_column(letters.schema.get_field_index(column), column, values)
    return letters.append_column("last_seen", pa.array([row["seen_at"] for row in rows], MOMENT))


def _among(letters: pa.Table, replays: pa.Table) -> NDArray[np.bool_]:
    """Which of ``letters`` are named by ``replays``."""
    named = replays.select([*PLACE, "letter"]).rename_columns([*KEYS]).group_by(list(KEYS)).aggregate([])
    numbered = letters.select(KEYS).append_column("at", pa.array(np.arange(len(letters))))
    found = numbered.join(named, list(KEYS), join_type="left semi").column("at").to_numpy()
    mask = np.zeros(len(letters), np.bool_)
    mask[found] = True
    return mask
