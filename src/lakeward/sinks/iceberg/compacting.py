"""Compaction beside the stream: files are rewritten on a thread of its own, and committed between two of ours."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import structlog
from pyiceberg.table import Table, TableProperties
from pyiceberg.utils.properties import property_as_int

from lakeward.clock import Clock
from lakeward.sinks.iceberg.compaction import FANOUT, Job, Limits, Rewritten, Survey, rewrite
from lakeward.sinks.iceberg.failures import translated
from lakeward.sinks.iceberg.handle import Handle
from lakeward.sinks.iceberg.manifests import Manifests
from lakeward.sinks.iceberg.parquet import DEFAULT_TARGET_BYTES
from lakeward.sinks.iceberg.replacement import Replacement, Replacing
from lakeward.sinks.iceberg.staging import discard
from lakeward.sinks.iceberg.upsert.upserting import Upserts

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Submit = Callable[[Callable[[], Rewritten]], Future[Rewritten]]

INPUT_BYTES = 32 << 20
"""Compressed bytes that one rewrite reads: decoded, they are several times as many, beside a batch that fills."""


def at_once(action: Callable[[], Rewritten]) -> Future[Rewritten]:
    """Do it here and now, for those who wait for it anyway."""
    future: Future[Rewritten] = Future()
    try:
        future.set_result(action())
    except Exception as error:  # noqa: BLE001 -- whoever asks for the result gets it
        future.set_exception(error)
    return future


@dataclass(slots=True)
class Compactor:
    """One target's compaction; used on its committing thread. ``submit`` runs what may take a while."""

    handle: Handle
    manifests: Manifests
    clock: Clock
    chance: random.Random
    submit: Submit
    upserts: Upserts
    fanout: int = FANOUT
    """So many files of a tier are merged, and so many commits lie between two looks."""
    _survey: Survey = field(init=False)
    _commits: int = 0
    _running: Future[Rewritten] | None = None

    def __post_init__(self) -> None:
        self._survey = Survey(self.manifests)

    def committed(self) -> None:
        """There is a file more."""
        self._commits += 1

    def turn(self) -> Replacing | None:
        """Commit what has been rewritten, or begin what is due; cheap when nothing is.

        Raises:
            LakewardError: it comes round again.
        """
        if self._running is None and self._commits >= self.fanout:
            self._commits = 0
            table = self.handle.known()
            with translated(f"looking for small files of {self.handle.name}", table.location()):
                job = self._survey.due(table, limits_of(table), least=self.fanout)
            if job is not None:
                self._running = self.submit(partial(self._rewrite, table, job))
        if self._running is None or not self._running.done():
            return None
        done, self._running = self._running, None
        return self._commit(done.result())

    def compact(self) -> int:
        """Merge all there is to merge, two files at least, and wait for it; return how many files went.

        Raises:
            LakewardError: what was committed until then stays.
        """
        went = 0
        while True:
            table = self.handle.look()
            with translated(f"looking for small files of {self.handle.name}", table.location()):
                job = self._survey.due(table, limits_of(table), least=2)
            if job is None or self._commit(self._rewrite(table, job)) is None:
                return went
            went += len(job.entries)

    def _rewrite(self, table: Table, job: Job) -> Rewritten:
        name = f"compaction-{self.chance.getrandbits(128):032x}"
        with translated(f"compacting {self.handle.name}", table.location()):
            return rewrite(table, job, name, self.upserts.key)

    def _commit(self, done: Rewritten) -> Replacing | None:
        replacement = Replacement(self.handle, self.manifests, done, self.clock.now_ms())
        made = replacement.run()
        files, rows = len(done.job.entries), done.rows
        if made is None:
            if not replacement.sent:  # provably nobody's
                discard(self.handle.known().io, done.files)
            return None
        self.upserts.moved(self.handle.known(), done, made)
        log.info("compacted", table=self.handle.name, files=files, into=len(done.files), rows=rows)
        self._commits = self.fanout  # a tier above may be full now
        return made


def limits_of(table: Table) -> Limits:
    """What one rewrite may read and write, by the table's own target size."""
    key = TableProperties.WRITE_TARGET_FILE_SIZE_BYTES
    target = property_as_int(dict(table.properties), key, DEFAULT_TARGET_BYTES) or DEFAULT_TARGET_BYTES
    return Limits(target=target, input=min(target, INPUT_BYTES))
