"""Compiled search for the members of JSON objects: where the parts of a change event lie, without reading them.

What is passed over is only balanced, not checked: a part that becomes a row is read, and so checked, by its reader.
Nothing behind the end of the buffer is looked at.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lakeward.decoding.native import compiled, inlined, load
from lakeward.decoding.text import (
    BACKSLASH,
    BACKSLASHES,
    BAD,
    EIGHT,
    HIGH,
    LOW,
    MINUS,
    ONE,
    QUOTE,
    QUOTES,
    TEN,
    TWO,
    ZERO,
    U,
    digit,
    skip_blank,
    trailing_zeros,
)

OPEN, CLOSE, OPEN_LIST, CLOSE_LIST, COLON, COMMA = 0x7B, 0x7D, 0x5B, 0x5D, 0x3A, 0x2C
LARGEST = U(0x7FFFFFFFFFFFFFFF)
TENTH = U(0x7FFFFFFFFFFFFFFF // 10)
HEX = np.frombuffer(b"0123456789ABCDEF", np.uint8)


class Names(NamedTuple):
    """The ``k`` names that are looked for, each as the token ``"name":`` in ``width`` words of eight bytes."""

    words: NDArray[np.uint64]
    """k * width; padded with zeros."""
    masks: NDArray[np.uint64]
    size: NDArray[np.uint64]
    follows: NDArray[np.uint64]
    """What is learned: the name that came after each (the k-th: that came first)."""


class Found(NamedTuple):
    """Where members are, by message and name."""

    at: NDArray[np.int64]
    """n * k: where the value begins."""
    length: NDArray[np.int32]
    """n * k: its bytes; -1: there is no such member."""
    members: NDArray[np.int32]
    """By message: how many members it has; -1: it is not a plainly written object."""
    group: NDArray[np.int32]
    """By message: which of the distinct values of the first name it holds, numbered as they come; -1: none."""


@inlined
def end_of_string(data: Any, p: Any, e: Any) -> Any:
    """Return the place behind the string whose opening quote is at ``p``."""
    limit = U(len(data))
    p += ONE
    while p < e:
        if p + EIGHT <= limit:
            word = load(data, p)
            quote, backslash = word ^ QUOTES, word ^ BACKSLASHES
            special = (((quote - LOW) & ~quote) | ((backslash - LOW) & ~backslash)) & HIGH
            if special == ZERO:
                p += EIGHT
                continue
            p += trailing_zeros(special) >> U(3)
            if p >= e:
                return BAD
        c = data[p]
        if c == QUOTE:
            return p + ONE
        p += TWO if c == BACKSLASH else ONE
    return BAD


@compiled
def end_of_value(data: Any, p: Any, e: Any) -> Any:
    """Return the place behind the value at ``p``; brackets balance, whichever they are."""
    if p >= e:
        return BAD
    first = data[p]
    if first == QUOTE:
        return end_of_string(data, p, e)
    if first not in (OPEN, OPEN_LIST):
        start = p
        while p < e and data[p] > 0x20 and data[p] not in (COMMA, CLOSE, CLOSE_LIST):
            p += ONE
        return p if p > start else BAD
    depth = 0
    while p < e:
        c = data[p]
        if c == QUOTE:
            p = end_of_string(data, p, e)
            continue
        if c in (OPEN, OPEN_LIST):
            depth += 1
        elif c in (CLOSE, CLOSE_LIST):
            depth -= 1
            if depth == 0:
                return p + ONE
        p += ONE
    return BAD


@inlined
def is_token(data: Any, p: Any, e: Any, g: Any, names: Any) -> Any:
    """Whether the token of name ``g`` is at ``p``, inside the message that ends at ``e``."""
    width = U(len(names.words) // len(names.size))
    if p + width * EIGHT > U(len(data)):
        if p + names.size[g] > e:
            return False
        for k in range(names.size[g]):
            byte = (names.words[g * width + (k >> U(3))] >> ((k & U(7)) << U(3))) & U(0xFF)
            if U(data[p + k]) != byte:
                return False
        return True
    j = g * width
    for _ in range(width):
        if (load(data, p) ^ names.words[j]) & names.masks[j] != ZERO:
            return False
        p += EIGHT
        j += ONE
    return True


@compiled
def is_same_name(data: Any, p: Any, size: Any, g: Any, names: Any) -> Any:
    """Whether the ``size`` bytes at ``p``, a key with its quotes, are name ``g``."""
    if names.size[g] != size + ONE:
        return False
    width = U(len(names.words) // len(names.size))
    for k in range(size):
        byte = (names.words[g * width + (k >> U(3))] >> ((k & U(7)) << U(3))) & U(0xFF)
        if U(data[p + k]) != byte:
            return False
    return True


@compiled
def find_name(data: Any, p: Any, e: Any, names: Any) -> Any:
    """Return the place behind the colon of the key at ``p``, and which name it is; their number: another one."""
    count = U(len(names.size))
    if p >= e or data[p] != QUOTE:
        return BAD, count
    q = end_of_string(data, p, e)
    if q == BAD:
        return BAD, count
    size = q - p
    for k in range(size):
        if data[p + k] == BACKSLASH:
            return BAD, count
    q = skip_blank(data, q, e)
    if q >= e or data[q] != COLON:
        return BAD, count
    for g in range(count):
        if is_same_name(data, p, size, g, names):
            return q + ONE, g
    return q + ONE, count


@inlined
def same_bytes(data: Any, p: Any, q: Any, size: Any) -> Any:
    """Whether the ``size`` bytes at ``p`` and at ``q`` are the same."""
    while size >= EIGHT:
        if load(data, p) != load(data, q):
            return False
        p += EIGHT
        q += EIGHT
        size -= EIGHT
    while size > ZERO:
        if data[p] != data[q]:
            return False
        p += ONE
        q += ONE
        size -= ONE
    return True


@compiled
def find_members(data: Any, start: Any, length: Any, names: Any, found: Any) -> None:  # noqa: C901, PLR0912, PLR0915 - compiled as one
    """Look for ``names`` in the objects at ``start``; null messages have no members.

    A value of the first name that equals the one before, byte by byte, is passed over at once.
    """
    count = U(len(names.size))
    known: Any = ZERO
    known_size: Any = ZERO
    groups = 0
    for i in range(len(start)):
        row = U(i) * count
        for g in range(count):
            found.length[row + g] = -1
        found.group[i] = -1
        found.members[i] = -1
        if length[i] < 0:
            continue
        p = U(start[i])
        e = p + U(length[i])
        p = skip_blank(data, p, e)
        if p >= e or data[p] != OPEN:
            continue
        p = skip_blank(data, p + ONE, e)
        last, seen = count, 0
        while p < e and (seen > 0 or data[p] != CLOSE):
            g = names.follows[last]
            if g < count and is_token(data, p, e, g, names):
                p += names.size[g]
            else:
                expected = g
                p, g = find_name(data, p, e, names)
                if p == BAD:
                    break
                if g != expected:
                    names.follows[last] = g
            p = skip_blank(data, p, e)
            if g == ZERO and known_size > ZERO and p + known_size < e and same_bytes(data, p, known, known_size):
                end = p + known_size
            else:
                end = end_of_value(data, p, e)
                if end >= e:
                    p = BAD
                    break
                if g == ZERO:
                    known, known_size = p, end - p
                    groups += 1
            if g < count:
                if found.length[row + g] >= 0:
                    p = BAD
                    break
                found.at[row + g] = np.int64(p)
                found.length[row + g] = np.int32(end - p)
                if g == ZERO:
                    found.group[i] = groups - 1
                last = g
            seen += 1
            p = skip_blank(data, end, e)
            if p >= e or data[p] != COMMA:
                break
            p = skip_blank(data, p + ONE, e)
        if p < e and data[p] == CLOSE and skip_blank(data, p + ONE, e) == e:
            found.members[i] = seen


@compiled
def compare(data: Any, start: Any, length: Any, one: Any, other: Any, same: Any) -> None:
    """Say of pairs of byte strings, by their numbers, whether they are the same; null equals null."""
    for k in range(len(one)):
        i, j = U(one[k]), U(other[k])
        same[k] = length[i] == length[j]
        if same[k] and length[i] > 0:
            p, q = U(start[i]), U(start[j])
            for offset in range(U(length[i])):
                if data[p + offset] != data[q + offset]:
                    same[k] = 0
                    break


@compiled
def read_whole_numbers(data: Any, start: Any, length: Any, out: Any, valid: Any) -> None:
    """Read the integers at ``start``, bare or as strings; ``valid`` is 0 where there is none that fits 64 bits."""
    for i in range(len(start)):
        valid[i] = 0
        out[i] = 0
        if length[i] <= 0:
            continue
        p = U(start[i])
        e = p + U(length[i])
        if data[p] == QUOTE and length[i] > 2:
            p += ONE
            e -= ONE
        negative = data[p] == MINUS
        if negative:
            p += ONE
        value: Any = ZERO
        fits: Any = p < e
        while p < e:
            d = digit(data, p)
            if d > U(9) or value > TENTH or value * TEN + d > LARGEST:
                fits = False
                break
            value = value * TEN + d
            p += ONE
        if fits:
            valid[i] = 1
            out[i] = -np.int64(value) if negative else np.int64(value)


@inlined
def write_hex(value: Any, out: Any, o: Any) -> Any:
    """Write ``value`` in upper-case hexadecimal digits, at least one."""
    shift = U(28)
    while shift > ZERO and value >> shift == ZERO:
        shift -= U(4)
    while True:
        out[o] = HEX[(value >> shift) & U(15)]
        o += ONE
        if shift == ZERO:
            return o
        shift -= U(4)


@compiled
def write_log_places(places: Any, valid: Any, ends: Any, out: Any) -> None:
    """Write 64-bit places in a PostgreSQL log as that server does: ``0/16B3748``; at most 17 bytes each."""
    o: Any = ZERO
    ends[0] = 0
    for i in range(len(places)):
        if valid[i]:
            place = U(places[i])
            o = write_hex(place >> U(32), out, o)
            out[o] = 0x2F
            o = write_hex(place & U(0xFFFFFFFF), out, o + ONE)
        ends[i + 1] = np.int32(o)
