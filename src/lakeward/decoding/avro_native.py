"""Compiled primitives of the Avro binary encoding, each bound to one record.

Every primitive reads at ``p``, never at or beyond ``end``, writes item ``i`` of its column, and returns the next ``p``.
A failure is returned in place of ``p``: a number near 2**64, so beyond every ``end``; ``~p`` is then an index into
`FAILURES`. One comparison after each primitive thus sees them all.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lakeward.decoding.native import EIGHT, ONE, SIGN, TWO, ZERO, big_endian, is_utf8

FAILURES = (
    ("trailing-bytes", "bytes are left over after the last field"),
    ("truncated", "the message ends inside this field"),
    ("varint-too-long", "a number is longer than 64 bits"),
    ("negative-length", "a length is negative"),
    ("int-overflow", "an int is outside its 32 bits"),
    ("invalid-boolean", "a boolean is neither 0 nor 1"),
    ("invalid-utf8", "a string is not valid UTF-8"),
    ("invalid-union-index", "a union has no such branch"),
    ("invalid-enum-index", "an enum has no such symbol"),
    ("decimal-overflow", "a decimal has more digits than its schema declares"),
    ("timestamp-overflow", "a timestamp does not fit 64 bits of microseconds"),
    ("time-out-of-range", "a time of day is negative or not below 24 hours"),
    ("too-many-items", "an array announces more items than its message can hold"),
    ("invalid-uuid", "a uuid is not written as 8-4-4-4-12 hexadecimal digits"),
)
"""What a failure is: a stable code, and a sentence without values."""

TRUNCATED = ~np.uint64(1)
VARINT_TOO_LONG = ~np.uint64(2)
NEGATIVE_LENGTH = ~np.uint64(3)
INT_OVERFLOW = ~np.uint64(4)
INVALID_BOOLEAN = ~np.uint64(5)
INVALID_UTF8 = ~np.uint64(6)
INVALID_UNION_INDEX = ~np.uint64(7)
INVALID_ENUM_INDEX = ~np.uint64(8)
DECIMAL_OVERFLOW = ~np.uint64(9)
TIMESTAMP_OVERFLOW = ~np.uint64(10)
TIME_OUT_OF_RANGE = ~np.uint64(11)
TOO_MANY_ITEMS = ~np.uint64(12)
INVALID_UUID = ~np.uint64(13)

MAX_SIZELESS_ITEMS = np.uint64(4096)
"""How many array items that take no bytes (nulls, empty records) one message may hold."""

NOTHING = np.int64(0)
SEVEN = np.uint64(7)
UUID_LENGTH = np.uint64(36)
MAX_MILLIS = np.int64((2**63 - 1) // 1000)
THOUSAND = np.int64(1000)
INT_MIN = np.int64(-(2**31))
INT_MAX = np.int64(2**31 - 1)
FOUR = np.uint64(4)
DAY_MILLIS = np.int64(86_400_000)
DAY_MICROS = np.int64(86_400_000_000)


@njit(nogil=True, forceinline=True)
def varint(b, p, end):
    """A zigzag number of up to 64 bits, and the next ``p``."""
    if p >= end:
        return NOTHING, TRUNCATED
    c = b[p]
    p += ONE
    x = np.uint64(c & 127)
    if c >= 128:
        shift = SEVEN
        while True:
            if p >= end:
                return NOTHING, TRUNCATED
            c = b[p]
            p += ONE
            if shift == SIGN and c > 1:
                return NOTHING, VARINT_TOO_LONG
            x |= np.uint64(c & 127) << shift
            if c < 128:
                break
            shift += SEVEN
    return np.int64(x >> ONE) ^ -np.int64(x & ONE), p


@njit(nogil=True, forceinline=True)
def size(b, p, end):
    """A length in bytes that fits into what is left, and the next ``p``."""
    x, p = varint(b, p, end)
    if p > end:
        return ZERO, p
    if x < 0:
        return ZERO, NEGATIVE_LENGTH
    if np.uint64(x) > end - p:
        return ZERO, TRUNCATED
    return np.uint64(x), p


@njit(nogil=True, forceinline=True)
def branch(b, p, end, branches):
    """The branch of a union, and the next ``p``."""
    x, p = varint(b, p, end)
    if p <= end and (x < 0 or x >= branches):
        return x, INVALID_UNION_INDEX
    return x, p


@njit(nogil=True, forceinline=True)
def block(b, p, end, smallest, so_far):
    """How many items the next block of an array holds (0: the array ends here), and the next ``p``.

    ``smallest`` is the least number of bytes an item takes; ``so_far`` counts the message's items before this block.
    """
    x, p = varint(b, p, end)
    if p > end:
        return ZERO, p
    count = np.uint64(x)
    if x < 0:
        count = ~count + ONE  # a negative count is followed by the block's size, which readers that skip use
        _, p = size(b, p, end)
        if p > end:
            return ZERO, p
    if smallest > ZERO:
        if count > (end - p) // smallest:
            return ZERO, TOO_MANY_ITEMS
    elif count > MAX_SIZELESS_ITEMS - so_far:
        return ZERO, TOO_MANY_ITEMS
    return count, p


@njit(nogil=True, forceinline=True)
def boolean(b, p, end, out, i):
    """A boolean, as one byte."""
    if p >= end:
        return TRUNCATED
    if b[p] > 1:
        return INVALID_BOOLEAN
    out[i] = b[p]
    return p + ONE


@njit(nogil=True, forceinline=True)
def int32(b, p, end, out, i):
    """An int, or days since 1970-01-01."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x < INT_MIN or x > INT_MAX:
        return INT_OVERFLOW
    out[i] = x
    return p


