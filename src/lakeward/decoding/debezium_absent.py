"""Values that an event leaves out: PostgreSQL does not tell a large one that an update has not touched (TOAST)."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.decoding.debezium_members import NDMask

PLACEHOLDER = "__debezium_unavailable_value"
_BYTES = PLACEHOLDER.encode()
_ID = uuid.UUID(bytes=hashlib.md5(_BYTES, usedforsecurity=False).digest(), version=3)
TEXTS = (PLACEHOLDER, "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==", _BYTES.hex())
"""As it is, and as bytes that are written as base64 or in hexadecimal digits."""
LENGTHS = tuple(sorted({len(text) for text in TEXTS}))


def without_absent(rows: pa.Table) -> tuple[pa.Table, dict[str, NDMask]]:
    """``rows`` with nulls for what events left out, and which values these are, by column."""
    absent: dict[str, NDMask] = {}
    for k, column in enumerate(rows.schema):
        find = _finder(column.type)
        if find is None:
            continue
        array = rows.column(k)
        mask = find(array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array)
        if mask is not None:
            absent[column.name] = mask
            rows = rows.set_column(k, column, pc.if_else(pa.array(~mask), array, pa.scalar(None, column.type)))
    return rows, absent


def _finder(kind: pa.DataType) -> Callable[[pa.Array], NDMask | None] | None:
    if pa.types.is_string(kind):
        return _in_texts
    if pa.types.is_binary(kind):
        return _in_bytes
    if pa.types.is_list(kind) or pa.types.is_map(kind):
        return _in_lists
    return None


def _in_texts(array: pa.Array) -> NDMask | None:
    return _equal(array, [*TEXTS])


def _in_bytes(array: pa.Array) -> NDMask | None:
    return _equal(array, [_BYTES])


def _equal(array: pa.Array, wanted: list[str] | list[bytes]) -> NDMask | None:
    """Which values are one of these. Their lengths are looked at first: that costs next to nothing."""
    lengths = _lengths(array)
    sizes = [len(one) for one in wanted]
    near = np.flatnonzero(np.isin(lengths, sizes))
    if not len(near):
        return None
    found = pc.is_in(array.take(pa.array(near)), pa.array(wanted, array.type)).to_numpy(zero_copy_only=False)
    return _mask(len(array), near[found])


def _in_lists(array: pa.Array) -> NDMask | None:
    """Lists of one value, the placeholder; lists of the bytes of the placeholder; maps from it to itself."""
    lengths = _lengths(array)
    near = np.flatnonzero(np.isin(lengths, (1, len(_BYTES))))
    if not len(near):
        return None
    told = array.take(pa.array(near)).to_pylist()
    return _mask(len(array), near[[one in LISTS for one in told]])


LISTS = (
    *([text] for text in TEXTS),
    [_BYTES],
    [str(_ID)],
    list(_BYTES),
    [(PLACEHOLDER, PLACEHOLDER)],
)


def _lengths(array: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    lengths: np.ndarray[tuple[int], np.dtype[np.int32]] = np.diff(offsets)
    return lengths


def _mask(rows: int, found: np.ndarray[tuple[int], np.dtype[np.int64]]) -> NDMask | None:
    if not len(found):
        return None
    mask = np.zeros(rows, np.bool_)
    mask[found] = True
    return mask
