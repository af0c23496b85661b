"""Durations and sizes as people write them: ``250ms``, ``5s``, ``7d``; ``128MiB``, ``1GB``, ``4096``."""

from __future__ import annotations

import math
import re
from datetime import timedelta

_QUANTITY = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*", re.ASCII)
_MILLISECONDS = {"ms": 1, "": 1000, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}


def parse_interval(value: str | float) -> timedelta:
    """Read ``250ms``, ``5s``, ``1m``, ``2h``, ``7d``; a bare number is seconds.

    Raises:
        ValueError: not of that form, zero, or longer than any clock runs.
    """
    number, unit = _split(value)
    if unit not in _MILLISECONDS:
        raise ValueError("is not a duration; write 250ms, 5s, 1m, 2h or 7d")
    try:
        interval = timedelta(milliseconds=number * _MILLISECONDS[unit])
    except OverflowError as error:
        raise ValueError("is too long a duration") from error
    if interval < timedelta(milliseconds=1):
        raise ValueError("must be at least 1ms")
    return interval


def format_interval(interval: timedelta) -> str:
    """The shortest text that `parse_interval` reads back as ``interval``, to the millisecond."""
    milliseconds = round(interval.total_seconds() * 1000)
    for unit in ("d", "h", "m", "s"):
        if milliseconds % _MILLISECONDS[unit] == 0:
            return f"{milliseconds // _MILLISECONDS[unit]}{unit}"
    return f"{milliseconds}ms"


def parse_size(value: str | float) -> int:
    """Read ``128MiB``, ``1GB``, ``4096`` as bytes: KiB is 1024, kB is 1000; a bare number is bytes.

    Raises:
        ValueError: not of that form, or not a whole number of bytes above 0.
    """
    number, unit = _split(value)
    factor = _BYTES.get(unit.lower())
    if factor is None:
        raise ValueError("is not a size; write 4096, 64KiB, 128MiB or 1GB")
    size = number * factor
    if size != int(size) or size < 1:
        raise ValueError("must be a whole number of bytes above 0")
    return int(size)


def _split(value: str | float) -> tuple[float, str]:
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        if match is None:
            return 0, "?"
        digits = match["number"]
        return (float(digits) if "." in digits else int(digits)), match["unit"]
    if isinstance(value, bool) or not math.isfinite(value) or value < 0:
        return 0, "?"
    return value, ""
