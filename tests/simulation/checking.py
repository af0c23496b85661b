"""Plays many seeds; what fails names its seed."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable

from tests.simulation.history import play


def play_all(seeds: Iterable[int]) -> Counter[str]:
    """What happened in all of them together; raises what the first that fails raises."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        happened += play(seed).world.happened
    return happened


def unseen(count: int) -> list[int]:
    """Seeds that nobody has played yet, most likely."""
    first = secrets.randbelow(1 << 48)
    return list(range(first, first + count))
