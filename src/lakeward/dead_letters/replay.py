"""Brings dead letters back as rows, each exactly once (PROTOCOL D4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from lakeward.clock import Clock
from lakeward.dead_letters.book import KEYS, Shelf, read, with_payload
from lakeward.dead_letters.box import Letterbox, posting
from lakeward.dead_letters.rows import confirmations, failed, replayed
from lakeward.errors import ConfigurationError, OperatorError
from lakeward.lanes import Lane
from lakeward.letters import Lettering, Letters
from lakeward.outcomes import Batch, Refused
from lakeward.positions import Account
from lakeward.records import Blobs, RawBatch, Reject

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CHUNK, CHUNK_BYTES = 50_000, 64 << 20
"""So many letters, of that many bytes, are tried at once, and brought back in one commit; a larger one by itself."""
TRIES = 10

Name = tuple[Any, ...]
"""A letter's topic, partition, offset, and the commit that brought it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant; None: all. ``since`` and ``until``: when they were set aside, ms since the epoch."""

    code: str | None = None
    since: int | None = None
    until: int | None = None

    def of(self, letters: pa.Table) -> pa.Table:
        """Those of ``letters``."""
        keep = np.ones(len(letters), np.bool_)
        seen = letters.column("seen_at").cast(pa.int64()).to_numpy() // 1000
        if self.code is not None:
            keep &= np.asarray(pc.equal(letters.column("code"), self.code))
        if self.since is not None:
            keep &= seen >= self.since
        if self.until is not None:
            keep &= seen < self.until
        return letters.filter(pa.array(keep))


@dataclass(slots=True)
class Result:
    """What became of letters: ``rows`` and ``skipped`` are settled, ``failed`` counts the others by their new code.

    ``unread`` are letters of topics that the configuration does not read into the table any more.
    """

    rows: int = 0
    skipped: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    unread: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """What the decoder makes of some letters: rows, the letters that are settled, those that failed, and why."""

    parts: Sequence[pa.Table]
    settled: pa.Table
    rejected: pa.Table
    rejects: Sequence[Reject]
    skipped: int

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(part.num_rows for part in self.parts)


