"""What the rows of a change stream do to the rows of their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Effect(IntEnum):
    """What a change does. `MARK` is a deletion that keeps the row: its values are all absent but those that mark it."""

    UPSERT = 0
    """The row is what its key holds from now on."""
    DELETE = 1
    """The key holds no row any more; of the row only the key columns count."""
    MARK = 2
    """As `UPSERT` where the key holds a row, else nothing."""
    TRUNCATE = 3
    """No key holds a row any more; nothing of the row counts."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What each of ``n`` rows does.

    Shapes and types: ``key`` names the rows' columns that identify them; ``effect`` uint8[n], of `Effect`; ``absent``
    has bool[n] for each column whose value some changes leave out, true where it stays what it was (an unchanged TOAST
    value, a field that an update does not name) and the row holds null. A column without an entry is left out nowhere.
    ``order`` int64[n] tells where each stands in the stream, where that is not as they are listed: rows of two schemas,
    or of values and of tombstones, take turns in a topic and lie in two parts. ``former`` has the columns ``key`` as
    they were before, for rows that were created by changing their key (null for all others): what those leave out is
    what the row of that key held.
    """

    key: tuple[str, ...]
    effect: NDArray[np.uint8]
    absent: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    order: NDArray[np.int64] | None = None
    former: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.effect)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        order = 0 if self.order is None else self.order.nbytes
        return int(self.effect.nbytes + order + sum(mask.nbytes for mask in self.absent.values()))

    @staticmethod
    def upserts(key: tuple[str, ...], rows: int) -> Changes:
        """Changes that each put a whole row in place."""
        return Changes(key, np.zeros(rows, np.uint8))

    def select(self, rows: NDArray[np.int64]) -> Changes:
        """The changes at ``rows``."""
        absent = {name: chosen for name, mask in self.absent.items() if (chosen := mask[rows]).any()}
        order = None if self.order is None else self.order[rows]
        former = None if self.former is None else self.former.take(pa.array(rows))
        return Changes(self.key, self.effect[rows], absent, order, former)

    def renamed(self, names: Mapping[str, str]) -> Changes:
        """The changes of rows whose columns were renamed: old name to new."""
        absent = {names.get(name, name): mask for name, mask in self.absent.items()}
        key = tuple(names.get(name, name) for name in self.key)
        former = self.former
        if former is not None:
            former = former.rename_columns([names.get(name, name) for name in former.column_names])
        return replace(self, key=key, absent=absent, former=former)

    @staticmethod
    def joined(several: Sequence[Changes]) -> Changes:
        """One after the other; ``order`` is kept where all of them have one.

        Truncations need no key: where they come alone, they know none, and go with that of the others.

        Raises:
            ValueError: there are none, or they do not agree on the key.
        """
        keys = {changes.key for changes in several if changes.key} or {changes.key for changes in several}
        if len(keys) != 1:
            raise ValueError(f"changes of {len(keys)} different keys cannot be joined")
        names = {name: None for changes in several for name in changes.absent}
        absent = {
            name: np.concatenate([one.absent.get(name, np.zeros(len(one), np.bool_)) for one in several])
            for name in names
        }
        orders = [one.order for one in several if one.order is not None]
        order = np.concatenate(orders) if len(orders) == len(several) else None
        (key,) = keys
        return Changes(key, np.concatenate([one.effect for one in several]), absent, order, _former(several, key))


def _former(several: Sequence[Changes], key: tuple[str, ...]) -> pa.Table | None:
    """``key``: that of all of them together; a truncation that comes alone knows none."""
    if all(one.former is None for one in several):
        return None
    return pa.concat_tables(
        [pa.table({name: pa.nulls(len(one)) for name in key}) if one.former is None else one.former for one in several],
        promote_options="permissive",
    )


@dataclass(frozen=True, slots=True)
class Events:
    """What a change event tells besides the row: the columns that `metadata_columns` can name.

    Arrow arrays of ``n``: ``operation`` string, as the source writes it (Debezium: ``c``, ``u``, ``d``, ``r``, ``t``);
    ``source_timestamp`` timestamp(us, UTC), when the source committed the change; ``source_position`` string, where in
    the source's own log it stands (PostgreSQL: the LSN as text, ``0/16B3748``). Null where an event does not tell.
    """

    operation: pa.Array
    source_timestamp: pa.Array
    source_position: pa.Array

    def select(self, rows: NDArray[np.int64]) -> Events:
        """The events of the rows at ``rows``."""
        at = pa.array(rows)
        return Events(self.operation.take(at), self.source_timestamp.take(at), self.source_position.take(at))
