"""Which batches are handed to the committing threads, and when nothing more is taken: decisions over all tables.

The threads and the memory are shared by all tables of a process. A batch that is due waits in its lane, where it still
fills, until a thread is near: those that have waited longest go first, whatever their size, so that a table with much
to write cannot hold up one with little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lakeward.lanes import Lane

HELD_BATCHES, LEAST_HELD_BYTES = 4, 256 << 20
"""All tables together hold as much as so many of the largest batches, or so many bytes, whichever is more."""
IN_HAND = 2
"""Batches a committing thread: one that it commits, and one so that it need not wait for the next turn."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``committers``: threads. ``held_bytes``: Arrow memory of all batches, filling and committing, over all tables."""

    committers: int = 16
    held_bytes: int = 512 << 20


class Scheduling:
    """Used by the loop's thread alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._made_room = False

    def next(self, lanes: Sequence[Lane], now: float) -> list[Lane]:
        """The lanes whose batches are to be handed over now, in this order.

        While filling batches take more than half of the memory, every second one is the largest, due or not: the
        other half is there for those that commit, so that taking need not stop while commits keep up.
        """
        free = self._limits.committers * IN_HAND - sum(lane.engaged for lane in lanes)
        if free <= 0:
            return []
        waits = {lane: wait for lane in lanes if (wait := lane.due_in(now)) is not None}
        due = deque(sorted((lane for lane, wait in waits.items() if wait <= 0), key=waits.__getitem__))
        largest = deque(sorted(waits, key=lambda lane: lane.filling.bytes, reverse=True))
        excess = sum(lane.filling.bytes for lane in lanes) - self._limits.held_bytes // 2
        chosen: dict[Lane, None] = {}
        while len(chosen) < free and (due or (excess > 0 and largest)):
            self._made_room = bool(excess > 0 and largest and not (self._made_room and due))
            lane = (largest if self._made_room else due).popleft()
            if lane not in chosen:
                chosen[lane] = None
                excess -= lane.filling.bytes
        return list(chosen)

    def exhausted(self, lanes: Sequence[Lane]) -> bool:
        """Whether all tables together hold as much as they may: nothing more is taken until a commit is done."""
        return sum(lane.held_bytes for lane in lanes) >= self._limits.held_bytes
