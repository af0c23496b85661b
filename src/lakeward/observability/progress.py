"""What a pipeline is doing, as numbers: taken by the loop's thread, shown by whoever asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableProgress:
    """One table. ``rows``: in the table; ``written``: by this process; ``lag``: messages not yet committed.

    ``last_commit_ms`` is wall time since the epoch; None before the first commit of this process. ``letters`` are the
    dead letters that wait. ``gaps`` counts holes since the pipeline's first commit, None where nobody follows
    sequences; ``breaks`` are the latest, for people.
    """

    table: str
    rows: int
    written: int
    commits: int
    lag: int
    snapshot_id: int | None
    last_commit_ms: int | None
    refusals: int
    letters: int = 0
    gaps: int | None = None
    breaks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """The whole pipeline. ``rate``: messages taken a second; ``freshness``: p50 and p99 in ms from record to commit."""

    state: str
    taken: int
    rate: float
    freshness: tuple[int, int] | None
    tables: Sequence[TableProgress]


def percentiles(samples: Sequence[int]) -> tuple[int, int] | None:
    """The 50th and 99th percentile of ``samples`` (nearest rank); None where there are none."""
    if not samples:
        return None
    ordered = sorted(samples)
    return ordered[(len(ordered) - 1) // 2], ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]


class Meter:
    """A rate over about the last two seconds."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []

    def rate(self, now: float, count: int) -> float:
        """Note that ``count`` was reached at ``now`` (seconds); return how many a second."""
        self._marks.append((now, count))
        while len(self._marks) > 2 and now - self._marks[1][0] > 2.0:
            self._marks.pop(0)
        (since, before) = self._marks[0]
        return (count - before) / (now - since) if now > since else 0.0
