"""Sort keys as integers: the order of rows by any columns, found by one native sort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_KEY_BITS = 64
_LONG_DIGITS = 18
"""Decimals of so many digits fit the low half of their 128 bits, sign included."""


@dataclass(frozen=True, slots=True)
class Key:
    """One sort key, ascending: ``values`` uint64[rows], each below ``2**bits``."""

    values: NDArray[np.uint64]
    bits: int


def column_keys(column: pa.Array, *, descending: bool, nulls_first: bool) -> list[Key]:
    """The keys, most significant first, that order rows by one column of an Iceberg primitive type.

    Floats order as Iceberg has them: -0.0 before 0.0, NaN above everything.
    """
    keys = []
    nulls = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    if nulls is not None:
        keys.append(Key((~nulls if nulls_first else nulls).astype(np.uint64), 1))
    for values in _ordinals(column):
        if nulls is not None:
            # Nulls are all alike to the less significant keys, and must not widen this one.
            values = np.where(nulls, values[~nulls][0] if not nulls.all() else 0, values)  # noqa: PLW2901
        key = dense_key(values)
        if descending:
            top = np.uint64(2**key.bits - 1)
            key = Key(top - key.values, key.bits)
        keys.append(key)
    return keys


def dense_key(values: NDArray[np.generic]) -> Key:
    """A key of as few bits as the range of ``values`` (any integers) needs."""
    if not len(values):
        return Key(values.astype(np.uint64), 0)
    low, high = int(values.min()), int(values.max())
    wide = values.astype(np.uint64) - np.uint64(low % 2**_KEY_BITS)
    return Key(wide, (high - low).bit_length())


def order(keys: Sequence[Key]) -> NDArray[np.int64] | None:
    """The stable order of the rows by ``keys``, most significant first; None where they are in order already."""
    packed = [key.values for key in _pack(keys)]
    if not packed or _ascending(packed):
        return None
    if len(packed) == 1:
        return np.argsort(packed[0], kind="stable")
    return np.lexsort(packed[::-1])


def _pack(keys: Sequence[Key]) -> list[Key]:
    """As few keys as possible: neighbours share 64 bits where they fit; constants vanish."""
    packed: list[Key] = []
    for key in keys:
        if not key.bits:
            continue
        if packed and packed[-1].bits + key.bits <= _KEY_BITS:
            before = packed.pop()
            key = Key((before.values << np.uint64(key.bits)) | key.values, before.bits + key.bits)  # noqa: PLW2901
        packed.append(key)
    return packed


def _ascending(packed: Sequence[NDArray[np.uint64]]) -> bool:
    in_order: NDArray[np.bool_] | None = None
    for values in reversed(packed):
        before, after = values[:-1], values[1:]
        in_order = before <= after if in_order is None else (before < after) | ((before == after) & in_order)
    return in_order is None or bool(in_order.all())


def _ordinals(column: pa.Array) -> list[NDArray[np.generic]]:
    """Integers that order as the values do, most significant first; anything where null."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return [column.cast(pa.uint8()).fill_null(0).to_numpy(zero_copy_only=False)]
    if pa.types.is_floating(kind):
        return [_float_ordinals(column)]
    if pa.types.is_decimal(kind):
        halves = np.frombuffer(column.buffers()[1], np.int64)[2 * column.offset :][: 2 * len(column)].reshape(-1, 2)
        low, high = halves[:, 0], halves[:, 1]
        return [low] if kind.precision <= _LONG_DIGITS else [high, low.astype(np.uint64)]
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        return [_as_integers(column)]
    return [_ranks(column)]


def _as_integers(column: pa.Array) -> NDArray[np.generic]:
    width = np.dtype(f"i{column.type.bit_width // 8}")
    return np.frombuffer(column.buffers()[1], width)[column.offset :][: len(column)]


def _float_ordinals(column: pa.Array) -> NDArray[np.generic]:
    wide: NDArray[np.float64] = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    bits = np.where(np.isnan(wide), np.nan, wide).view(np.int64)
    # Negative floats grow as their bits do in the wrong direction: flip all but the sign.
    return bits ^ ((bits >> 63) & np.int64(2**63 - 1))


def _ranks(column: pa.Array) -> NDArray[np.generic]:
    """Strings and bytes: sort each distinct value once."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    encoded = column.dictionary_encode()
    ranks: NDArray[np.int64] = np.empty(len(encoded.dictionary), np.int64)
    ranks[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(ranks))
    if not len(ranks):
        return np.zeros(len(column), np.int64)
    indices: NDArray[np.int32] = encoded.indices.fill_null(0).to_numpy()
    return ranks[indices]
