"""The compiled reader of JSON records: one buffer in, Arrow columns out, each record within its own bounds.

One compiled function serves every list of fields: names, kinds and limits are data in a `Plan`, so nothing from a
schema ever becomes code. A record that holds anything unusual is left to the reference decoder, legal or not; so what
is read here must equal what that one says, and nothing else is promised.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lakeward.decoding.json_numbers import read_decimal, read_double, read_scaled, rounds_once
from lakeward.decoding.json_types import Kind
from lakeward.decoding.native import compiled, inlined, load
from lakeward.decoding.text import (
    BACKSLASH,
    BAD,
    EIGHT,
    FOUR,
    MICROS,
    MINUS,
    ONE,
    QUOTE,
    ZERO,
    U,
    read_date,
    read_fraction,
    read_integer,
    read_moment,
    read_string,
    read_zone,
    skip_blank,
    two_digits,
)

(
    STRING,
    INT,
    LONG,
    FLOAT,
    DOUBLE,
    BOOLEAN,
    DATE,
    TIMESTAMP,
    TIMESTAMPTZ,
    DECIMAL,
    TEXT,
    TIME,
    UUID,
    BINARY,
    JSON,
    NOTHING,
) = (int(k) for k in list(Kind)[:16])
OPEN, CLOSE, COLON, COMMA = 0x7B, 0x7D, 0x3A, 0x2C
TRUE, FALSE, NULL = (U(int.from_bytes(word, "little")) for word in (b"true", b"fals", b"null"))
FOUR_BYTES = U(0xFFFFFFFF)
UUID_LENGTH, UUID_SIZE = 36, U(38)
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
# The moments of the years 1 to 9999, in seconds: the offset of a zone may lead out of them.
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799


class Plan(NamedTuple):
    """What the reader knows of ``n`` fields; arrays by field index.

    A field's key is matched as the token ``"name":`` in words of eight bytes, the last of them under a mask.
    ``follows`` is what the reader learns: the field that came after each (the n-th: that came first).
    """

    kind: NDArray[np.int64]
    words: NDArray[np.uint64]
    word_start: NDArray[np.uint64]
    """n + 1 places in ``words``; none between two of them: a name that must be escaped, never matched here."""
    word_mask: NDArray[np.uint64]
    token_size: NDArray[np.uint64]
    scale: NDArray[np.int64]
    limit: NDArray[np.uint64]
    """Two a field: high and low word of ten to the power of its precision."""
    follows: NDArray[np.uint64]


class Columns(NamedTuple):
    """Where values go: flat arrays, one stretch a column, one element a row; and what became of the records."""

    wide: NDArray[np.int64]
    """LONG, TIME, TIMESTAMP, TIMESTAMPTZ; two elements a row for DECIMAL."""
    narrow: NDArray[np.int32]
    double: NDArray[np.float64]
    single: NDArray[np.float32]
    flag: NDArray[np.uint8]
    ends: NDArray[np.int32]
    """Of strings: where row i ends is element i + 1."""
    text: NDArray[np.uint8]
    base: NDArray[np.int64]
    """By field: where its stretch begins."""
    text_base: NDArray[np.uint64]
    """By field: where its strings begin in ``text``."""
    valid: NDArray[np.uint8]
    """By field, ``rows`` elements each: 1 where there is a value."""
    mark: NDArray[np.int64]
    """By field: the last record in which it was seen, counted from 1."""
    origin: NDArray[np.int64]
    """By row: which message it came from."""
    unusual: NDArray[np.int64]
    """Messages left to the reference."""
    counts: NDArray[np.int64]
    """Rows written, messages left; then how many rows there is room for."""


@inlined
def is_key(data: Any, p: Any, g: Any, plan: Any) -> Any:
    """Whether the token of field ``g`` is at ``p``."""
    j, stop = plan.word_start[g], plan.word_start[g + ONE]
    if j == stop:
        return False
    stop -= ONE
    while j < stop:
        if load(data, p) != plan.words[j]:
            return False
        p += EIGHT
        j += ONE
    return (load(data, p) ^ plan.words[j]) & plan.word_mask[g] == ZERO


@compiled
def is_name(data: Any, p: Any, size: Any, g: Any, plan: Any) -> Any:
    """Whether the ``size`` bytes at ``p``, a key with its quotes, are those of field ``g``."""
    if plan.token_size[g] != size + ONE:
        return False
    j = plan.word_start[g]
    for k in range(np.int64(size)):
        if U(data[p + U(k)]) != (plan.words[j + (U(k) >> U(3))] >> ((U(k) & U(7)) << U(3))) & U(0xFF):
            return False
    return True


@compiled
def find_key(data: Any, p: Any, e: Any, g: Any, plan: Any) -> Any:
    """Find the field whose key is at ``p``, beginning with ``g``; return the place behind its colon, and the field."""
    q = p + ONE
    if p >= e or data[p] != QUOTE:
        return BAD, g
    while q < e and data[q] != QUOTE:
        if data[q] == BACKSLASH:
            return BAD, g
        q += ONE
    q += ONE
    size = q - p
    q = skip_blank(data, q, e)
    if q >= e or data[q] != COLON:
        return BAD, g
    fields = U(len(plan.kind))
    for _ in range(len(plan.kind)):
        if is_name(data, p, size, g, plan):
            return q + ONE, g
        g += ONE
        if g == fields:
            g = ZERO
    return BAD, g


@inlined
def set_null(g: Any, row: Any, out: Any, plan: Any) -> Any:
    """Make field ``g`` null in ``row``, with a zero under it."""
    kind = plan.kind[g]
    at = U(out.base[g]) + row
    out.valid[g * U(out.counts[2]) + row] = 0
    if kind in (STRING, TEXT, UUID, BINARY, JSON):
        out.ends[at + ONE] = out.ends[at]
    elif kind == DECIMAL:
        out.wide[at + row] = 0
        out.wide[at + row + ONE] = 0
    elif kind in (INT, DATE):
        out.narrow[at] = 0
    elif kind == DOUBLE:
        out.double[at] = 0.0
    elif kind == FLOAT:
        out.single[at] = 0.0
    elif kind in (BOOLEAN, NOTHING):
        out.flag[at] = 0
    else:
        out.wide[at] = 0


@inlined
def read_boolean(data: Any, p: Any) -> Any:
    """Read ``true`` or ``false``."""
    word = load(data, p) & FOUR_BYTES
    if word == TRUE:
        return p + FOUR, 1
    return (p + U(5) if word == FALSE and data[p + FOUR] == 0x65 else BAD), 0


@inlined
def read_timestamp(data: Any, p: Any, e: Any, zoned: Any) -> Any:
    """Read a quoted moment with or without a zone; return its end and microseconds since the epoch."""
    end, seconds, micros = read_moment(data, p + ONE, e)
    if data[p] != QUOTE or end >= e:
        return BAD, 0
    if zoned:
        end, ahead = read_zone(data, end)
        seconds -= ahead
    if end >= e or data[end] != QUOTE or seconds < FIRST_SECOND or seconds > LAST_SECOND:
        return BAD, 0
    return end + ONE, seconds * MICROS + micros


@inlined
def read_text(data: Any, p: Any, e: Any, g: Any, row: Any, out: Any) -> Any:
    """Read a string to the end of the column of field ``g``."""
    at = U(out.base[g]) + row
    base = out.text_base[g]
    p, o = read_string(data, p, e, out.text, base + U(out.ends[at]))
    out.ends[at + ONE] = np.int32(o - base)
    return p


@compiled
def shaped_as_uuid(data: Any, p: Any, e: Any) -> Any:
    """Whether a quoted uuid of 36 characters is at ``p``."""
    if p + UUID_SIZE >= e:
        return False
    for k in range(UUID_LENGTH):
        c = data[p + U(k + 1)]
        letter = c | 0x20
        if k in (8, 13, 18, 23):
            if c != MINUS:
                return False
        elif not (0x30 <= c <= 0x39 or 0x61 <= letter <= 0x66):
            return False
    return data[p] == QUOTE and data[p + UUID_SIZE - ONE] == QUOTE


@compiled
def read_uuid(data: Any, p: Any, e: Any, g: Any, row: Any, out: Any) -> Any:
    """Read a quoted uuid to the end of the column of field ``g``."""
    return read_text(data, p, e, g, row, out) if shaped_as_uuid(data, p, e) else BAD


@inlined
def read_day(data: Any, p: Any, e: Any) -> Any:
    """Read a quoted date; return its end and days since the epoch."""
    quoted = data[p] == QUOTE
    p, days = read_date(data, p + ONE)
    return (p + ONE if quoted and p < e and data[p] == QUOTE else BAD), days


@compiled
def read_time(data: Any, p: Any, e: Any) -> Any:
    """Read a quoted ``hh:mm:ss[.fraction]``; return its end and microseconds since midnight."""
    hour, minute, second = two_digits(data, p + ONE), two_digits(data, p + FOUR), two_digits(data, p + U(7))
    colons = data[p + U(3)] == COLON and data[p + U(6)] == COLON
    if data[p] != QUOTE or not colons or hour > 23 or minute > 59 or second > 59:
        return BAD, 0
    p, micros = read_fraction(data, p + U(9), e)
    if p >= e or data[p] != QUOTE:
        return BAD, 0
    return p + ONE, (hour * 3600 + minute * 60 + second) * MICROS + micros


@inlined
def read_value(data: Any, p: Any, e: Any, g: Any, row: Any, out: Any, plan: Any) -> Any:  # noqa: C901, PLR0912, PLR0913, PLR0917 - inlined
    """Read the value at ``p`` into ``row`` of field ``g``; return its end."""
    kind = plan.kind[g]
    at = U(out.base[g]) + row
    out.valid[g * U(out.counts[2]) + row] = 1
    if data[p] == 0x6E and load(data, p) & FOUR_BYTES == NULL:
        set_null(g, row, out, plan)
        p += FOUR
    elif kind in (STRING, TEXT):
        p = read_text(data, p, e, g, row, out)
    elif kind in (LONG, INT):
        p, number = read_integer(data, p, e)
        if kind == LONG:
            out.wide[at] = number
        elif number < INT_MIN or number > INT_MAX:
            p = BAD
        else:
            out.narrow[at] = number
    elif kind == DECIMAL:
        p = read_decimal(data, p, e, g, at + row, plan, out.wide)
    elif kind in (TIMESTAMPTZ, TIMESTAMP):
        p, out.wide[at] = read_timestamp(data, p, e, kind == TIMESTAMPTZ)
    elif kind == DOUBLE:
        p, out.double[at] = read_double(data, p, e)
    elif kind == FLOAT:
        p, value = read_double(data, p, e)
        p = p if rounds_once(value) else BAD
        out.single[at] = value
    elif kind == BOOLEAN:
        p, out.flag[at] = read_boolean(data, p)
    elif kind == TIME:
        p, out.wide[at] = read_time(data, p, e)
    elif kind == UUID:
        p = read_uuid(data, p, e, g, row, out)
    elif kind in (BINARY, JSON, NOTHING):
        p = BAD
    else:
        p, out.narrow[at] = read_day(data, p, e)
    return p


# The same as functions of their own: programs that call these are compiled in a third of the time.


@compiled
def behind_blank(data: Any, p: Any, e: Any) -> Any:
    """See `text.skip_blank`."""
    return skip_blank(data, p, e)


@compiled
def integer_at(data: Any, p: Any, e: Any) -> Any:
    """See `text.read_integer`."""
    return read_integer(data, p, e)


@compiled
def day_at(data: Any, p: Any, e: Any) -> Any:
    """See `read_day`."""
    return read_day(data, p, e)


@compiled
def string_at(data: Any, p: Any, e: Any, out: Any, o: Any) -> Any:
    """See `text.read_string`."""
    return read_string(data, p, e, out, o)


@compiled
def timestamp_at(data: Any, p: Any, e: Any, zoned: Any) -> Any:
    """See `read_timestamp`."""
    return read_timestamp(data, p, e, zoned)


@compiled
def double_at(data: Any, p: Any, e: Any) -> Any:
    """See `json_numbers.read_double`."""
    return read_double(data, p, e)


@compiled
def scaled_at(data: Any, p: Any, e: Any, scale: Any, top: Any, bottom: Any, at: Any, wide: Any) -> Any:  # noqa: PLR0913, PLR0917 - a number, its bounds and its place
    """See `json_numbers.read_scaled`."""
    return read_scaled(data, p, e, scale, top, bottom, at, wide)


@inlined
def read_member(data: Any, p: Any, e: Any, g: Any, plan: Any) -> Any:
    """Read a key and its colon at ``p``, likely that of field ``g``; return the place of its value, and the field."""
    if is_key(data, p, g, plan):
        p += plan.token_size[g]
    else:
        p, g = find_key(data, p, e, g, plan)
    return skip_blank(data, p, e), g


@inlined
def read_record(data: Any, p: Any, e: Any, stamp: Any, row: Any, plan: Any, out: Any) -> Any:  # noqa: C901, PLR0913, PLR0917 - inlined
    """Read the object that fills ``[p, e)`` into ``row``; return whether that was possible."""
    fields = U(len(plan.kind))
    last, seen = fields, ZERO
    p = skip_blank(data, p, e)
    if p >= e or data[p] != OPEN:
        return False
    p = skip_blank(data, p + ONE, e)
    while p < e and (seen > ZERO or data[p] != CLOSE):
        expected = plan.follows[last]
        p, g = read_member(data, p, e, expected, plan)
        if p >= e or out.mark[g] == stamp:
            return False
        if g != expected:
            plan.follows[last] = g
        out.mark[g] = stamp
        last = g
        seen += ONE
        p = read_value(data, p, e, g, row, out, plan)
        if p >= e:
            return False
        p = skip_blank(data, p, e)
        if p >= e or data[p] != COMMA:
            break
        p = skip_blank(data, p + ONE, e)
    if p >= e or data[p] != CLOSE or skip_blank(data, p + ONE, e) != e:
        return False
    if seen < fields:
        for g in range(fields):
            if out.mark[g] != stamp:
                set_null(g, row, out, plan)
    return True


@compiled
def read_records(data: Any, start: Any, length: Any, first: Any, plan: Any, out: Any) -> None:
    """Read the messages ``first + i`` at ``start[i]``; append to ``out`` their rows, or their numbers where unusual.

    ``data`` must be readable for `SLACK` bytes, or for the longest token if that is more, behind each record.
    """
    row, left = U(out.counts[0]), out.counts[1]
    for i in range(len(start)):
        if length[i] < 0:
            continue
        p = U(start[i])
        if read_record(data, p, p + U(length[i]), first + i + 1, row, plan, out):
            out.origin[row] = first + i
            row += ONE
        else:
            out.unusual[left] = first + i
            left += 1
    out.counts[0], out.counts[1] = row, left
