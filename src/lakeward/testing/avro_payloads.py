"""Writing many Avro records of one shape fast: constant parts are encoded once, numbers by compiled code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lakeward.records import Blobs

WIDEST = 11
"""Bytes of the longest number: a union's branch and a 64-bit varint."""


class Kind(IntEnum):
    """How a column is written. A PART column holds indices into `Parts`; ABSENT in a nullable one stands for null."""

    PART = 0
    LONG = 1
    DECIMAL = 2
    NULLABLE_LONG = 3


ABSENT = np.iinfo(np.int64).min


class Parts:
    """Byte strings that records are made of."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, parts: Iterable[bytes]) -> NDArray[np.int64]:
        """Keep ``parts``; return their indices, int64[number of parts]."""
        first = len(self._parts)
        self._parts.extend(parts)
        return np.arange(first, len(self._parts))

    @property
    def blobs(self) -> Blobs:
        """All of them."""
        return Blobs.of(self._parts)

    @staticmethod
    def long(value: int) -> bytes:
        """A zigzag varint."""
        rest, out = (value << 1) ^ (value >> 63), bytearray()
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
        return bytes(out)

    @staticmethod
    def text(value: str) -> bytes:
        """A string with its length."""
        content = value.encode()
        return Parts.long(len(content)) + content


def encode(kinds: Sequence[Kind], columns: Sequence[NDArray[np.int64]], parts: Parts) -> Blobs:
    """Write one record a row: each column in turn, as its kind says."""
    stacked = np.ascontiguousarray(np.stack(columns))
    blobs = parts.blobs
    longest = sum(int(blobs.length.max()) if kind is Kind.PART else WIDEST for kind in kinds)
    rows = stacked.shape[1]
    out, start = np.empty(rows * longest, np.uint8), np.empty(rows + 1, np.int64)
    size = _encode(np.array(kinds, np.int64), stacked, blobs.data, blobs.start, blobs.length, out, start)
    return Blobs(out[:size].copy(), start[:-1], np.diff(start).astype(np.int32))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast("Callable[..., Any]", njit(nogil=True, cache=True)(function))


@_compiled
def _varint(value, out, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    rest = np.uint64((value << 1) ^ (value >> 63))
    while rest > np.uint64(0x7F):
        out[at] = np.uint8((rest & np.uint64(0x7F)) | np.uint64(0x80))
        rest >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(rest)
    return at + 1


@_compiled
def _encode(kinds, columns, parts, part_start, part_length, out, start):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913, PLR0917
    at = 0
    for row in range(columns.shape[1]):
        start[row] = at
        for field in range(len(kinds)):
            kind, value = kinds[field], columns[field, row]
            if kind == 0:
                first = part_start[value]
                for i in range(part_length[value]):
                    out[at] = parts[first + i]
                    at += 1
            elif kind == 2:
                size = 1
                while size < 8 and (value >> (8 * size - 1)) != 0 and (value >> (8 * size - 1)) != -1:
                    size += 1
                at = _varint(size, out, at)
                for i in range(size):
                    out[at] = np.uint8((value >> (8 * (size - 1 - i))) & 0xFF)
                    at += 1
            elif kind == 3 and value == ABSENT:
                out[at] = 0
                at += 1
            else:
                if kind == 3:
                    out[at] = 2
                    at += 1
                at = _varint(value, out, at)
    start[columns.shape[1]] = at
    return at
