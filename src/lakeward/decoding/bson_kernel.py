"""Compiled rewriting of extended JSON as plain JSON, see `bson`. What it does not know is left to that module."""

from __future__ import annotations

from typing import Any

import numpy as np

from lakeward.decoding.debezium_kernel import (
    CLOSE,
    CLOSE_LIST,
    COLON,
    COMMA,
    OPEN,
    OPEN_LIST,
    end_of_string,
)
from lakeward.decoding.native import compiled, inlined
from lakeward.decoding.text import (
    BAD,
    EPOCH_DAY,
    MINUS,
    ONE,
    QUOTE,
    TWO,
    ZERO,
    U,
    digit,
    read_integer,
    read_string,
    skip_blank,
)

DOLLAR = 0x24
DAY_MILLIS = 86_400_000
FIRST, LAST = -62_135_596_800_000, 253_402_300_799_999
OID, DATE, LONG, INTEGER, DECIMAL, DOUBLE, BINARY = range(7)
NAMES = ("oid", "date", "numberLong", "numberInt", "numberDecimal", "numberDouble", "binary")
TOKENS = [f'"${name}"'.encode() for name in NAMES]
TOKEN_BYTES = np.frombuffer(b"".join(TOKENS), np.uint8)
TOKEN_STARTS = np.cumsum([0, *map(len, TOKENS)]).astype(np.uint64)
TYPE = np.frombuffer(b'"$type"', np.uint8)
UNUSUAL = np.frombuffer(b"NaNInfinity-Infinity", np.uint8)
MOST_DEPTH = 60


@inlined
def copied(data: Any, p: Any, q: Any, out: Any, o: Any) -> Any:
    """Copy the bytes ``[p, q)``; return where they end."""
    while p < q:
        out[o] = data[p]
        p += ONE
        o += ONE
    return o


@inlined
def matches(data: Any, p: Any, e: Any, token: Any, low: Any, high: Any) -> Any:
    """Whether the bytes ``[low, high)`` of ``token`` are at ``p``."""
    if p + (high - low) > e:
        return False
    while low < high:
        if data[p] != token[low]:
            return False
        p += ONE
        low += ONE
    return True


@inlined
def two(number: Any, out: Any, o: Any) -> Any:
    """Write two digits."""
    out[o] = 0x30 + number // 10
    out[o + ONE] = 0x30 + number % 10
    return o + TWO


