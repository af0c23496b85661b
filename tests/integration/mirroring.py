"""A source at work, its Debezium, and a pipeline that mirrors it while it is killed again and again."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import pyarrow as pa
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import OffsetSpec
from servers.kafka import Kafka
from tests.e2e.killing import wait_for_a_moment
from tests.e2e.rig import Site, until

from lakeward.testing.waiting import joined

_SECONDS = 60.0


class Worker(Protocol):
    """Something that changes a source."""

    def act(self) -> None:
        """Do one thing."""

    def fence(self, number: int) -> None:
        """Write a row into the table `zz_fence`, after which nothing comes."""

    def shows(self) -> Mapping[str, Any]:
        """What the source holds, table by table."""


class Busy:
    """Lets ``worker`` work from a thread, until it is stopped; ``pause`` between two things, in seconds."""

    def __init__(self, worker: Worker, pause: float = 0.01) -> None:
        self._worker, self._pause = worker, pause
        self._stop = threading.Event()
        self._failure: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.done = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        joined(self._thread, "the source's work", 180)  # longer than one of its statements may take
        if self._failure:
            raise self._failure[0]

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause):
                self._worker.act()
                self.done += 1
        except BaseException as failure:  # noqa: BLE001 -- raised again where the work ends
            self._failure.append(failure)


@dataclass
class Mirror:
    """``worker`` changes a source, whose changes are in the topics of ``prefix`` (schema and all, up to the table).

    ``table``: a source's table to the name of its mirror; ``compare``: how the two differ, as text; empty: they do not.
    """

    kafka: Kafka
    site: Site
    worker: Worker
    prefix: str
    table: Callable[[str], str]
    compare: Callable[[Any, pa.Table], str]
    fences: int = 0
    seed: int = field(default_factory=lambda: secrets.randbits(32))

    def work_and_kill(self, kills: int) -> None:
        """Kill ``kills`` runs at random moments while the source is at work."""
        print(f"seed {self.seed}")  # noqa: T201 -- pytest shows it where the test fails
        chance = random.Random(self.seed)
        with Busy(self.worker):
            for number in range(kills):
                command = self.site.start("run", env={"GROUP": f"group-{number}"})
                wait_for_a_moment(command, chance)
                ended = command.kill()
                assert ended.code == -9, ended.err[-3000:]

    def work(self, seconds: float) -> None:
        """Let the source be changed for a while."""
        with Busy(self.worker):
            time.sleep(seconds)

    def settle(self) -> None:
        """Wait until all that was done is in the topics, and let the pipeline catch up."""
        self.fences += 1
        self.worker.fence(self.fences)
        until(lambda: self._told() >= self.fences, "all changes are in the topics", _SECONDS)
        self.site.catch_up()

    def differences(self) -> str:
        """How the mirrors differ from the source, table by table; empty where they do not."""
        found = {
            name: self.compare(wanted, self.site.held(self.table(name))) for name, wanted in self.worker.shows().items()
        }
        return "\n".join(f"{name}:\n{text}" for name, text in found.items() if text)

    def _told(self) -> int:
        fences = TopicPartition(f"{self.prefix}.zz_fence", 0)
        admin = self.kafka.admin()
        if fences.topic not in admin.list_topics(timeout=10).topics:
            return 0
        ends = admin.list_offsets(
            {fences: OffsetSpec.latest()}, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=10
        )
        return int(ends[fences].result(_SECONDS).offset)
