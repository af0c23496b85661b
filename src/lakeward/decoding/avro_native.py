"""Compiled primitives of the Avro binary encoding, each bound to one record.

Every primitive reads at ``p``, never at or beyond ``end``, writes item ``i`` of its column, and returns the next ``p``.
A failure is returned in place of ``p``: a number near 2**64, so beyond every ``end``; ``~p`` is then an index into
`FAILURES`. One comparison after each primitive thus sees them all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakeward.decoding.native import (
    EIGHT,
    ONE,
    SIGN,
    TWO,
    ZERO,
    Bytes,
    Word,
    compiled,
    inlined,
    is_utf8,
    load,
    store,
)

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
    ("too-many-items", "an array or a map announces more items than its message can hold"),
    ("invalid-uuid", "a uuid is not written as 8-4-4-4-12 hexadecimal digits"),
    ("duplicate-key", "a map holds one key twice"),
    ("too-deep", "a record holds itself in more levels than are read"),
)
"""What a failure is: a stable code, and a sentence without values."""


def failure(number: int) -> tuple[str, str]:
    """The code and the sentence of a failure."""
    return FAILURES[~number & 0xFF]


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
DUPLICATE_KEY = ~np.uint64(14)
TOO_DEEP = ~np.uint64(15)

MAX_SIZELESS_ITEMS = np.uint64(4096)
"""How many array items that take no bytes (nulls, empty records) one message may hold."""

HEADER = 5
"""Bytes in front of every value: magic and schema id."""
WORD_SLACK = 8
"""Bytes that a buffer of text needs behind its content."""

BITS = np.uint64(63)
HIGH_BITS = np.uint64(0x8080808080808080)
LOW_BITS = ~HIGH_BITS
LOWEST_BITS = np.uint64(0x0101010101010101)
TOP_BYTE = np.uint64(56)
# Seven bits of each byte move together: bytes to pairs, pairs to fours, fours to one number.
PAIR_LOW, PAIR_HIGH = np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00)
QUAD_LOW, QUAD_HIGH = np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000)
NOTHING = np.int64(0)
SEVEN = np.uint64(7)
MAX_MILLIS = np.int64((2**63 - 1) // 1000)
THOUSAND = np.int64(1000)
INT_MIN = np.int64(-(2**31))
INT_MAX = np.int64(2**31 - 1)
FOUR = np.uint64(4)
DAY_MILLIS = np.int64(86_400_000)
DAY_MICROS = np.int64(86_400_000_000)


@inlined
def framed(b: Bytes, p: Word, length: np.int32, schema_id: Word) -> bool:
    """Whether ``length`` bytes at ``p`` begin with Confluent's header for ``schema_id``."""
    if length < HEADER or b[p] != 0:
        return False
    found = ZERO
    for k in range(1, 5):
        found = (found << EIGHT) | np.uint64(b[p + np.uint64(k)])
    return bool(found == schema_id)


@inlined
def varint(b: Bytes, p: Word, end: Word) -> tuple[np.int64, Word]:
    """A zigzag number of up to 64 bits, and the next ``p``."""
    if p >= end:
        return NOTHING, TRUNCATED
    c = b[p]
    if c < 128:
        p += ONE
        x = np.uint64(c)
    elif np.uint64(b.size) - p < EIGHT:
        x, p = bytewise(b, p, end)
    else:
        word = load(b, p)
        ends = ~word & HIGH_BITS
        if ends == ZERO:  # nine bytes or ten
            x, p = bytewise(b, p, end)
        else:
            mask = ends ^ (ends - ONE)  # up to the first byte without its high bit
            x = word & mask & LOW_BITS
            x = (x & PAIR_LOW) | ((x & PAIR_HIGH) >> ONE)
            x = (x & QUAD_LOW) | ((x & QUAD_HIGH) >> TWO)
            x = (x & np.uint64(0x0FFFFFFF)) | ((x & np.uint64(0x0FFFFFFF00000000)) >> FOUR)
            p += ((mask & LOWEST_BITS) * LOWEST_BITS) >> TOP_BYTE
            if p > end:
                return NOTHING, TRUNCATED
    return np.int64(x >> ONE) ^ -np.int64(x & ONE), p


@compiled
def bytewise(b: Bytes, p: Word, end: Word) -> tuple[Word, Word]:
    """What `varint` does, byte by byte, before the zigzag."""
    x = ZERO
    shift = ZERO
    while True:
        if p >= end:
            return ZERO, TRUNCATED
        c = b[p]
        p += ONE
        if shift == SIGN and c > 1:
            return ZERO, VARINT_TOO_LONG
        x |= np.uint64(c & 127) << shift
        if c < 128:
            return x, p
        shift += SEVEN


@inlined
def size(b: Bytes, p: Word, end: Word) -> tuple[Word, Word]:
    """A length in bytes that fits into what is left, and the next ``p``."""
    x, p = varint(b, p, end)
    if p > end:
        return ZERO, p
    if x < 0:
        return ZERO, NEGATIVE_LENGTH
    if np.uint64(x) > end - p:
        return ZERO, TRUNCATED
    return np.uint64(x), p


@inlined
def branch(b: Bytes, p: Word, end: Word, branches: int) -> tuple[np.int64, Word]:
    """The branch of a union, and the next ``p``."""
    x, p = varint(b, p, end)
    if p <= end and (x < 0 or x >= branches):
        return x, INVALID_UNION_INDEX
    return x, p


