"""Exact numbers from their digits, in compiled code: decimals as 128-bit integers, doubles rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np

from lakeward.decoding.native import compiled, inlined
from lakeward.decoding.text import BAD, ONE, QUOTE, ZERO, U, leading_zeros, read_number

POWERS = np.array([10**k for k in range(20)], np.uint64)
EXACT_POWERS = np.array([10.0**k for k in range(23)], np.float64)
EXACT_DIGITS = U(2**53)
HALF = U(32)
LOW_HALF = U(0xFFFFFFFF)
FIRST_FIVE, LAST_FIVE = -342, 308
UNDECIDED = U(0x1FF)
"""The bits of a product's high word that are rounded away: all ones may be a carry short."""
FIVE_TO_TWO = 217_706
"""The logarithm of ten to the base two, times 65,536."""


def _five(power: int) -> int:
    """The 128 highest bits of five to this power; what follows them is dropped, or, just below one, rounded up."""
    five: int = 5 ** abs(power)
    size = five.bit_length()
    if power >= 0:
        return (five << 128) >> size
    if power >= -27:
        return (1 << (size + 127)) // five + 1
    inverse = (1 << (2 * size + 128)) // five + 1
    return inverse >> (inverse.bit_length() - 128)


_FIVES = [divmod(_five(power), 2**64) for power in range(FIRST_FIVE, LAST_FIVE + 1)]
FIVES_HIGH, FIVES_LOW = (np.array(column, np.uint64) for column in zip(*_FIVES, strict=True))
FLOAT_MAX = 3.4028234663852886e38
FLOAT_NORMAL = 1.1754943508222875e-38
BELOW_FLOAT = U(0x1FFFFFFF)
HALFWAY = U(0x10000000)


@inlined
def multiply(a: Any, b: Any) -> Any:
    """Return the high and the low word of ``a * b``."""
    a1, a0, b1, b0 = a >> HALF, a & LOW_HALF, b >> HALF, b & LOW_HALF
    low, middle, other = a0 * b0, a1 * b0, a0 * b1
    carried = (low >> HALF) + (middle & LOW_HALF) + (other & LOW_HALF)
    return a1 * b1 + (middle >> HALF) + (other >> HALF) + (carried >> HALF), (carried << HALF) | (low & LOW_HALF)


@inlined
def scaled(digits: Any, shift: Any) -> Any:
    """Return ``digits * 10**shift`` as two words, and whether that is a whole number that was computed."""
    if shift < 0:
        if shift < -19 or digits % POWERS[-shift] != ZERO:
            return ZERO, ZERO, digits == ZERO
        return ZERO, digits // POWERS[-shift], True
    if shift > 19:
        return ZERO, ZERO, digits == ZERO
    high, low = multiply(digits, POWERS[shift])
    return high, low, True


@inlined
def read_scaled(data: Any, p: Any, e: Any, scale: Any, top: Any, bottom: Any, at: Any, wide: Any) -> Any:  # noqa: PLR0913, PLR0917 - inlined
    """Read a number, bare or as a string, below a limit of two words, into two words at ``at``; return its end."""
    quoted = data[p] == QUOTE
    if quoted:
        p += ONE
    p, digits, power, negative = read_number(data, p, e)
    high, low, whole = scaled(digits, power + scale)
    if p >= e or not whole or high > top or (high == top and low >= bottom):
        return BAD
    if negative:
        low = ZERO - low
        high = ~high + (ONE if low == ZERO else ZERO)
    wide[at], wide[at + ONE] = np.int64(low), np.int64(high)
    if quoted:
        return p + ONE if data[p] == QUOTE else BAD
    return p


@inlined
def read_decimal(data: Any, p: Any, e: Any, g: Any, at: Any, plan: Any, wide: Any) -> Any:  # noqa: PLR0913, PLR0917 - inlined
    """Read a number as `read_scaled` does, with the scale and the limit of field ``g``."""
    return read_scaled(data, p, e, plan.scale[g], plan.limit[g + g], plan.limit[g + g + ONE], at, wide)


@compiled
def nearest_double(digits: Any, power: Any) -> Any:
    """Return the double nearest to ``digits * 10**power``, and whether it was found; ``digits`` must not be zero.

    Lemire, "Number Parsing at a Gigabyte per Second": 128 bits of the power of five decide the rounding. Subnormal
    numbers and those too large are not found.
    """
    if power < FIRST_FIVE or power > LAST_FIVE:
        return 0.0, False
    zeros = leading_zeros(digits)
    digits <<= zeros
    at = U(power - FIRST_FIVE)
    high, low = multiply(digits, FIVES_HIGH[at])
    if high & UNDECIDED == UNDECIDED:
        more, _ = multiply(digits, FIVES_LOW[at])
        low += more
        high += ONE if more > low else ZERO
    top = high >> U(63)
    shift = top + U(9)
    mantissa = high >> shift
    exponent = ((FIVE_TO_TWO * power) >> 16) + 63 + 1023 + np.int64(top) - np.int64(zeros)
    if low <= ONE and -4 <= power <= 23 and mantissa & U(3) == ONE and mantissa << shift == high:
        mantissa &= ~ONE  # exactly half way: to the even one
    mantissa = (mantissa + (mantissa & ONE)) >> ONE
    if mantissa >= U(2**53):
        mantissa = U(2**52)
        exponent += 1
    if exponent <= 0 or exponent >= 0x7FF:
        return 0.0, False
    bits = (mantissa & U(2**52 - 1)) | (U(exponent) << U(52))
    return np.uint64(bits).view(np.float64), True


@inlined
def read_double(data: Any, p: Any, e: Any) -> Any:
    """Read a number as the double nearest to it. An integer beyond 2**53 is left: it may not be rounded."""
    p, digits, power, negative = read_number(data, p, e)
    value = np.float64(digits)
    if digits <= EXACT_DIGITS and -22 <= power <= 22:
        value = value / EXACT_POWERS[-power] if power < 0 else value * EXACT_POWERS[power]
    elif digits != ZERO:
        value, found = nearest_double(digits, power)
        p = p if found and power != 0 else BAD
    return p, (-value if negative else value)


@inlined
def rounds_once(value: Any) -> Any:
    """Whether a correctly rounded double, rounded again, becomes the float nearest to the number it stands for.

    No for a whole number that a float does not hold: it may have been written as an integer.
    """
    magnitude = abs(value)
    if value == 0.0:
        return True
    below = np.float64(value).view(np.uint64) & BELOW_FLOAT
    rounded = below != ZERO and np.floor(value) == value
    return FLOAT_NORMAL <= magnitude <= FLOAT_MAX and below != HALFWAY and not rounded