@njit(nogil=True, forceinline=True)
def int64(b, p, end, out, i):
    """A long."""
    x, p = varint(b, p, end)
    out[i] = x
    return p


@njit(nogil=True, forceinline=True)
def millis(b, p, end, out, i):
    """A timestamp of milliseconds, as microseconds."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x > MAX_MILLIS or x < -MAX_MILLIS:
        return TIMESTAMP_OVERFLOW
    out[i] = x * THOUSAND
    return p


@njit(nogil=True, forceinline=True)
def time_millis(b, p, end, out, i):
    """A time of day in milliseconds, as microseconds."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x < 0 or x >= DAY_MILLIS:
        return TIME_OUT_OF_RANGE
    out[i] = x * THOUSAND
    return p


@njit(nogil=True, forceinline=True)
def time_micros(b, p, end, out, i):
    """A time of day in microseconds."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x < 0 or x >= DAY_MICROS:
        return TIME_OUT_OF_RANGE
    out[i] = x
    return p


@njit(nogil=True, forceinline=True)
def float32(b, p, end, out, i):
    """A float, as its four bytes."""
    if end - p < FOUR:
        return TRUNCATED
    x = np.uint32(0)
    for k in range(4):
        x |= np.uint32(b[p + np.uint64(k)]) << np.uint32(8 * k)
    out[i] = x
    return p + FOUR


@njit(nogil=True, forceinline=True)
def float64(b, p, end, out, i):
    """A double, as its eight bytes."""
    if end - p < EIGHT:
        return TRUNCATED
    x = np.uint64(0)
    for k in range(8):
        x |= np.uint64(b[p + np.uint64(k)]) << np.uint64(8 * k)
    out[i] = x
    return p + EIGHT


@njit(nogil=True, forceinline=True)
def binary(b, p, end, offsets, data, i):
    """Bytes of any length."""
    n, p = size(b, p, end)
    if p > end:
        return p
    q = np.uint64(offsets[i])
    k = ZERO
    while k < n:
        data[q + k] = b[p + k]
        k += ONE
    offsets[i + ONE] = np.int32(q + n)
    return p + n


@njit(nogil=True, forceinline=True)
def string(b, p, end, offsets, data, i):
    """A string; only one with a byte beyond ASCII is looked at twice."""
    n, p = size(b, p, end)
    if p > end:
        return p
    q = np.uint64(offsets[i])
    seen = np.uint8(0)
    k = ZERO
    while k < n:
        c = b[p + k]
        data[q + k] = c
        seen |= c
        k += ONE
    if seen >= 128 and not is_utf8(data, q, q + n):
        return INVALID_UTF8
    offsets[i + ONE] = np.int32(q + n)
    return p + n


@njit(nogil=True)
def uuid(b, p, end, offsets, data, i):
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
            valid = c == 0x2D  # hyphen
        else:
            valid = 0x30 <= c <= 0x39 or 0x41 <= c <= 0x46 or 0x61 <= c <= 0x66  # 0-9 A-F a-f
        if not valid:
            return INVALID_UUID
        data[q + np.uint64(k)] = c
    offsets[i + ONE] = np.int32(q + n)
    return p + n


@njit(nogil=True, forceinline=True)
def fixed(b, p, end, width, out, i):
    """Bytes of a declared length."""
    if end - p < width:
        return TRUNCATED
    q = i * width
    k = ZERO
    while k < width:
        out[q + k] = b[p + k]
        k += ONE
    return p + width


@njit(nogil=True, forceinline=True)
def room(p, end, width):
    """``width`` and ``p``, where so many bytes are left."""
    if end - p < width:
        return ZERO, TRUNCATED
    return width, p


@njit(nogil=True, forceinline=True)
def symbol(b, p, end, symbols, out, i):
    """The index of an enum's symbol."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x < 0 or x >= symbols:
        return INVALID_ENUM_INDEX
    out[i] = x
    return p


@njit(nogil=True, forceinline=True)
def short_unscaled(b, p, n, limit, out, i):
    """A decimal of at most 18 digits, from ``n`` bytes at ``p``: Arrow's two words, the low one first."""
    if n > EIGHT:
        high, low, fits = big_endian(b, p, n, ZERO, limit)
        if not fits:
            return DECIMAL_OVERFLOW
    else:
        low = ZERO
        if n > ZERO and b[p] >= 128:
            low = ~low
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


@njit(nogil=True)
def unscaled(b, p, n, limit, out, i):
    """A decimal of up to 38 digits, from ``n`` bytes at ``p``; ``limit`` is (high, low) of the first one too big."""
    high, low, fits = big_endian(b, p, n, limit[0], limit[1])
    if not fits:
        return DECIMAL_OVERFLOW
    out[i * TWO] = low
    out[i * TWO + ONE] = high
    return p + n
