"""Rows whose key was changed at their source: what they leave out is what the row of their former key held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.changes import Changes, Effect
from lakeward.keys import Hashes, hashes


@dataclass(frozen=True, slots=True)
class Moved:
    """Changes some of whose values only the table knows, under a former key.

    ``at`` int64[m]: which changes; ``origin`` uint64[m, 2]: the hashes of the keys under which the table has them.
    """

    at: NDArray[np.int64]
    origin: Hashes


def carried(rows: pa.Table, changes: Changes, keys: Hashes) -> tuple[pa.Table, Changes, Moved]:
    """``rows`` and ``changes`` (``keys`` are their hashes), with what these changes themselves tell of former keys."""
    moved = _moved(changes)
    if changes.former is None or not len(moved):
        return rows, changes, Moved(np.empty(0, np.int64), np.empty((0, 2), np.uint64))
    former = hashes(_typed(changes.former.take(pa.array(moved)), rows.schema))
    taking = _Taking(changes, _places(keys, former))
    for at, key in zip(moved.tolist(), (one.tobytes() for one in former), strict=True):
        taking.take(at, key)
    for name, source in taking.sources.items():
        if (source != np.arange(len(source))).any():
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, rows.schema.field(place), rows.column(place).take(pa.array(source)))
    origin = b"".join(taking.origin.values())
    told = Moved(np.array(list(taking.origin), np.int64), np.frombuffer(origin, np.uint64).reshape(-1, 2))
    return rows, replace(changes, absent=taking.absent, former=None), told


def _moved(changes: Changes) -> NDArray[np.int64]:
    """The changes that have a former key, and leave something out."""
    if changes.former is None:
        return np.empty(0, np.int64)
    lacking = np.zeros(len(changes), np.bool_)
    for mask in changes.absent.values():
        lacking |= mask
    return np.flatnonzero(lacking & changes.former.column(changes.key[0]).is_valid().to_numpy())


def _typed(former: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = {name: former.column(name).cast(schema.field(name).type) for name in former.column_names}
    return pa.table(columns)


def _places(keys: Hashes, wanted: Hashes) -> Mapping[bytes, list[int]]:
    """Where the changes of each wanted key are, ascending."""
    places: dict[bytes, list[int]] = {key.tobytes(): [] for key in wanted}
    for at in np.flatnonzero(np.isin(keys[:, 0], wanted[:, 0])).tolist():
        found = places.get(keys[at].tobytes())
        if found is not None:
            found.append(at)
    return places


class _Taking:
    """Follows rows to their former keys, in the order of the stream."""

    def __init__(self, changes: Changes, places: Mapping[bytes, list[int]]) -> None:
        self.absent = {name: mask.copy() for name, mask in changes.absent.items()}
        self.sources = {name: np.arange(len(changes)) for name in changes.absent}
        self.origin: dict[int, bytes] = {}
        self._effect = changes.effect
        self._places = places

    def take(self, at: int, former: bytes) -> None:
        life, since = self._life([place for place in self._places[former] if place < at])
        for name, mask in self.absent.items():
            carrier = next((place for place in reversed(life) if not mask[place]), None) if mask[at] else None
            if carrier is not None:
                self.sources[name][at] = self.sources[name][carrier]
                mask[at] = False
        if not any(mask[at] for mask in self.absent.values()):
            return
        if life and life[0] in self.origin:  # its key had been changed before
            self.origin[at] = self.origin[life[0]]
        elif not since:
            self.origin[at] = former

    def _life(self, places: Sequence[int]) -> tuple[list[int], bool]:
        """The changes of the row that a key held last, and whether these changes tell of its beginning."""
        gone = [k for k, place in enumerate(places) if self._effect[place] == Effect.DELETE]
        if gone and gone[-1] == len(places) - 1:  # deleted, by the change of its key: what it held before that
            while gone and gone[-1] == len(places) - 1:
                places = places[:-1]
                gone.pop()
        start = gone[-1] + 1 if gone else 0
        return list(places[start:]), bool(gone)