@inlined
def block(b: Bytes, p: Word, end: Word, smallest: Word, so_far: Word) -> tuple[Word, Word]:
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


@inlined
def boolean(b: Bytes, p: Word, end: Word, out: NDArray[Any], i: Word) -> Word:
    """A boolean, as one byte."""
    if p >= end:
        return TRUNCATED
    if b[p] > 1:
        return INVALID_BOOLEAN
    out[i] = b[p]
    return p + ONE


@inlined
def int32(b: Bytes, p: Word, end: Word, out: NDArray[Any], i: Word) -> Word:
    """An int, or days since 1970-01-01."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x < INT_MIN or x > INT_MAX:
        return INT_OVERFLOW
    out[i] = x
    return p


@inlined
def int64(b: Bytes, p: Word, end: Word, out: NDArray[Any], i: Word) -> Word:
    """A long."""
    x, p = varint(b, p, end)
    out[i] = x
    return p


@inlined
def millis(b: Bytes, p: Word, end: Word, out: NDArray[Any], i: Word) -> Word:
    """A timestamp of milliseconds, as microseconds."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x > MAX_MILLIS or x < -MAX_MILLIS:
        return TIMESTAMP_OVERFLOW
    out[i] = x * THOUSAND
    return p


@inlined
def time_millis(b: Bytes, p: Word, end: Word, out: NDArray[Any], i: Word) -> Word:
    """A time of day in milliseconds, as microseconds."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x < 0 or x >= DAY_MILLIS:
        return TIME_OUT_OF_RANGE
    out[i] = x * THOUSAND
    return p


@inlined
def time_micros(b: Bytes, p: Word, end: Word, out: NDArray[Any], i: Word) -> Word:
    """A time of day in microseconds."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x < 0 or x >= DAY_MICROS:
        return TIME_OUT_OF_RANGE
    out[i] = x
    return p


@inlined
def float32(b: Bytes, p: Word, end: Word, out: NDArray[Any], i: Word) -> Word:
    """A float, as its four bytes."""
    if end - p < FOUR:
        return TRUNCATED
    x = np.uint32(0)
    for k in range(4):
        x |= np.uint32(b[p + np.uint64(k)]) << np.uint32(8 * k)
    out[i] = x
    return p + FOUR


@inlined
def float64(b: Bytes, p: Word, end: Word, out: NDArray[Any], i: Word) -> Word:
    """A double, as its eight bytes."""
    if end - p < EIGHT:
        return TRUNCATED
    out[i] = load(b, p)
    return p + EIGHT


@inlined
def copy(b: Bytes, p: Word, n: Word, data: Bytes, q: Word) -> Word:
    """Copy ``n`` bytes, in words where ``b`` has them: up to seven more, which `WORD_SLACK` makes room for.

    Returns a number with a high bit set in any byte where one of the copied bytes may be beyond ASCII.
    """
    seen = ZERO
    k = ZERO
    if np.uint64(b.size) - p < n + EIGHT:
        while k < n:
            data[q + k] = b[p + k]
            seen |= np.uint64(b[p + k])
            k += ONE
        return seen
    while n - k > EIGHT:
        word = load(b, p + k)
        store(data, q + k, word)
        seen |= word
        k += EIGHT
    word = load(b, p + k)
    store(data, q + k, word)
    return seen | word & (~ZERO >> ((EIGHT - n + k) * EIGHT & BITS))


@inlined
def binary(b: Bytes, p: Word, end: Word, offsets: NDArray[np.int32], data: Bytes, i: Word) -> Word:
    """Bytes of any length."""
    n, p = size(b, p, end)
    if p > end:
        return p
    q = np.uint64(offsets[i])
    copy(b, p, n, data, q)
    offsets[i + ONE] = np.int32(q + n)
    return p + n


@inlined
def string(b: Bytes, p: Word, end: Word, offsets: NDArray[np.int32], data: Bytes, i: Word) -> Word:
    """A string; only one with a byte beyond ASCII is looked at twice."""
    n, p = size(b, p, end)
    if p > end:
        return p
    q = np.uint64(offsets[i])
    if copy(b, p, n, data, q) & HIGH_BITS and not is_utf8(data, q, q + n):
        return INVALID_UTF8
    offsets[i + ONE] = np.int32(q + n)
    return p + n


@inlined
def fixed(b: Bytes, p: Word, end: Word, width: Word, out: NDArray[Any], i: Word) -> Word:
    """Bytes of a declared length."""
    if end - p < width:
        return TRUNCATED
    q = i * width
    k = ZERO
    while k < width:
        out[q + k] = b[p + k]
        k += ONE
    return p + width


@inlined
def room(p: Word, end: Word, width: Word) -> tuple[Word, Word]:
    """``width`` and ``p``, where so many bytes are left."""
    if end - p < width:
        return ZERO, TRUNCATED
    return width, p


@inlined
def symbol(b: Bytes, p: Word, end: Word, symbols: np.int64, out: NDArray[Any], i: Word) -> Word:
    """The index of an enum's symbol."""
    x, p = varint(b, p, end)
    if p > end:
        return p
    if x < 0 or x >= symbols:
        return INVALID_ENUM_INDEX
    out[i] = x
    return p
