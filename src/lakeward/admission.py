"""Whether rows fit a table: what a target answers about a schema, and where rows leave null what may not be null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

ALIASES = b"lakeward.aliases"
"""Where an Arrow field's metadata keeps the names that the field had before: a JSON list of texts."""

Path = tuple[str, ...]
"""Where a value is in a row: names of fields; below a list ``element``, below a map ``key`` or ``value``."""


class SchemaChanges(StrEnum):
    """What is done with records whose columns do not fit the table as it stands."""

    EVOLVE = "evolve"
    DEAD_LETTER = "dead-letter"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Required:
    """A value that the table requires and records may leave null. ``relaxable``: the table can stop requiring it."""

    path: Path
    relaxable: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """What rows of one schema mean for a table.

    ``misfit`` says why they can never be written to it, and names the column and both types; None where they can.
    ``changes`` are those that the table needs first, in words. ``creates``: there is no table yet. ``required``:
    which of the values that may be null the table requires.
    """

    changes: tuple[str, ...] = ()
    misfit: str | None = None
    creates: bool = False
    required: tuple[Required, ...] = ()


class Outlook(Protocol):
    """A table's columns as they were last seen; never changes, so that it may be used while a commit is under way."""

    def admit(self, schema: pa.Schema, pending: Sequence[pa.Schema]) -> Admission:
        """What rows of ``schema`` mean, once the table has taken rows of each schema in ``pending``."""


def null_rows(rows: pa.Table, path: Path) -> NDArray[np.bool_]:
    """Which rows hold a null at ``path`` although what it belongs to is there; bool[rows]."""
    name, *inside = path
    column = rows.column(name)
    masks = [_nulls(chunk, inside) for chunk in column.chunks]
    return np.concatenate(masks) if masks else np.zeros(0, np.bool_)


def _nulls(values: pa.Array, path: Sequence[str]) -> NDArray[np.bool_]:
    if not path:
        return _mask(values.is_null())
    found = np.zeros(len(values), np.bool_)
    if pa.types.is_null(values.type) or not len(values):
        return found
    step, *inside = path
    if pa.types.is_struct(values.type):
        missing: NDArray[np.bool_] = _nulls(values.field(step), inside) & _mask(values.is_valid())
        return missing
    if pa.types.is_map(values.type):
        values = values.cast(pa.list_(pa.struct([values.type.key_field, values.type.item_field])))
        items = values.flatten().field(0 if step == "key" else 1)
    else:
        items = values.flatten()
    found[pc.list_parent_indices(values).to_numpy()[_nulls(items, inside)]] = True
    return found


def _mask(values: pa.BooleanArray) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = values.to_numpy(zero_copy_only=False)
    return mask
