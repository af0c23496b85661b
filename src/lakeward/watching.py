"""Tables that nothing was committed to for a while are looked at: somebody may have moved them (PROTOCOL F5, B2).

A busy writer learns of a rollback when its next commit is refused. One whose stream is silent has no next commit, and
what was undone would stay missing until the next record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from lakeward.batching import QUIET_INTERVALS
from lakeward.clock import Clock
from lakeward.errors import Directive, LakewardError
from lakeward.lanes import Lane
from lakeward.ledger import LedgerEntry
from lakeward.outcomes import Found
from lakeward.positions import Partition

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LONGEST_S = 60.0
"""A table is looked at this often at least, in seconds, however long its flush interval is."""


@dataclass(slots=True)
class _Quiet:
    """Since when a lane has had nothing to commit, and what its table said last."""

    entry: LedgerEntry | None
    since: float


class Watching:
    """Used by the loop's thread. Looks run on a committing thread, one at a time: they must not hold up commits."""

    def __init__(self, clock: Clock, submit: Callable[[Callable[[], Found]], Future[Found]]) -> None:
        self._clock = clock
        self._submit = submit
        self._quiet: dict[str, _Quiet] = {}

    def turn(self, lanes: Sequence[Lane]) -> list[tuple[Lane, LedgerEntry | None]]:
        """Look where it is time to; return the lanes that somebody has moved, with what their tables say now.

        Raises:
            LakewardError: what a table says stops us (dropped, unproven).
        """
        now = self._clock.monotonic()
        moved = []
        idle = all(lane.looking is None for lane in lanes)
        for lane in lanes:
            held = self._quiet.setdefault(lane.name, _Quiet(lane.entry, now))
            if lane.looking is not None:
                found = self._heard(lane)
                if found is not None and self._is_quiet(lane, held):
                    held.since = now
                    if differs(lane, found.entry):
                        moved.append((lane, found.entry))
                    elif not found.at_head:
                        lane.restate(lane.next, now)
            elif not self._is_quiet(lane, held):
                held.entry, held.since = lane.entry, now
            elif idle and now - held.since >= min(lane.settings.flush.interval * QUIET_INTERVALS, LONGEST_S):
                held.since, idle = now, False
                lane.looking = self._submit(lane.target.find)
        return moved

    @staticmethod
    def _is_quiet(lane: Lane, held: _Quiet) -> bool:
        waits = lane.committing is None and lane.filling.empty and not lane.settling
        return waits and lane.exists and lane.entry is held.entry and lane.entry is not None

    @staticmethod
    def _heard(lane: Lane) -> Found | None:
        """What the look of ``lane`` has found; None while it is under way, or where no server answered."""
        future = lane.looking
        if future is None or not future.done():
            return None
        lane.looking = None
        try:
            return future.result()
        except LakewardError as error:
            if error.directive is not Directive.RETRY:
                raise
            log.warning("trying again", what="looking at a quiet table", table=lane.name, error=error.what)
            return None


def differs(lane: Lane, told: LedgerEntry | None, but: Collection[Partition] = ()) -> bool:
    """Whether a partition that we read (``but`` for some) stands elsewhere in ``told`` than in our own last entry."""
    known = lane.entry.positions if lane.entry is not None else {}
    now = told.positions if told is not None else {}
    return any(p not in now or now[p].next != known[p].next for p in lane.next if p in known and p not in but)
