"""The demo as a sequence of steps: stream, kill, continue, prove."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from threading import Event
from typing import Any, Protocol, Self

from lakeward.assembly import Assembly
from lakeward.clock import Clock
from lakeward.config import Config, load
from lakeward.demo.feed import BACKLOG, STREAMS, Feed, Volume
from lakeward.demo.folder import Folder
from lakeward.demo.proof import Proof, prove, summary
from lakeward.demo.writer import WriterProcess
from lakeward.errors import LakewardError
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import producer_of
from lakeward.testing.registry import EmbeddedRegistry
from lakeward.verification.verdict import plural

LOOK_S = 0.1
"""Seconds between two looks at the tables."""

PATIENCE_S = 90.0
"""So long may nothing arrive in the tables before the demo gives up."""

COMMIT_ROWS = 50_000
"""Most rows a commit."""


class Audience(Protocol):
    """Who is told while it happens."""

    def happened(self, seconds: float, what: str, detail: str) -> None:
        """Something happened, so many seconds after the start."""

    def progressed(self, sent: int, written: int, total: int) -> None:
        """So many of ``total`` messages were sent, and so many are rows of the tables."""


@dataclass(frozen=True, slots=True)
class Kill:
    """What the first writer left: rows in the tables, messages sent by then, and files that no table knows.

    ``recovered_ms``: from the kill to the next commit, by the second writer.
    """

    pid: int
    rows: int
    sent: int
    stray_files: int
    recovered_ms: int


@dataclass(frozen=True, slots=True)
class Result:
    """How it ended. ``columns`` and ``day`` are the result of `lakeward.demo.proof.SUMMARY`."""

    seconds: float
    kill: Kill
    proofs: Sequence[Proof]
    columns: Sequence[str]
    day: Sequence[Sequence[Any]]

    @property
    def passed(self) -> bool:
        """Whether every table holds exactly what was sent."""
        return all(proof.passed for proof in self.proofs)

    def document(self) -> dict[str, Any]:
        """As plain data."""
        day: list[Mapping[str, Any]] = [dict(zip(self.columns, row, strict=True)) for row in self.day]
        return {
            "passed": self.passed,
            "seconds": round(self.seconds, 1),
            "killed": asdict(self.kill),
            "tables": [proof.document() for proof in self.proofs],
            "day": day,
        }


class Demo:
    """The demo's servers and processes; leaving the context ends all of them.

    Args:
        folder: where it works; emptied first.
        volume: how much is sent.
        clock: where the time comes from.

    Raises:
        ConfigurationError: the folder is not the demo's to empty.
    """

    def __init__(self, folder: Folder, volume: Volume, clock: Clock) -> None:
        self._folder = folder
        self._volume = volume
        self._clock = clock
        self._stack = ExitStack()
        self._started = clock.monotonic()
        self._sending: Future[None] | None = None
        folder.prepare()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            broker = stack.enter_context(EmbeddedBroker({stream.topic: stream.partitions for stream in STREAMS}))
            self._registry = stack.enter_context(EmbeddedRegistry())
            self.brokers = broker.bootstrap_servers
            rows = max(1, min(COMMIT_ROWS, self._volume.trades // 10))
            self._folder.configure(self.brokers, self._registry.url, rows)
            config, self._targets = tables_of(self._folder, self._clock)
            self._properties = config.catalog_properties()
            self._feed = self._feed_of(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, audience: Audience) -> Result:
        """Stream, kill, continue, prove.

        Raises:
            LakewardError: a writer fails, or nothing arrives.
        """
        self._say(audience, "broker, registry", f"embedded, {self.brokers} and {self._registry.url}")
        first = self._start(audience, f"pid {{pid}}: lakeward run {self._folder.configuration}")
        total, half = self._volume.total, self._volume.total // 2
        self._watch(first, audience, allowed=total * 3 // 4, until=lambda rows: rows > 0)
        self._say(audience, "first commit", "data and positions, together")
        self._watch(first, audience, allowed=total * 3 // 4, until=lambda rows: rows >= half)
        first.kill()
        killed_at, sent, rows = self._clock.monotonic(), self._feed.sent, self._rows()
        stray = self._stray_files()
        on_disk = f", {plural(stray, 'unfinished file')} on disk" if stray else ""
        self._say(audience, f"kill -{signal.SIGKILL:d} {first.pid}", f"{sent:,} sent, {rows:,} in the tables{on_disk}")
        second = self._start(audience, "pid {pid}: asks the tables where to continue")
        self._watch(second, audience, allowed=total, until=lambda now: now > rows)
        recovered_ms = round((self._clock.monotonic() - killed_at) * 1000)
        self._say(audience, "next commit", f"{recovered_ms / 1000:.1f} s after the kill")
        self._watch(second, audience, allowed=total, until=lambda now: now >= total and self._all_sent())
        self._say(audience, "all in", f"{self._rows():,} rows; SIGTERM, and writer {second.pid} leaves")
        second.stop()
        self._say(audience, "compare", "each row of the tables with what was sent, by DuckDB")
        kill = Kill(first.pid, rows, sent, stray, recovered_ms)
        copies = map(self._folder.sent_file, STREAMS)
        proofs = [prove(target, copy, self._properties) for target, copy in zip(self._targets, copies, strict=True)]
        columns, day = summary(self._targets, self._properties)
        return Result(self._clock.monotonic() - self._started, kill, proofs, columns, day)

    def _feed_of(self, stack: ExitStack) -> Feed:
        ids = {s.kind: self._registry.register(f"{s.topic}-value", s.schema_text()) for s in STREAMS}
        copies = {stream.kind: self._folder.sent_file(stream) for stream in STREAMS}
        feed = Feed(producer_of(self.brokers, {"log_level": 0}), ids, self._volume, copies)
        executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="market"))
        stack.callback(feed.stop)
        self._sending = executor.submit(feed.run)
        return feed

    def _start(self, audience: Audience, detail: str) -> WriterProcess:
        writer = WriterProcess(self._folder.configuration, self._folder.log)
        self._stack.callback(writer.kill)
        self._say(audience, "writer", detail.format(pid=writer.pid))
        return writer

    def _watch(self, writer: WriterProcess, audience: Audience, *, allowed: int, until: Callable[[int], bool]) -> None:
        """Look at the tables until their rows are as ``until`` says; the market may send up to ``allowed`` messages."""
        pause, before, since = Event(), -1, self._clock.monotonic()
        while True:
            rows = self._rows()
            self._feed.allow(min(rows + BACKLOG, allowed))
            audience.progressed(self._feed.sent, rows, self._volume.total)
            if until(rows):
                return
            writer.require_alive()
            now = self._clock.monotonic()
            before, since = (rows, now) if rows != before else (before, since)
            if now - since > PATIENCE_S:
                raise LakewardError(f"nothing arrived in {PATIENCE_S:g} s", f"The writers' log is {self._folder.log}.")
            self._clock.wait(pause, LOOK_S)

    def _all_sent(self) -> bool:
        if self._sending is None or not self._sending.done():
            return False
        self._sending.result()
        return True

    def _rows(self) -> int:
        entries = [target.find().entry for target in self._targets]
        return sum(entry.account.rows for entry in entries if entry is not None)

    def _stray_files(self) -> int:
        return self._folder.data_files() - sum(target.held().files for target in self._targets)

    def _say(self, audience: Audience, what: str, detail: str) -> None:
        audience.happened(self._clock.monotonic() - self._started, what, detail)


def tables_of(folder: Folder, clock: Clock) -> tuple[Config, list[IcebergTarget]]:
    """The configuration in ``folder``, and its tables in the order of `STREAMS`."""
    config = load(folder.configuration, {})
    assembly = Assembly(config, clock, random.Random())  # noqa: S311 - nothing is drawn from it here
    return config, [assembly.target(table, table.table) for table in config.tables]
