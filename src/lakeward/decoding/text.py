"""Reading text from a byte buffer in compiled code: strings, digits, dates and timestamps.

Every reader takes the buffer, the place ``p`` where a value starts and the place ``e`` where its record ends, and
returns where the value ends, or `BAD` for anything that it does not take. A reader may look at up to `SLACK` bytes
behind ``e``, so the buffer must be that much longer; what it finds there never becomes a value, because a caller
takes only values that end before ``e``. All places are unsigned: signed ones cost a wrap-around test per access.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from lakeward.decoding.native import compiled, inlined, load, store

U = np.uint64

SLACK = 64
"""Bytes behind a record that must be readable."""

BAD = U(0xFFFFFFFFFFFFFFFF)
"""No value of the expected kind is here; greater than every place."""

ZERO, ONE, TWO, FOUR, FIVE, EIGHT, TEN = U(0), U(1), U(2), U(4), U(5), U(8), U(10)
QUOTE, BACKSLASH, MINUS, PLUS, POINT = 0x22, 0x5C, 0x2D, 0x2B, 0x2E
LOW, HIGH = U(0x0101010101010101), U(0x8080808080808080)
QUOTES, BACKSLASHES, SPACES = LOW * U(QUOTE), LOW * U(BACKSLASH), LOW * U(0x20)
LONG_MAX = U(0x7FFFFFFFFFFFFFFF)
MICROS = 1_000_000
DAY = 86_400
EPOCH_DAY = 719_162
"""1970-01-01 counted in days from 0001-01-01."""
DAYS_BEFORE = np.array([0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334], np.int64)
DAYS_IN = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)
# "YYYY-MM-" and "DDThh:mm" with every digit a zero, and what makes each byte overflow unless it is a digit (or, for a
# separator, exactly itself). The "T" may also be a space, so it is looked at alone.
DATE_SHAPE, DATE_LIMIT = U(0x2D30302D30303030), U(0x7F76767F76767676)
TIME_SHAPE, TIME_LIMIT = U(0x30303A3030003030), U(0x76767F7676007676)
TIME_SEPARATOR = U(0x0000000000FF0000)
ESCAPED = np.zeros(256, np.uint8)
for _letter, _meaning in zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True):
    ESCAPED[_letter] = _meaning


def _trailing_zeros(_context: Any, value: Any) -> Any:
    """How many low bits of a uint64 are zero; 64 for zero."""

    def generate(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(value), generate


def _leading_zeros(_context: Any, value: Any) -> Any:
    """How many high bits of a uint64 are zero; 64 for zero."""

    def generate(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(value), generate


trailing_zeros = cast("Callable[[Any], Any]", intrinsic(_trailing_zeros))
leading_zeros = cast("Callable[[Any], Any]", intrinsic(_leading_zeros))


@inlined
def skip_blank(data: Any, p: Any, e: Any) -> Any:
    """Return the first place from ``p`` that is no JSON white space, at most ``e``."""
    while p < e and (data[p] == 0x20 or data[p] == 0x0A or data[p] == 0x0D or data[p] == 0x09):
        p += ONE
    return p


@inlined
def digit(data: Any, p: Any) -> Any:
    """Return the digit at ``p``; more than 9 where there is none."""
    return U(data[p]) - U(0x30)


@compiled
def hex4(data: Any, p: Any) -> Any:
    """Return the four hexadecimal digits at ``p`` as a number, or BAD."""
    value = ZERO
    for k in range(4):
        c = U(data[p + U(k)])
        if U(0x30) <= c <= U(0x39):
            c -= U(0x30)
        elif U(0x41) <= c <= U(0x46):
            c -= U(0x37)
        elif U(0x61) <= c <= U(0x66):
            c -= U(0x57)
        else:
            return BAD
        value = (value << FOUR) | c
    return value


@compiled
def write_utf8(code: Any, out: Any, o: Any) -> Any:
    """Write the code point ``code`` as UTF-8 and return the place behind it."""
    if code < U(0x80):
        out[o] = code
        return o + ONE
    if code < U(0x800):
        out[o] = U(0xC0) | (code >> U(6))
        out[o + ONE] = U(0x80) | (code & U(0x3F))
        return o + TWO
    if code < U(0x10000):
        out[o] = U(0xE0) | (code >> U(12))
        out[o + ONE] = U(0x80) | ((code >> U(6)) & U(0x3F))
        out[o + TWO] = U(0x80) | (code & U(0x3F))
        return o + U(3)
    out[o] = U(0xF0) | (code >> U(18))
    out[o + ONE] = U(0x80) | ((code >> U(12)) & U(0x3F))
    out[o + TWO] = U(0x80) | ((code >> U(6)) & U(0x3F))
    out[o + U(3)] = U(0x80) | (code & U(0x3F))
    return o + FOUR


@compiled
def read_escape(data: Any, p: Any, out: Any, o: Any) -> Any:
    """Read the escape whose backslash is at ``p``; write what it stands for. A lone surrogate is BAD."""
    letter = data[p + ONE]
    if letter != 0x75:
        out[o] = ESCAPED[letter]
        return (p + TWO if ESCAPED[letter] else BAD), o + ONE
    p += TWO
    code = hex4(data, p)
    p += FOUR
    if code == BAD or U(0xDC00) <= code < U(0xE000):
        return BAD, o
    if U(0xD800) <= code < U(0xDC00):
        low = hex4(data, p + TWO)
        if data[p] != BACKSLASH or data[p + ONE] != 0x75 or not (U(0xDC00) <= low < U(0xE000)):
            return BAD, o
        code = U(0x10000) + ((code - U(0xD800)) << TEN) + (low - U(0xDC00))
        p += U(6)
    return p, write_utf8(code, out, o)


@inlined
def is_tail(data: Any, p: Any) -> Any:
    """Whether the byte at ``p`` continues a UTF-8 sequence."""
    return data[p] & 0xC0 == 0x80


@compiled
def utf8_length(data: Any, p: Any) -> Any:
    """Return the length of the well-formed UTF-8 sequence of two to four bytes at ``p``, or zero."""
    first, second = data[p], data[p + ONE]
    if not is_tail(data, p + ONE):
        return ZERO
    if 0xC2 <= first <= 0xDF:
        return TWO
    if 0xE0 <= first <= 0xEF:
        # Overlong forms start E0 80-9F, surrogates ED A0-BF.
        wrong = (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F)
        return ZERO if wrong or not is_tail(data, p + TWO) else U(3)
    if 0xF0 <= first <= 0xF4:
        # Overlong forms start F0 80-8F, points beyond U+10FFFF with F4 90.
        wrong = (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F)
        return ZERO if wrong or not is_tail(data, p + TWO) or not is_tail(data, p + U(3)) else FOUR
    return ZERO


@inlined
def copy_plain(data: Any, p: Any, e: Any, out: Any, o: Any) -> Any:
    """Copy bytes up to the first quote, backslash, control character or byte above 0x7F; return its place and ``o``.

    Eight at a time: up to seven bytes behind the copy are overwritten.
    """
    while True:
        word = load(data, p)
        store(out, o, word)
        quote, backslash = word ^ QUOTES, word ^ BACKSLASHES
        special = ((quote - LOW) & ~quote) | ((backslash - LOW) & ~backslash) | ((word - SPACES) & ~word) | word
        special &= HIGH
        if special:
            k = trailing_zeros(special) >> U(3)
            return p + k, o + k
        p += EIGHT
        o += EIGHT
        if p >= e:
            return BAD, o


@compiled
def read_rest(data: Any, p: Any, e: Any, out: Any, o: Any) -> Any:
    """Read a string from its first byte that `copy_plain` stops at; see `read_string`."""
    while p < e:
        c = data[p]
        if c == QUOTE:
            return p + ONE, o
        if c == BACKSLASH:
            p, o = read_escape(data, p, out, o)
        elif c >= 0x80:
            size = utf8_length(data, p)
            if size == ZERO:
                return BAD, o
            store(out, o, load(data, p))
            p += size
            o += size
        else:
            return BAD, o
        if p >= e:
            return BAD, o
        p, o = copy_plain(data, p, e, out, o)
    return BAD, o


@inlined
def read_string(data: Any, p: Any, e: Any, out: Any, o: Any) -> Any:
    """Read the JSON string whose opening quote is at ``p`` into ``out`` at ``o``, as UTF-8; return both ends."""
    if data[p] != QUOTE:
        return BAD, o
    p, o = copy_plain(data, p + ONE, e, out, o)
    if p < e and data[p] == QUOTE:
        return p + ONE, o
    return read_rest(data, p, e, out, o)


@inlined
def read_integer(data: Any, p: Any, e: Any) -> Any:
    """Read an integer of JSON syntax that fits 64 bits; return its end and its value."""
    negative = data[p] == MINUS
    if negative:
        p += ONE
    first = p
    value: Any = ZERO
    while p < e:
        d = digit(data, p)
        if d > U(9):
            break
        value = value * TEN + d
        p += ONE
    size = p - first
    if size == ZERO or size > U(19) or (size > ONE and data[first] == 0x30):
        return BAD, 0
    if negative:
        return (BAD if value > LONG_MAX + ONE else p), np.int64(ZERO - value)
    return (BAD if value > LONG_MAX else p), np.int64(value)


@inlined
def read_digits(data: Any, p: Any, e: Any, value: Any) -> Any:
    """Append the digits from ``p`` to ``value``; return their end, the new value, how many are significant."""
    size = ZERO
    while p < e:
        d = digit(data, p)
        if d > U(9):
            break
        value = value * TEN + d
        size += ONE if value != ZERO else ZERO
        p += ONE
    return p, value, size


@inlined
def read_number(data: Any, p: Any, e: Any) -> Any:
    """Read a number of JSON syntax with at most 19 significant digits and an exponent below 10,000.

    Returns its end, its digits as one uint64, the power of ten they stand at, and whether it is negative.
    """
    negative = data[p] == MINUS
    if negative:
        p += ONE
    first = p
    p, value, size = read_digits(data, p, e, ZERO)
    if p == first or (p - first > ONE and data[first] == 0x30):
        return BAD, ZERO, 0, negative
    power: Any = 0
    if p < e and data[p] == POINT:
        point = p
        p, value, more = read_digits(data, p + ONE, e, value)
        size += more
        power = -np.int64(p - point - ONE)
        if power == 0:
            return BAD, ZERO, 0, negative
    if p < e and (data[p] | 0x20) == 0x65:
        p += ONE
        down = data[p] == MINUS
        if down or data[p] == PLUS:
            p += ONE
        start = p
        p, exponent, _ = read_digits(data, p, e, ZERO)
        if p == start or p - start > FOUR:
            return BAD, ZERO, 0, negative
        power += -np.int64(exponent) if down else np.int64(exponent)
    return (BAD if size > U(19) else p), value, power, negative


@inlined
def days_of(year: Any, month: Any, day: Any) -> Any:
    """Return the days from 1970-01-01 to a date of the years 1 to 9999, and whether there is such a date."""
    leap = year & 3 == 0 and (year % 100 != 0 or year % 400 == 0)
    if year == 0 or month == 0 or month > 12 or day == 0:
        return 0, False
    if day > DAYS_IN[month] + (1 if leap and month == 2 else 0):
        return 0, False
    y = year - 1
    days = y * 365 + y // 4 - y // 100 + y // 400 + DAYS_BEFORE[month] + day - 1 - EPOCH_DAY
    return days + (1 if leap and month > 2 else 0), True


@inlined
def pair(pairs: Any, k: Any) -> Any:
    """Return the two-digit number at byte ``k`` of a word whose bytes are each ten times a digit plus the next."""
    return np.int64((pairs >> U(8 * k)) & U(0xFF))


@inlined
def read_date(data: Any, p: Any) -> Any:
    """Read ``YYYY-MM-DD``; return its end and the days since 1970-01-01."""
    word = load(data, p) ^ DATE_SHAPE
    if ((word + DATE_LIMIT) | word) & HIGH:
        return BAD, 0
    tens, ones = digit(data, p + EIGHT), digit(data, p + U(9))
    if tens > U(9) or ones > U(9):
        return BAD, 0
    pairs = word * TEN + (word >> EIGHT)
    days, exists = days_of(pair(pairs, 0) * 100 + pair(pairs, 2), pair(pairs, 5), np.int64(tens * TEN + ones))
    return (p + TEN if exists else BAD), days


@inlined
def read_fraction(data: Any, p: Any, e: Any) -> Any:
    """Read a fraction of a second, if there is one at ``p``: return its end and its microseconds, exactly."""
    if data[p] != POINT:
        return p, 0
    p += ONE
    first, unit = p, 100_000
    micros: Any = 0
    while p < e:
        d = digit(data, p)
        if d > U(9):
            break
        if unit == 0 and d != ZERO:
            return BAD, 0
        micros += np.int64(d) * unit
        unit //= 10
        p += ONE
    return (BAD if p == first else p), micros


@inlined
def two_digits(data: Any, p: Any) -> Any:
    """Return the two-digit number at ``p``; at least 100 where there is none."""
    tens, ones = digit(data, p), digit(data, p + ONE)
    return 100 if tens > U(9) or ones > U(9) else np.int64(tens * TEN + ones)


@inlined
def read_zone(data: Any, p: Any) -> Any:
    """Read ``Z`` or ``+hh:mm``; return its end and how many seconds it is ahead of UTC."""
    c = data[p]
    if c == 0x5A:
        return p + ONE, 0
    hours, minutes = two_digits(data, p + ONE), two_digits(data, p + FOUR)
    if c not in (PLUS, MINUS) or data[p + U(3)] != 0x3A or hours > 23 or minutes > 59:
        return BAD, 0
    ahead = (hours * 60 + minutes) * 60
    return p + U(6), (ahead if c == PLUS else -ahead)


@inlined
def read_moment(data: Any, p: Any, e: Any) -> Any:
    """Read ``YYYY-MM-DDThh:mm:ss[.fraction]``; return its end, its seconds since the epoch, and its microseconds."""
    end, days = read_date(data, p)
    word = load(data, p + EIGHT)
    separator = data[p + TEN]
    word = (word ^ TIME_SHAPE) & ~TIME_SEPARATOR
    if end == BAD or ((word + TIME_LIMIT) | word) & HIGH or separator not in (0x54, 0x20):
        return BAD, 0, 0
    pairs = word * TEN + (word >> EIGHT)
    hour, minute, second = pair(pairs, 3), pair(pairs, 6), two_digits(data, p + U(17))
    if hour > 23 or minute > 59 or second > 59 or data[p + U(16)] != 0x3A:
        return BAD, 0, 0
    p, micros = read_fraction(data, p + U(19), e)
    return p, days * DAY + hour * 3600 + minute * 60 + second, micros
