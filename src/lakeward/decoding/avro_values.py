"""Compiled primitives for decimals, uuids, durations and the keys of maps. They work as those of `avro_native`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakeward.decoding.avro_native import DECIMAL_OVERFLOW, FOUR, INVALID_UUID, TRUNCATED, size
from lakeward.decoding.native import (
    EIGHT,
    ONE,
    SIGN,
    SIXTEEN,
    TWO,
    ZERO,
    Bytes,
    Word,
    big_endian,
    compiled,
    inlined,
    load,
)

BYTES_LOW, PAIRS_LOW = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
HALF = np.uint64(32)
HYPHEN = 0x2D
HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
UUID_LENGTH, UUID_SIZE = np.uint64(36), np.uint64(16)
DURATION_SIZE = np.uint64(12)
FEW_KEYS = np.uint64(8)
FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@compiled
def uuid(b: Bytes, p: Word, end: Word, offsets: NDArray[np.int32], data: Bytes, i: Word) -> Word:
    """A string that writes a uuid in its canonical form, in either case."""
    n, p = size(b, p, end)
    if p > end:
        return p
    if n != UUID_LENGTH:
        return INVALID_UUID
    q = np.uint64(offsets[i])
    for k in range(36):
        c = b[p + np.uint64(k)]
        if k in (8, 13, 18, 23):
            if c != HYPHEN:
                return INVALID_UUID
        elif not (0x30 <= c <= 0x39 or 0x41 <= c <= 0x46 or 0x61 <= c <= 0x66):  # 0-9 A-F a-f
            return INVALID_UUID
        data[q + np.uint64(k)] = c
    offsets[i + ONE] = np.int32(q + n)
    return p + n


@compiled
def fixed_uuid(b: Bytes, p: Word, end: Word, offsets: NDArray[np.int32], data: Bytes, i: Word) -> Word:
    """The sixteen bytes of a uuid, written in its canonical form."""
    if end - p < UUID_SIZE:
        return TRUNCATED
    q = np.uint64(offsets[i])
    for k in range(16):
        if k in (4, 6, 8, 10):
            data[q] = HYPHEN
            q += ONE
        c = b[p + np.uint64(k)]
        data[q] = HEX[c >> 4]
        data[q + ONE] = HEX[c & 15]
        q += TWO
    offsets[i + ONE] = np.int32(q)
    return p + UUID_SIZE


@compiled
def duration(  # noqa: PLR0913, PLR0917 - a column for each of its numbers
    b: Bytes, p: Word, end: Word, months: NDArray[Any], days: NDArray[Any], millis: NDArray[Any], i: Word
) -> Word:
    """Three unsigned numbers."""
    if end - p < DURATION_SIZE:
        return TRUNCATED
    months[i] = unsigned(b, p)
    days[i] = unsigned(b, p + FOUR)
    millis[i] = unsigned(b, p + EIGHT)
    return p + DURATION_SIZE


@inlined
def unsigned(b: Bytes, p: Word) -> np.int64:
    """Four bytes at ``p`` as one number, the first byte lowest."""
    x = ZERO
    for k in range(4):
        x |= np.uint64(b[p + np.uint64(k)]) << np.uint64(8 * k)
    return np.int64(x)


@compiled
def distinct(offsets: NDArray[np.int32], data: Bytes, first: Word, last: Word, table: NDArray[np.uint32]) -> bool:
    """Whether the keys ``[first, last)`` differ; ``table`` has room for four numbers a key, which it loses."""
    keys = last - first
    if keys <= FEW_KEYS:
        for i in range(first, last):
            for j in range(first, i):
                if equal(offsets, data, np.uint64(i), np.uint64(j)):
                    return False
        return True
    slots = SIXTEEN
    while slots < keys * TWO:
        slots *= TWO
    base = first * FOUR
    for k in range(slots):
        table[base + np.uint64(k)] = 0
    key = first
    while key < last:
        slot = hashed(offsets, data, key) & (slots - ONE)
        while table[base + slot] != 0:
            if equal(offsets, data, key, first + np.uint64(table[base + slot]) - ONE):
                return False
            slot = (slot + ONE) & (slots - ONE)
        key += ONE
        table[base + slot] = key - first
    return True


@compiled
def equal(offsets: NDArray[np.int32], data: Bytes, i: Word, j: Word) -> bool:
    """Whether the strings ``i`` and ``j`` are the same."""
    p, q = np.uint64(offsets[i]), np.uint64(offsets[j])
    n = np.uint64(offsets[i + ONE]) - p
    if np.uint64(offsets[j + ONE]) - q != n:
        return False
    k = ZERO
    while k < n:
        if data[p + k] != data[q + k]:
            return False
        k += ONE
    return True


@compiled
def hashed(offsets: NDArray[np.int32], data: Bytes, i: Word) -> Word:
    """FNV-1a of the string ``i``, its halves folded."""
    x = FNV_OFFSET
    p, end = np.uint64(offsets[i]), np.uint64(offsets[i + ONE])
    while p < end:
        x = (x ^ np.uint64(data[p])) * FNV_PRIME
        p += ONE
    return x ^ (x >> HALF)


@inlined
def short_unscaled(b: Bytes, p: Word, n: Word, limit: Word, out: NDArray[Any], i: Word) -> Word:
    """A decimal of at most 18 digits, from ``n`` bytes at ``p``: Arrow's two words, the low one first."""
    if n > EIGHT:
        high, low, fits = big_endian(b, p, n, ZERO, limit)
        if not fits:
            return DECIMAL_OVERFLOW
    else:
        if n == ZERO:
            low = ZERO
        elif np.uint64(b.size) - p >= EIGHT:
            word = load(b, p)
            word = ((word & BYTES_LOW) << EIGHT) | ((word >> EIGHT) & BYTES_LOW)
            word = ((word & PAIRS_LOW) << SIXTEEN) | ((word >> SIXTEEN) & PAIRS_LOW)
            word = (word << HALF) | (word >> HALF)  # the first byte is now the highest
            low = np.uint64(np.int64(word) >> np.int64((EIGHT - n) * EIGHT))
        else:
            low = ~ZERO if b[p] >= 128 else ZERO
            k = ZERO
            while k < n:
                low = (low << EIGHT) | np.uint64(b[p + k])
                k += ONE
        high = ZERO
        if low >> SIGN:
            high = ~high
        magnitude = (low ^ high) - high
        if magnitude >= limit:
            return DECIMAL_OVERFLOW
    out[i * TWO] = low
    out[i * TWO + ONE] = high
    return p + n


@compiled
def unscaled(b: Bytes, p: Word, n: Word, limit: tuple[Word, Word], out: NDArray[Any], i: Word) -> Word:
    """A decimal of up to 38 digits, from ``n`` bytes at ``p``; ``limit`` is (high, low) of the first one too big."""
    high, low, fits = big_endian(b, p, n, limit[0], limit[1])
    if not fits:
        return DECIMAL_OVERFLOW
    out[i * TWO] = low
    out[i * TWO + ONE] = high
    return p + n
