"""Compiled decoding of what JSON has no form for: bytes as base64, exact numbers as such bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from lakeward.decoding.native import big_endian, compiled
from lakeward.decoding.text import FOUR, ONE, TWO, ZERO, U

INVALID = 0xFF
SIXTY_FOUR = np.full(256, INVALID, np.uint8)
for _value, _letter in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):
    SIXTY_FOUR[_letter] = _value
PADDING = 0x3D


@compiled
def read_base64(data: Any, p: Any, e: Any, out: Any, o: Any) -> Any:  # noqa: PLR0911 - one case a form
    """Decode the padded base64 in ``[p, e)`` to ``out`` at ``o``; return where it ends there, and whether it is one."""
    if (e - p) & U(3) != ZERO:
        return o, False
    while p < e:
        a, b = U(SIXTY_FOUR[data[p]]), U(SIXTY_FOUR[data[p + ONE]])
        c, d = U(SIXTY_FOUR[data[p + TWO]]), U(SIXTY_FOUR[data[p + U(3)]])
        last = p + FOUR == e
        if (a | b) > U(63):
            return o, False
        out[o] = (a << TWO) | (b >> FOUR)
        o += ONE
        if last and data[p + U(3)] == PADDING:
            if data[p + TWO] == PADDING:
                return o, b & U(15) == ZERO
            if c > U(63) or c & U(3) != ZERO:
                return o, False
            out[o] = ((b & U(15)) << FOUR) | (c >> TWO)
            return o + ONE, True
        if (c | d) > U(63):
            return o, False
        out[o] = ((b & U(15)) << FOUR) | (c >> TWO)
        out[o + ONE] = ((c & U(3)) << U(6)) | d
        o += TWO
        p += FOUR
    return o, True


@compiled
def decode_base64(data: Any, starts: Any, valid: Any, out: Any, ends: Any, good: Any) -> None:
    """Decode the strings between ``starts``; ``good`` is 0, and nothing is written, where one is no padded base64."""
    o: Any = ZERO
    ends[0] = 0
    for i in range(len(valid)):
        good[i] = 1
        if valid[i]:
            end, fine = read_base64(data, U(starts[i]), U(starts[i + 1]), out, o)
            if fine:
                o = end
            else:
                good[i] = 0
        ends[i + 1] = np.int32(o)


@compiled
def decode_unscaled(data: Any, starts: Any, valid: Any, limit: Any, words: Any, good: Any) -> None:
    """Decode big-endian numbers between ``starts``; ``good`` is 0 where one is not below ``limit`` (high, low)."""
    for i in range(len(valid)):
        good[i] = 1
        words[U(2 * i)] = ZERO
        words[U(2 * i + 1)] = ZERO
        if valid[i]:
            start = U(starts[i])
            high, low, fits = big_endian(data, start, U(starts[i + 1]) - start, limit[0], limit[1])
            if fits:
                words[U(2 * i)] = low
                words[U(2 * i + 1)] = high
            else:
                good[i] = 0
