"""Many changes become what they leave behind: at most one row a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.changes import Changes, Effect
from lakeward.compiled import compiled, read_only
from lakeward.keys import Hashes, hashes
from lakeward.moves import carried

_U = np.uint64
_UPSERT, _DELETE, _MARK = int(Effect.UPSERT), int(Effect.DELETE), int(Effect.MARK)


@dataclass(frozen=True, slots=True)
class Collapsed:
    """What a batch of changes leaves behind, for whoever applies it to a table.

    ``truncates``: all that the table held before goes. ``rows``: one row for each key that holds one afterwards, in
    the order of the keys' last changes; ``hashes`` are those of their keys, as `lakeward.keys.hashes` makes them.

    ``absent``: bool[rows] for each column of which some rows have no value: none of the changes carries one since the
    key was last deleted (or the table truncated, or the batch began), so that the row which the table holds for the
    key keeps its own. The value in ``rows`` is null there. ``sources`` are the hashes of the keys whose rows in the
    table have these values: the row's own, or the one that it had before its key was changed. ``marks``: bool[rows],
    true where the row counts only if the table holds one for its key; nothing is to be done where it holds none.

    ``deleted``: the key columns of keys that hold no row afterwards, each once, with their hashes in
    ``deleted_hashes``; none where ``truncates``, which deletes them all.

    ``unknown``: how many values, over all ``rows``, are null because no change carries them since the key was last
    deleted in this batch, so that nobody knows them.
    """

    truncates: bool
    rows: pa.Table
    hashes: Hashes
    absent: Mapping[str, NDArray[np.bool_]]
    sources: Hashes
    marks: NDArray[np.bool_]
    deleted: pa.Table
    deleted_hashes: Hashes
    unknown: int


def collapse(rows: pa.Table, changes: Changes) -> Collapsed:
    """What ``changes`` leave behind, in the order of the stream; ``rows`` are theirs, as many, and listed as they are.

    A value that a change leaves out is the one that the last change before it carries, as long as the key was not
    deleted in between; a `MARK` counts among those that carry values, and does nothing where the key holds no row.

    Raises:
        ValueError: a key column is null in a change that is not a truncation, or has a type that has no equality.
    """
    rows, changes = _in_order(rows, changes)
    cut = _after_truncations(changes)
    truncates = cut > 0
    if truncates:
        rows, changes = rows.slice(cut), changes.select(np.arange(cut, len(changes)))
    keys = hashes(rows.select(list(changes.key)))
    rows, changes, moved = carried(rows, changes, keys)
    effect = read_only(changes.effect)
    fates = _Fates.of(keys, effect, truncated=truncates)
    at, owner = fates.survivors()
    gone = np.zeros(0, np.int64) if truncates else np.sort(fates.begin[fates.dead])
    images = rows if len(at) == len(rows) else rows.combine_chunks().take(pa.array(at))
    origin = fates.origins(moved.at)[owner]
    fresh = (fates.begin[owner] >= 0) & (origin < 0)
    sources = keys[at]
    sources[origin >= 0] = moved.origin[origin[origin >= 0]]
    absent: dict[str, NDArray[np.bool_]] = {}
    unknown = 0
    for name, mask in changes.absent.items():
        if name in changes.key:
            continue
        carriers = np.full(len(fates.last), -1, np.int64)
        _carriers(fates.key_of, effect, read_only(mask), fates.begin, carriers)
        source = carriers[owner]
        nowhere = source < 0
        source[nowhere] = at[nowhere]  # where it is null
        if not np.array_equal(source, at):
            place = images.schema.get_field_index(name)
            values = rows.column(place).take(pa.array(source))
            images = images.set_column(place, images.schema.field(place), values)
        if truncates:
            unknown += int(nowhere.sum())
            continue
        unknown += int((nowhere & fresh).sum())
        if (old := nowhere & ~fresh).any():
            absent[name] = old
    return Collapsed(
        truncates=truncates,
        rows=images,
        hashes=keys[at],
        absent=absent,
        sources=sources,
        marks=fates.marks[owner],
        deleted=rows.select(list(changes.key)).take(pa.array(gone)),
        deleted_hashes=keys[gone],
        unknown=unknown,
    )


def _in_order(rows: pa.Table, changes: Changes) -> tuple[pa.Table, Changes]:
    """Both, listed in the order of the stream: parts of one fetch take turns in it."""
    order = changes.order
    if order is None or (order[1:] > order[:-1]).all():
        return rows, changes
    places = np.argsort(order, kind="stable")
    return rows.combine_chunks().take(pa.array(places)), changes.select(places)


def _after_truncations(changes: Changes) -> int:
    """Where the changes begin that no truncation follows."""
    truncations = np.flatnonzero(changes.effect == Effect.TRUNCATE)
    return int(truncations[-1]) + 1 if len(truncations) else 0


@dataclass(frozen=True, slots=True)
class _Fates:
    """What becomes of each key, the keys numbered by their first change.

    ``key_of``: each change's key. ``last``: each key's last change. ``begin``: its last deletion, or whatever has
    changed nothing since; -1 where there is none. ``dead``: it holds no row in the end. ``marks``: as in `Collapsed`.
    """

    key_of: NDArray[np.int32]
    last: NDArray[np.int64]
    begin: NDArray[np.int64]
    dead: NDArray[np.bool_]
    marks: NDArray[np.bool_]

    @staticmethod
    def of(keys: Hashes, effect: NDArray[np.uint8], *, truncated: bool) -> _Fates:
        """``truncated``: no key holds a row to begin with."""
        count = len(effect)
        slots = np.zeros(1 << max(4, (2 * count - 1).bit_length()), np.int32)
        fates = _Fates(
            np.empty(count, np.int32),
            np.empty(count, np.int64),
            np.full(count, -1, np.int64),
            np.full(count, truncated),
            np.zeros(count, np.bool_),
        )
        known = _follow(keys, effect, slots, fates.key_of, fates.last, fates.begin, fates.dead, fates.marks)
        return _Fates(fates.key_of, fates.last[:known], fates.begin[:known], fates.dead[:known], fates.marks[:known])

    def origins(self, moved: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each key, which of the changes ``moved`` has made the row that it holds; -1 where none has."""
        origins = np.full(len(self.last), -1, np.int64)
        for number, at in enumerate(moved.tolist()):
            if at > self.begin[self.key_of[at]]:
                origins[self.key_of[at]] = number
        return origins

    def survivors(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The last changes of the keys that hold a row, in order; and the keys."""
        final = np.zeros(len(self.key_of), np.bool_)
        final[self.last[~self.dead]] = True
        at = np.flatnonzero(final)
        return at, self.key_of[at]


@compiled
def _follow(  # noqa: PLR0913, PLR0917 -- compiled code takes arrays, not objects
    keys: Hashes,
    effect: NDArray[np.uint8],
    slots: NDArray[np.int32],
    key_of: NDArray[np.int32],
    last: NDArray[np.int64],
    begin: NDArray[np.int64],
    dead: NDArray[np.bool_],
    marks: NDArray[np.bool_],
) -> int:
    """Fill in the fates; return how many keys there are. ``slots`` is a hash table: a key's number + 1, or 0."""
    known = 0
    mask = _U(len(slots) - 1)
    for i in range(len(keys)):
        slot = keys[i, 0] & mask
        new = False
        while True:
            key = slots[slot] - 1
            if key < 0:
                key = known
                known += 1
                slots[slot] = known
                new = True
                break
            if keys[last[key], 0] == keys[i, 0] and keys[last[key], 1] == keys[i, 1]:
                break
            slot = (slot + _U(1)) & mask
        key_of[i] = key
        last[key] = i
        if effect[i] == _UPSERT:
            dead[key] = False
            marks[key] = False
        elif effect[i] == _DELETE or dead[key]:
            dead[key] = True
            marks[key] = False
            begin[key] = i
        elif new:
            marks[key] = True
    return known


@compiled
def _carriers(
    key_of: NDArray[np.int32],
    effect: NDArray[np.uint8],
    absent: NDArray[np.bool_],
    begin: NDArray[np.int64],
    carriers: NDArray[np.int64],
) -> None:
    """For each key, the last change that carries a column's value and still counts; others stay as they are."""
    for i in range(len(key_of)):
        if not absent[i] and effect[i] != _DELETE and i > begin[key_of[i]]:
            carriers[key_of[i]] = i