@dataclass(frozen=True, slots=True)
class Replay:
    """Brings back the letters of one lane's table.

    ``shelf`` reads the dead-letter table of ``letterbox``; ``reads`` says whether a topic feeds the lane; ``mint``
    makes commit ids.
    """

    lane: Lane
    letterbox: Letterbox
    shelf: Shelf
    reads: Callable[[str], bool]
    clock: Clock
    mint: Callable[[], str]

    def run(self, selection: Selection, *, write: bool) -> Result:
        """Try the letters of ``selection`` again; with ``write``, make rows of those that can be.

        Raises:
            ConfigurationError: the table is in mode upsert.
            OperatorError: others kept bringing letters back, or rolling back, meanwhile; what was done is complete.
            LakewardError: as `Target.stage` and `Target.commit`; what is not done stays a letter.
        """
        if self.lane.settings.upserting is not None:
            raise ConfigurationError(
                f"letters of {self.lane.name} cannot be brought back one by one: it holds the last change of each key, "
                "and these may be older (PROTOCOL D6)",
                f"Mend what was wrong, then let `lakeward seek` go back to the first of them: all changes of "
                f"{self.lane.name} since then are made again, in their order.",
            )
        result = Result()
        tried: set[Name] = set()
        for _ in range(TRIES):
            if self._pass(selection, result, tried, write=write):
                return result
        raise OperatorError(
            f"the letters of {self.lane.name} changed {TRIES} times while they were to be brought back",
            "Somebody else replays them, or rolls the table back. See `lakeward dead-letters list`, then try again.",
        )

    def _pass(self, selection: Selection, result: Result, tried: set[Name], *, write: bool) -> bool:
        """Go once through what is open; False where the plan was overtaken, and another is needed."""
        found = self.lane.target.find()
        if found.entry is None:
            return True
        state = found.entry.letters.rewound(found.entry.number, found.highest)
        letters = selection.of(read(self.shelf, self.letterbox.owner, found.entry).open)
        for trial in self._trials(letters.filter(pa.array([n not in tried for n in _names(letters)], pa.bool_()))):
            after = self._settle(trial, state) if write else state
            if after is None:
                return False
            state = after
            tried.update(_names(trial.rejected))
            result.failed.update(reject.code for reject in trial.rejects)
            result.rows += trial.rows
            result.skipped += trial.skipped
        result.unread = len(letters.filter(pc.invert(self._read(letters))))
        return True

    def _settle(self, trial: Trial, state: Letters) -> Letters | None:
        """Commit what ``trial`` found, first to the dead-letter table; None where ``state`` is that no more.

        The names of the letters are durable before the rows, and count only if the rows are in the table: a death in
        between, or a rival that is faster, leaves them open.
        """
        commit, owner = self.mint(), self.letterbox.owner
        notes = [failed(trial.rejected, owner, trial.rejects, self.clock.now_ms())]
        if len(trial.settled):
            notes += [replayed(trial.settled, owner, commit), confirmations(state, owner)]
        posted = posting(commit, pa.concat_tables(notes))
        if isinstance(self.letterbox.target.commit(self.letterbox.target.stage(posted)), Refused):
            return None
        if not len(trial.settled):
            return state
        batch = Batch(
            id=commit,
            parts=trial.parts,
            claim={},
            upto={},
            sources={},
            account=Account(0, trial.rows, trial.skipped, -len(trial.settled)),
            lettering=Lettering(dict(state.open), planned_on=state),
        )
        outcome = self.lane.target.commit(self.lane.target.stage(batch))
        if isinstance(outcome, Refused):
            log.info("refused", table=self.lane.name, reason=outcome.reason)
            return None
        log.info("letters brought back", table=self.lane.name, letters=len(trial.settled), rows=trial.rows)
        return outcome.entry.letters

    def _read(self, letters: pa.Table) -> pa.Array:
        topics = [topic for topic in pc.unique(letters.column("topic")).to_pylist() if self.reads(topic)]
        return pc.is_in(letters.column("topic"), pa.array(topics, pa.string()))

    def _trials(self, letters: pa.Table) -> Iterator[Trial]:
        readable = letters.filter(self._read(letters))
        for topic in pc.unique(readable.column("topic")).to_pylist():
            of_topic = readable.filter(pc.equal(readable.column("topic"), topic)).sort_by("batch")
            for chunk in _chunks(of_topic):
                yield self._try(topic, with_payload(self.shelf, chunk))

    def _try(self, topic: str, letters: pa.Table) -> Trial:
        raw = _raw(topic, letters)
        decoded = self.lane.decode(raw)
        rejects = sorted(decoded.rejects, key=lambda reject: reject.index)
        bad = np.zeros(len(letters), np.bool_)
        bad[[reject.index for reject in rejects]] = True
        return Trial(
            self.lane.rows_of(raw, decoded, self.clock.now_ms()),
            letters.filter(pa.array(~bad)),
            letters.filter(pa.array(bad)),
            rejects,
            len(decoded.skipped),
        )


def _chunks(letters: pa.Table) -> Iterator[pa.Table]:
    upto = np.cumsum(pc.fill_null(letters.column("bytes"), 0).to_numpy())
    start = 0
    while start < len(letters):
        before = upto[start - 1] if start else 0
        end = int(np.searchsorted(upto, before + CHUNK_BYTES, "right"))
        end = min(max(end, start + 1), start + CHUNK)
        yield letters.slice(start, end - start)
        start = end


def _names(letters: pa.Table) -> Iterator[Name]:
    columns = [letters.column(name).to_pylist() for name in KEYS]
    return zip(*columns, strict=True)


def _raw(topic: str, letters: pa.Table) -> RawBatch:
    """The messages as they were read from ``topic``."""
    times = letters.column("timestamp").cast(pa.int64())
    headers = [[(h["name"], h["value"]) for h in pairs or ()] for pairs in letters.column("headers").to_pylist()]
    return RawBatch(
        topic,
        letters.column("partition").to_numpy().astype(np.int32),
        letters.column("offset").to_numpy().astype(np.int64),
        pc.fill_null(pc.floor(pc.divide(times, 1000)).cast(pa.int64()), -1).to_numpy(),
        Blobs.of(letters.column("key").to_pylist()),
        Blobs.of(letters.column("value").to_pylist()),
        headers,
    )
