"""Compiled primitives that every decoder stands on: UTF-8 and 128-bit decimals.

Two things cost several times the decoding itself, so nobody does them: signed indexes, which numba tests for negative
values at every access, and counting references to buffers at every call. Without the count, compiled code can borrow
arrays but neither make nor keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

OPTIONS: Mapping[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}

F = TypeVar("F", bound=Callable[..., Any])
Word: TypeAlias = np.uint64
Bytes: TypeAlias = NDArray[np.uint8]

ZERO = np.uint64(0)
ONE = np.uint64(1)
TWO = np.uint64(2)
THREE = np.uint64(3)
EIGHT = np.uint64(8)
SIXTEEN = np.uint64(16)
BYTE = np.uint64(0xFF)
BYTE_TOP = np.uint64(56)
SIGN = np.uint64(63)

# By the first byte of a character: how many bytes follow, and what the second may be (nothing, where it starts none).
MORE = np.repeat(np.array([0, 1, 2, 3, 1], np.uint8), [0x80, 0x60, 0x10, 5, 11])
SECOND_LOW, SECOND_HIGH = np.full(256, 0x80, np.uint8), np.full(256, 0xBF, np.uint8)
SECOND_LOW[0xE0], SECOND_HIGH[0xED], SECOND_LOW[0xF0], SECOND_HIGH[0xF4] = 0xA0, 0x9F, 0x90, 0x8F
for _stray in (slice(0x80, 0xC2), slice(0xF5, 0x100)):
    SECOND_HIGH[_stray] = 0


def compiled(function: F, *, keep: bool = False) -> F:
    """Compile ``function`` as a function of its own, to run without the GIL; ``keep`` the code next to its file."""
    options: dict[str, Any] = {**OPTIONS, "cache": keep}
    return cast("F", njit(**options)(function))


def inlined(function: F) -> F:
    """Compile ``function`` into each of its compiled callers."""
    options: dict[str, Any] = {**OPTIONS, "forceinline": True}
    return cast("F", njit(**options)(function))


@inlined
def load(data: Bytes, p: Word) -> Word:
    """Eight bytes at ``p`` as one number, the first byte lowest. LLVM makes it one load."""
    word = ZERO
    for k in range(8):
        word |= np.uint64(data[p + np.uint64(k)]) << np.uint64(8 * k)
    return word


@inlined
def store(data: Bytes, p: Word, word: Word) -> None:
    """The reverse of `load`."""
    for k in range(8):
        data[p + np.uint64(k)] = np.uint8((word >> np.uint64(8 * k)) & BYTE)


@compiled
def is_utf8(data: Bytes, start: Word, end: Word) -> bool:
    """Whether ``data[start:end]`` is well-formed UTF-8 (no surrogates, no overlong forms, nothing above U+10FFFF)."""
    p = start
    while p < end:
        first = data[p]
        p += ONE
        more = np.uint64(MORE[first])
        if more == ZERO:
            continue
        if more > end - p or data[p] < SECOND_LOW[first] or data[p] > SECOND_HIGH[first]:
            return False
        for k in range(1, more):
            c = data[p + np.uint64(k)]
            if c < 0x80 or c > 0xBF:
                return False
        p += more
    return True


@compiled
def within(high: Word, low: Word, limit_high: Word, limit_low: Word) -> bool:
    """Whether the magnitude of the signed 128-bit number (``high``, ``low``) is below the limit (all uint64)."""
    if high >> SIGN:
        high = ~high
        low = ~low
        if low == ~ZERO:
            low = ZERO
            high += ONE
        else:
            low += ONE
    return bool(high < limit_high or (high == limit_high and low < limit_low))


@compiled
def big_endian(data: Bytes, start: Word, size: Word, limit_high: Word, limit_low: Word) -> tuple[Word, Word, bool]:
    """The two's-complement number of ``size`` bytes at ``start``, as (high, low, whether it is below the limit).

    Any size is read, zero included (0); bytes beyond the sixteenth must only extend the sign.
    """
    end = start + size
    p = start
    negative = size > ZERO and data[p] >= 0x80
    low = ~ZERO if negative else ZERO
    high = low
    extension = 0xFF if negative else 0
    while end - p > SIXTEEN:
        if data[p] != extension:
            return ZERO, ZERO, False
        p += ONE
    while p < end:
        high = (high << EIGHT) | (low >> BYTE_TOP)
        low = (low << EIGHT) | np.uint64(data[p])
        p += ONE
    if (high >> SIGN != ZERO) != negative:
        return ZERO, ZERO, False
    return high, low, within(high, low, limit_high, limit_low)
