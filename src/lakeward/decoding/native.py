"""Compiled primitives that every decoder stands on: UTF-8 and 128-bit decimals.

Everything here runs inside numba without the GIL. Indexes are unsigned throughout: signed ones make numba test for
negative values at every access, which costs several times the decoding itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ZERO = np.uint64(0)
ONE = np.uint64(1)
TWO = np.uint64(2)
THREE = np.uint64(3)
EIGHT = np.uint64(8)
SIXTEEN = np.uint64(16)
BYTE_TOP = np.uint64(56)
SIGN = np.uint64(63)


@njit(nogil=True)
def is_utf8(data, start, end):
    """Whether ``data[start:end]`` is well-formed UTF-8 (no surrogates, no overlong forms, nothing above U+10FFFF)."""
    p = start
    while p < end:
        first = data[p]
        p += ONE
        if first < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= first <= 0xDF:
            more = ONE
        elif 0xE0 <= first <= 0xEF:
            more = TWO
            if first == 0xE0:
                low = 0xA0
            elif first == 0xED:
                high = 0x9F
        elif 0xF0 <= first <= 0xF4:
            more = THREE
            if first == 0xF0:
                low = 0x90
            elif first == 0xF4:
                high = 0x8F
        else:
            return False
        if more > end - p or data[p] < low or data[p] > high:
            return False
        for k in range(1, more):
            c = data[p + np.uint64(k)]
            if c < 0x80 or c > 0xBF:
                return False
        p += more
    return True


@njit(nogil=True)
def within(high, low, limit_high, limit_low):
    """Whether the magnitude of the signed 128-bit number (``high``, ``low``) is below the limit (all uint64)."""
    if high >> SIGN:
        high = ~high
        low = ~low
        if low == ~ZERO:
            low = ZERO
            high += ONE
        else:
            low += ONE
    return high < limit_high or (high == limit_high and low < limit_low)


@njit(nogil=True)
def big_endian(data, start, size, limit_high, limit_low):
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
