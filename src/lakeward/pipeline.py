"""The one loop, as numbered steps: the order of effects is the guarantee (DESIGN, section 2; PROTOCOL).

::

    1 settle   learn what became of the commits that were sent, and of tables long quiet; ack what is proved
    2 join     newly assigned partitions: ask the tables where they continue
    3 flush    hand every batch that is due to the committing thread: stage, then commit data AND positions
    4 hold     pause what cannot be taken, resume what can
    5 poll     raw messages as columns
    6 take     decode, and fill
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import structlog

from lakeward.clock import Clock
from lakeward.dead_letters.box import Letterbox, posting
from lakeward.errors import (
    ConfigurationError,
    Directive,
    LakewardError,
    OperatorError,
    UndecidedError,
    UnreachableError,
)
from lakeward.joining import Joining
from lakeward.lanes import Lane
from lakeward.ledger import LedgerEntry
from lakeward.observability.progress import Meter, Progress, percentiles
from lakeward.outcomes import Batch, CommitReceipt, Outcome, Refused
from lakeward.positions import Partition
from lakeward.records import Polled, RawBatch
from lakeward.retrying import Backoff, Patience, Persistence
from lakeward.scheduling import Limits, Scheduling
from lakeward.stages import Source, Target
from lakeward.starts import StartPolicy, refuse_recreated
from lakeward.watching import Watching, differs

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

REPORT_S = 0.25
"""Seconds between two reports of progress."""
FRESHNESS_COMMITS = 1000
"""Freshness is told of so many of the last commits, over all tables."""
LAST_WORD_S = 1.0
"""How long commits that were given up have to say why they did not end."""
REFUSALS_IN_A_ROW = 10
"""So many refusals with changed claims mean that two groups run one pipeline (PROTOCOL R3)."""


@dataclass(frozen=True, slots=True)
class Until:
    """When a run ends by itself: after so many messages, or at the ends that the topics had when they were joined."""

    messages: int | None = None
    caught_up: bool = False


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """``topics`` are those named outright; ``drain_s`` bounds how long stopping may take, in seconds.

    ``adopt`` names a pipeline whose positions this one takes over where a table knows only those (PROTOCOL F4).
    """

    name: str
    topics: tuple[str, ...]
    start: StartPolicy = field(default_factory=StartPolicy)
    patience: Patience = field(default_factory=Patience)
    drain_s: float = 30.0
    adopt: str | None = None
    limits: Limits = field(default_factory=Limits)


class Pipeline:
    """One worker of one pipeline: one source, many tables. `run` belongs to one thread; `stop` may come from any."""

    def __init__(
        self,
        settings: PipelineSettings,
        source: Source,
        lanes_for: Callable[[str], list[Lane]],
        clock: Clock,
        chance: random.Random,
        observe: Callable[[Progress], None] | None = None,
    ) -> None:
        self.settings = settings
        self._source = source
        self._clock = clock
        self._chance = chance
        self._stopping = threading.Event()
        self._persistence = Persistence(settings.patience, clock, chance, self._stopping)
        self._joining = Joining(source, lanes_for, settings.start, clock, settings.adopt)
        self._executor = ThreadPoolExecutor(settings.limits.committers, thread_name_prefix="commit")
        self._scheduling = Scheduling(settings.limits)
        self._watching = Watching(clock, self._executor.submit)
        self._backlog: deque[RawBatch] = deque()
        self._backlog_waits: Backoff | None = None
        self._backlog_at = 0.0
        self._reached: dict[Partition, int] = {}
        self._held: set[Partition] = set()
        self._drain_until: float | None = None
        self._observe = observe
        self._meter = Meter()
        self._freshness: deque[int] = deque(maxlen=FRESHNESS_COMMITS)
        self._next_report = 0.0
        self.taken = 0

    @property
    def lanes(self) -> list[Lane]:
        """The tables fed so far."""
        return self._joining.lanes

    @property
    def hangs(self) -> bool:
        """Whether a commit that was given up still waits for an answer, on a thread of its own."""
        return any(lane.committing is not None and not lane.committing[1].done() for lane in self.lanes)

    def stop(self) -> None:
        """Stop taking; `run` drains and returns."""
        self._stopping.set()

    def run(self, until: Until) -> None:
        """Run until stopped, until ``until``, or until an error; what was taken is committed before returning.

        Raises:
            LakewardError: as its directive says; the tables are as their own positions say, whatever it is.
        """
        try:
            self._joining.look(self.settings.topics)
            self._source.open()
            self._require_topics(until)
            while not self._ends(until):
                while not self._ends(until):
                    self._turn(until)
                    self._report("RUNNING")
                self._report("DRAINING", now=True)
                self._drain()  # a table that is refused now, or rebalanced, has not caught up after all
            for lane in self.lanes:
                lane.refuse_columnless()
            self._report("STOPPED", now=True)
        except UndecidedError:  # draining has had its time already
            raise
        except LakewardError:
            self._drain_after_failure()
            raise
        finally:
            self._stopping.set()
            for lane in self.lanes:
                lane.give_up()
            # Not waited for: a request that hangs has a bound of its own, and its outcome is the next start's to find.
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._source.close()

    def _turn(self, until: Until) -> None:
        self._settle()  # 1
        for lane, entry in self._watching.turn(self.lanes):
            self._rewind(lane, entry)
        self._held -= self._joining.join()  # 2, and what begins is not paused any more
        if self._joining.waiting:
            self._discard_ended_runs()
        self._flush()  # 3
        self._hold()  # 4
        polled = self._source.poll(self._poll_timeout())  # 5
        self._rebalance(polled)
        self._reached.update({p: end for p, end in polled.reached.items() if p in self._joining.begun})
        if self._take(polled.batches, until):  # 6
            topics = {raw.topic for raw in self._backlog}
            taken = {p: self._reached.pop(p) for p in [*self._reached] if p.topic not in topics}
            self._joining.reach(taken, self._clock.monotonic())

    def _rebalance(self, polled: Polled) -> None:
        if polled.revoked:
            self._joining.revoke(polled.revoked)
            self._discard_ended_runs()
        if polled.assigned:
            self._joining.assign(polled.assigned)

    def _settle(self) -> None:
        for lane in self.lanes:
            if lane.committing is None or not lane.committing[1].done():
                continue
            batch, future = lane.committing
            lane.committing = None
            try:
                outcome = future.result()
            except LakewardError:
                lane.drop(None)  # nothing more is sent for a table whose commit failed
                raise
            if isinstance(outcome, CommitReceipt):
                self._committed(lane, batch, outcome)
            else:
                self._refused(lane, outcome)

    def _committed(self, lane: Lane, batch: Batch, receipt: CommitReceipt) -> None:
        now_ms = self._clock.now_ms()
        freshness = now_ms - batch.oldest_ms if batch.oldest_ms is not None else None
        if freshness is not None:
            self._freshness.append(freshness)
        moved = differs(lane, receipt.entry, batch.claim)
        lane.committed(receipt, now_ms)
        log.info(
            "committed",
            table=lane.name,
            rows=receipt.rows,
            files=receipt.files,
            bytes=receipt.bytes,
            snapshot=receipt.snapshot_id,
            number=receipt.entry.number,
            duration_ms=receipt.duration_ms,
            attempts=receipt.attempts,
            freshness_ms=freshness,
        )
        self._source.ack(self._joining.proved(receipt.entry.positions))
        if moved:  # somebody has moved others than those just claimed; from here on no look would differ (PROTOCOL B2)
            self._rewind(lane, receipt.entry)

    def _refused(self, lane: Lane, outcome: Refused) -> None:
        lane.tally.refusals += 1
        lane.refused_in_a_row += 1
        log.warning("refused", table=lane.name, covered=outcome.covered, reason=outcome.reason)
        self._rewind(lane, outcome.entry)

    def _rewind(self, lane: Lane, entry: LedgerEntry | None) -> None:
        if entry is not None:
            log.info("reading on from what the table says", table=lane.name, number=entry.number)
        self._joining.rewind(lane, entry)
        self._discard_ended_runs()
        if lane.refused_in_a_row >= REFUSALS_IN_A_ROW:
            raise OperatorError(
                f"{lane.name} refused {lane.refused_in_a_row} commits in a row: somebody else moves its positions",
                f"Stop every other writer that runs a pipeline named {self.settings.name!r} in another consumer group.",
            )

    def _discard_ended_runs(self) -> None:
        """What was polled in a run that has ended will be read again, by us or by its new owner (PROTOCOL S5)."""
        self._backlog = deque(raw for old in self._backlog if len(raw := self._joining.current(old)))
        self._reached = {p: end for p, end in self._reached.items() if p in self._joining.begun}
        if not self._backlog:
            self._backlog_waits = None

    def _flush(self) -> None:
        for lane in self.lanes:
            if lane.filling.full:
                lane.refuse_columnless()
        for lane in self._scheduling.next(self.lanes, self._clock.monotonic()):
            self._send(lane)

    def _send(self, lane: Lane) -> None:
        commit_id = f"{self._chance.getrandbits(128):032x}"
        lane.flush(commit_id, lambda batch: self._executor.submit(self._deliver, lane, batch, lane.entry))

    def _deliver(self, lane: Lane, batch: Batch, entry: LedgerEntry | None) -> Outcome:
        """On a committing thread: stage, commit, and keep house. ``entry``: what the batch extends."""
        staged = self._persistence.run(lambda: lane.target.stage(batch), f"staging for {lane.name}")
        if (sequences := lane.sequences) is not None:
            followed = self._persistence.run(lambda: sequences.follow(batch, entry), f"following gaps of {lane.name}")
            staged = replace(staged, batch=followed)
        self._prove_topics(batch)
        if lane.letterbox is not None and batch.letters is not None:
            refused = self._post(lane.letterbox, batch, batch.letters)
            if refused is not None:
                return refused
        outcome = lane.target.commit(staged)
        if isinstance(outcome, CommitReceipt):
            ours = [p for p in outcome.entry.positions if p.topic in lane.topics]
            self._keep_house(lane.target, leads=not ours or min(ours) in self._joining.begun)
        return outcome

    @staticmethod
    def _keep_house(target: Target, *, leads: bool) -> None:
        try:
            target.maintain(leads=leads)
        except LakewardError as error:  # the commit is proved; housekeeping comes round again
            log.warning("maintenance failed", table=target.name, error=error.what)

    def _post(self, letterbox: Letterbox, batch: Batch, letters: pa.Table) -> Refused | None:
        """Make dead letters durable before the commit that they belong to (PROTOCOL D1)."""
        target, posted = letterbox.target, posting(batch.id, letters)
        staged = self._persistence.run(lambda: target.stage(posted), f"staging for {target.name}")
        outcome = target.commit(staged)
        if isinstance(outcome, Refused):
            return Refused(None, covered=False, reason=f"{target.name}: {outcome.reason}")
        log.warning("dead letters", table=letterbox.owner.table, letters=batch.account.letters, into=target.name)
        self._keep_house(target, leads=True)
        return None

    def _prove_topics(self, batch: Batch) -> None:
        """Ask after reading: a client goes on in a topic that took the place of another, where it holds the offset."""
        recorded = {topic: identity for topic, identity in batch.sources.items() if identity is not None}
        while recorded:
            try:
                now = self._persistence.run(lambda: self._source.identities(recorded), "asking for the topics' ids")
            except UnreachableError:
                if self._stopping.is_set():
                    raise
            else:
                refuse_recreated(recorded, now)
                return

    def _hold(self) -> None:
        full = self._backlog_waits is not None or self._scheduling.exhausted(self.lanes)
        topics = {raw.topic for raw in self._backlog}
        blocked = self._joining.blocked() | {p for p in self._joining.begun if full or p.topic in topics}
        if to_pause := blocked - self._held:
            self._source.pause(to_pause)
        if to_resume := (self._held & self._joining.begun) - blocked:
            self._source.resume(to_resume)
        self._held = set(blocked)

    def _poll_timeout(self) -> float:
        if self._held:
            return 0.005
        now = self._clock.monotonic()
        busy = any(lane.committing for lane in self.lanes) or self._joining.waiting
        waits = [due for lane in self.lanes if (due := lane.due_in(now)) is not None and due > 0]
        return min([0.02 if busy else 0.1, *waits])

    def _take(self, batches: Sequence[RawBatch], until: Until) -> bool:
        """Fill from ``batches`` as far as there is room; False where what is left is not to be taken, or not yet."""
        self._backlog.extend(self._joining.current(raw) for raw in batches)
        if self._backlog_waits is not None and self._clock.monotonic() < self._backlog_at:
            return False
        waiting: deque[RawBatch] = deque()
        while self._backlog:
            raw = self._backlog[0]
            left = None if until.messages is None else until.messages - self.taken
            if left == 0:
                self._backlog.clear()
                return False
            most = min(len(raw), self._joining.room(raw.topic), len(raw) if left is None else left)
            if most == 0 < len(raw):
                waiting.append(self._backlog.popleft())
                continue
            part = raw if most == len(raw) else raw.select(np.arange(most))
            try:
                self._fill(part)
            except LakewardError as error:
                if error.directive is not Directive.RETRY:
                    raise
                self._backlog.extendleft(reversed(waiting))
                self._postpone(error)
                return False
            self._backlog_waits = None
            self._backlog.popleft()
            if most < len(raw):
                self._backlog.appendleft(raw.select(np.arange(most, len(raw))))
            self.taken += most
        self._backlog = waiting
        return until.messages is None or self.taken < until.messages

    def _postpone(self, error: LakewardError) -> None:
        """A decoder's server is away: keep what was polled, and try again later."""
        if self._backlog_waits is None:
            self._backlog_waits = self._persistence.backoff()
        if self._backlog_waits.exhausted:
            raise error
        pause = self._backlog_waits.next_wait()
        self._backlog_at = self._clock.monotonic() + pause
        log.warning("trying again", what="decoding", error=error.what, wait_s=round(pause, 1))

    def _fill(self, raw: RawBatch) -> None:
        for lane in self._joining.lanes_of(raw.topic):
            wanted = lane.wanted(raw)
            if len(wanted):
                lane.take(wanted, lane.decode(wanted), self._clock.monotonic(), self._clock.now_ms())

    def _require_topics(self, until: Until) -> None:
        held = {partition.topic for partition in self._source.partitions(self.settings.topics)}
        self._joining.expect(held)
        for topic in self.settings.topics:
            if topic in held:
                continue
            if until.messages is not None or until.caught_up:
                raise ConfigurationError(
                    f"topic {topic} does not exist",
                    "Check its name, or create it; `lakeward run` without a limit waits for it.",
                )
            log.warning("topic does not exist yet; waiting for it", topic=topic)

    def _ends(self, until: Until) -> bool:
        if self._stopping.is_set():
            return True
        if until.messages is not None and self.taken >= until.messages:
            return True
        return until.caught_up and not self._backlog and self._joining.caught_up()

    def _drain(self) -> None:
        """Commit what is held, within a bound; a commit whose outcome stays unknown is safe to leave (PROTOCOL C8)."""
        self._source.pause(self._joining.begun)
        self._held = set(self._joining.begun)
        if self._drain_until is None:
            self._drain_until = self._clock.monotonic() + self.settings.drain_s
        while True:
            self._settle()
            now = self._clock.monotonic()
            for lane in self.lanes:
                if not lane.engaged and lane.drainable:
                    self._send(lane)
            pending = [lane for lane in self.lanes if lane.committing is not None or lane.drainable]
            if not pending:
                self._drain_until = None
                return
            if now >= self._drain_until:
                self._give_up(pending)
            self._rebalance(self._source.poll(0.005))  # of what is paused it hands over nothing

    def _give_up(self, pending: list[Lane]) -> None:
        """Raise what the open commits are waiting for, where they still tell; what they sent is safe to leave."""
        self._stopping.set()
        for lane in pending:
            lane.give_up()
        wait([lane.committing[1] for lane in pending if lane.committing is not None], LAST_WORD_S)
        self._settle()
        still = [lane.name for lane in pending if lane.committing is not None or lane.drainable]
        if not still:
            return
        raise UndecidedError(
            f"stopped after {self.settings.drain_s:g} s with open commits: {', '.join(still)}",
            "Nothing is lost: the next start asks the tables what they hold and continues there.",
        )

    def _report(self, state: str, *, now: bool = False) -> None:
        at = self._clock.monotonic()
        if self._observe is None or (at < self._next_report and not now):
            return
        self._next_report = at + REPORT_S
        ends: dict[str, dict[Partition, int]] = {}
        for partition, end in self._source.ends().items():
            ends.setdefault(partition.topic, {})[partition] = end
        tables = [lane.progress(ends) for lane in self.lanes]
        rate = self._meter.rate(at, self.taken)
        self._observe(Progress(state, self.taken, rate, percentiles(self._freshness), tables))

    def _drain_after_failure(self) -> None:
        """Commit what other tables hold before the error is raised; their own failures are only logged."""
        self._stopping.set()
        for _ in range(len(self.lanes) + 1):  # each failure drops one lane
            try:
                self._drain()
            except LakewardError as error:
                log.warning("draining failed", error=error.what)
                if isinstance(error, UndecidedError):
                    return
            else:
                return