@compiled
def write_moment(millis: Any, out: Any, o: Any) -> Any:
    """Write milliseconds since 1970, of the years 1 to 9999, as a quoted moment in UTC."""
    days = millis // DAY_MILLIS
    left = millis - days * DAY_MILLIS
    # Days since 0000-03-01, in eras of 400 years (Hinnant, "chrono-compatible low-level date algorithms").
    z = days + EPOCH_DAY + 306
    era = z // 146_097
    day_of_era = z - era * 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    out[o] = QUOTE
    o = two(year // 100, out, o + ONE)
    o = two(year % 100, out, o)
    out[o] = MINUS
    o = two(month, out, o + ONE)
    out[o] = MINUS
    o = two(day, out, o + ONE)
    out[o] = 0x54
    o = two(left // 3_600_000, out, o + ONE)
    out[o] = COLON
    o = two(left // 60_000 % 60, out, o + ONE)
    out[o] = COLON
    o = two(left // 1000 % 60, out, o + ONE)
    out[o] = 0x2E
    out[o + ONE] = 0x30 + left % 1000 // 100
    o = two(left % 100, out, o + TWO)
    out[o] = 0x5A
    out[o + ONE] = QUOTE
    return o + TWO


@inlined
def closed(data: Any, p: Any, e: Any) -> Any:
    """Return the place behind the brace that comes next."""
    p = skip_blank(data, p, e)
    return p + ONE if p < e and data[p] == CLOSE else BAD


@compiled
def end_of_bare_number(data: Any, p: Any, e: Any) -> Any:  # noqa: C901 - one case a character
    """Return the end of the JSON number at ``p``, or BAD."""
    if p < e and data[p] == MINUS:
        p += ONE
    start = p
    while p < e and digit(data, p) <= U(9):
        p += ONE
    if p == start or (p - start > ONE and data[start] == 0x30):
        return BAD
    if p < e and data[p] == 0x2E:
        start = p + ONE
        p = start
        while p < e and digit(data, p) <= U(9):
            p += ONE
        if p == start:
            return BAD
    if p < e and (data[p] | 0x20) == 0x65:
        p += ONE
        if p < e and data[p] in (MINUS, 0x2B):
            p += ONE
        start = p
        while p < e and digit(data, p) <= U(9):
            p += ONE
        if p == start:
            return BAD
    return p


@compiled
def rewrite_wrapped(data: Any, p: Any, e: Any, out: Any, o: Any) -> Any:  # noqa: C901, PLR0911, PLR0912, PLR0915 - one case a form
    """Rewrite the object at ``p``, whose first name begins with a dollar sign; return both ends."""
    p = skip_blank(data, p + ONE, e)
    form = -1
    for k in range(7):
        if matches(data, p, e, TOKEN_BYTES, TOKEN_STARTS[U(k)], TOKEN_STARTS[U(k + 1)]):
            form = k
            p += TOKEN_STARTS[U(k + 1)] - TOKEN_STARTS[U(k)]
            break
    p = skip_blank(data, p, e)
    if form < 0 or p >= e or data[p] != COLON:
        return BAD, o
    p = skip_blank(data, p + ONE, e)
    if p >= e:
        return BAD, o
    if form == DATE:
        inner = data[p] == OPEN
        if inner:
            p = skip_blank(data, p + ONE, e)
            if not matches(data, p, e, TOKEN_BYTES, TOKEN_STARTS[U(LONG)], TOKEN_STARTS[U(LONG + 1)]):
                return BAD, o
            p = skip_blank(data, p + U(13), e)
            if p >= e or data[p] != COLON:
                return BAD, o
            p = skip_blank(data, p + ONE, e)
            if p >= e or data[p] != QUOTE:
                return BAD, o
            p += ONE
        if p >= e or data[p] == QUOTE:
            return BAD, o
        p, millis = read_integer(data, p, e)
        if p >= e or millis < FIRST or millis > LAST:
            return BAD, o
        if inner:
            if data[p] != QUOTE:
                return BAD, o
            p = closed(data, p + ONE, e)
            if p >= e:
                return BAD, o
        return closed(data, p, e), write_moment(millis, out, o)
    if data[p] != QUOTE:
        return BAD, o
    end = end_of_string(data, p, e)
    if end >= e:
        return BAD, o
    if form in (LONG, INTEGER, DOUBLE):
        number = end_of_bare_number(data, p + ONE, end - ONE)
        whole = form != DOUBLE
        if number != end - ONE:
            return BAD, o
        if whole:
            for k in range(p + ONE, number):
                if digit(data, U(k)) > U(9) and data[U(k)] != MINUS:
                    return BAD, o
        return closed(data, end, e), copied(data, p + ONE, end - ONE, out, o)
    if form == OID:
        if end - p != U(26):
            return BAD, o
        for k in range(p + ONE, end - ONE):
            c = data[U(k)]
            if not (0x30 <= c <= 0x39 or 0x61 <= (c | 0x20) <= 0x66):
                return BAD, o
    o = copied(data, p, end, out, o)
    if form == BINARY:
        p = skip_blank(data, end, e)
        if p >= e or data[p] != COMMA:
            return BAD, o
        p = skip_blank(data, p + ONE, e)
        if not matches(data, p, e, TYPE, ZERO, U(len(TYPE))):
            return BAD, o
        p = skip_blank(data, p + U(len(TYPE)), e)
        if p >= e or data[p] != COLON:
            return BAD, o
        p = skip_blank(data, p + ONE, e)
        if p >= e or data[p] != QUOTE:
            return BAD, o
        end = end_of_string(data, p, e)
        if end >= e:
            return BAD, o
    return closed(data, end, e), o


@compiled
def rewrite(data: Any, p: Any, e: Any, out: Any, o: Any) -> Any:  # noqa: C901, PLR0911, PLR0912 - one case a character
    """Rewrite the JSON text in ``[p, e)``, its blanks left out; return where it ends in ``out``, or BAD."""
    depth = 0
    while True:
        p = skip_blank(data, p, e)
        if p >= e:
            return o if depth == 0 else BAD
        c = data[p]
        if c == QUOTE:
            end = end_of_string(data, p, e)
            if end > e:
                return BAD
            o = copied(data, p, end, out, o)
            p = end
        elif c == OPEN:
            q = skip_blank(data, p + ONE, e)
            if q + ONE < e and data[q] == QUOTE and data[q + ONE] == DOLLAR:
                p, o = rewrite_wrapped(data, p, e, out, o)
                if p == BAD:
                    return BAD
            else:
                depth += 1
                out[o] = c
                o += ONE
                p += ONE
        elif c in (OPEN_LIST, CLOSE, CLOSE_LIST, COLON, COMMA):
            depth += 1 if c == OPEN_LIST else -1 if c in (CLOSE, CLOSE_LIST) else 0
            out[o] = c
            o += ONE
            p += ONE
        elif c in (0x4E, 0x49) or (c == MINUS and p + ONE < e and data[p + ONE] == 0x49):  # NaN, Infinity
            low, high = (ZERO, U(3)) if c == 0x4E else (U(3), U(11)) if c == 0x49 else (U(11), U(20))
            if not matches(data, p, e, UNUSUAL, low, high):
                return BAD
            out[o] = QUOTE
            o = copied(data, p, p + (high - low), out, o + ONE)
            out[o] = QUOTE
            o += ONE
            p += high - low
        elif c < 0x20:
            return BAD
        else:
            while p < e and data[p] > 0x20 and data[p] not in (COMMA, CLOSE, CLOSE_LIST, QUOTE):
                out[o] = data[p]
                o += ONE
                p += ONE
            if p < e and data[p] == QUOTE:
                return BAD
        if depth < 0 or depth > MOST_DEPTH:
            return BAD


@compiled
def rewrite_documents(data: Any, start: Any, length: Any, out: Any, place: Any, size: Any) -> None:
    """Rewrite documents; ``size`` is -1 for those that are null, -2 for those that are left."""
    o: Any = ZERO
    for i in range(len(start)):
        place[i] = np.int64(o)
        size[i] = -1
        if length[i] < 0:
            continue
        p = U(start[i])
        end = rewrite(data, p, p + U(length[i]), out, o)
        size[i] = -2
        if end != BAD:
            size[i] = np.int32(end - o)
            o = end


@compiled
def unescape(data: Any, start: Any, length: Any, around: Any, out: Any, place: Any, size: Any) -> None:  # noqa: PLR0913, PLR0917 - compiled
    """Write what JSON strings stand for, each between the two halves of ``around`` (its first byte: where they meet).

    ``size`` is -1 for what is no string. ``data`` must be readable for `SLACK` bytes behind each.
    """
    o: Any = ZERO
    middle = U(around[0]) + ONE
    for i in range(len(start)):
        place[i] = np.int64(o)
        size[i] = -1
        if length[i] < 0:
            continue
        p = U(start[i])
        e = p + U(length[i])
        q = copied(around, ONE, middle, out, o)
        p, q = read_string(data, p, e, out, q)
        if p == e:
            q = copied(around, middle, U(len(around)), out, q)
            size[i] = np.int32(q - o)
            o = q
