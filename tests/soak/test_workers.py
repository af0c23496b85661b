"""Three workers on real servers for minutes, while everything around them is killed, stopped, grown and moved."""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import NewPartitions
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.schema_registry import SchemaRegistry
from tests.e2e.rig import TRADE, TRADES_TABLE, Command, CommandLine, Feed, Site, Stream, configuration, until

MINUTES = float(os.environ.get("LAKEWARD_SOAK_MINUTES", "3"))
WORKERS, PARTITIONS, MOST_PARTITIONS = 3, 4, 12
SESSION_S = 2.0
KEPT = 15
"""So many of the newest snapshots no foreign expiry touches."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300 + MINUTES * 120)]


class Turmoil:
    """What happens around the workers, one thing at a time."""

    def __init__(self, site: Site, kafka: Kafka, feed: Feed, chance: random.Random) -> None:
        self.site, self.kafka, self.feed, self.chance = site, kafka, feed, chance
        self.name = site.document["tables"][0]["table"]
        self.parent: Command = site.start("run", "--workers", str(WORKERS))
        self.partitions = PARTITIONS
        self.happened: Counter[str] = Counter()

    def workers(self) -> list[int]:
        """The processes of the workers, while the one who looks after them lives."""
        assert self.parent.alive, self.parent.wait().err[-5000:]
        return [
            int(pid) for pid in Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children").read_text().split()
        ]

    def until_they_go_on(self) -> None:
        """Every worker is there, and two more commits are proved."""
        before = len(self.parent.events("committed"))
        self.parent.until(
            lambda: len(self.workers()) == WORKERS and len(self.parent.events("committed")) >= before + 2,
            f"commits after {dict(self.happened)}",
            120,
        )

    def kill_worker(self) -> None:
        os.kill(self.chance.choice(self.workers()), signal.SIGKILL)

    def kill_two_workers(self) -> None:
        for pid in self.chance.sample(self.workers(), 2):
            os.kill(pid, signal.SIGKILL)

    def stop_worker_past_its_session(self) -> None:
        with stopped([self.chance.choice(self.workers())]):
            threading.Event().wait(SESSION_S * 2)

    def kill_broker(self) -> None:
        self.kafka.kill()
        threading.Event().wait(self.chance.uniform(0.0, 3.0))
        self.kafka.start()

    def add_partitions(self) -> None:
        if self.partitions >= MOST_PARTITIONS:
            return self.kill_worker()
        self.partitions += 2
        admin, topic = self.kafka.admin(), self.feed.topic
        admin.create_partitions([NewPartitions(topic, self.partitions)])[topic].result(20)
        until(lambda: len(admin.list_topics(topic, timeout=10).topics[topic].partitions) == self.partitions, "growing")
        self.feed.spread(self.kafka.bootstrap_servers, self.partitions)
        return None

    def compact(self) -> None:
        self._foreign(lambda table: table.overwrite(table.scan().to_arrow()))

    def expire(self) -> None:
        def old(table: Table) -> None:
            kept = {
                snapshot.snapshot_id for snapshot in sorted(table.snapshots(), key=lambda s: s.sequence_number)[-KEPT:]
            }
            going = [s.snapshot_id for s in table.snapshots() if s.snapshot_id not in kept]
            if going:
                table.maintenance.expire_snapshots().by_ids(going).commit()

        self._foreign(old)

    def roll_back(self) -> None:
        def back(table: Table) -> None:
            head = table.current_snapshot()
            assert head is not None
            for _ in range(self.chance.randint(1, 6)):
                below = table.snapshot_by_id(head.parent_snapshot_id) if head.parent_snapshot_id else None
                if below is None:
                    break
                head = below
            table.manage_snapshots().rollback_to_snapshot(head.snapshot_id).commit()

        self._foreign(back)

    def _foreign(self, action: Callable[[Table], Any]) -> None:
        """By another program, while the workers commit; where they are always faster, while they are all stopped."""
        for attempt in range(4):
            try:
                if attempt < 3:
                    action(self.site.catalog().load_table(self.name))
                else:
                    with stopped(self.workers()):
                        threading.Event().wait(0.5)  # what was sent lands
                        action(self.site.catalog().load_table(self.name))
            except (CommitFailedException, ValidationException) as conflict:
                self.happened[f"conflict of a foreign {type(conflict).__name__}"] += 1
            else:
                return
        raise AssertionError("the foreign program never got through")


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_three_workers_are_exact_after_minutes_of_kills_stops_growth_and_other_programs(
    own_kafka: Kafka,
    schema_registry: SchemaRegistry,
    iceberg_rest: IcebergRest,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    seed = secrets.randbits(32)
    chance = random.Random(seed)
    topic = own_kafka.create_topic(fresh_namespace, PARTITIONS)
    schema_id = schema_registry.register(f"{topic}-value", TRADE)
    feed = Feed(own_kafka.bootstrap_servers, topic, PARTITIONS, schema_id)
    table = {**TRADES_TABLE, "topics": [topic], "table": f"{fresh_namespace}.trades"}
    catalog = {"catalog": iceberg_rest.pyiceberg_properties}
    document = configuration(own_kafka.bootstrap_servers, schema_registry.url, [table], catalog, interval="300ms")
    document["name"] = topic
    document["source"]["kafka"]["properties"] = {
        "session.timeout.ms": str(int(SESSION_S * 1000)),
        "heartbeat.interval.ms": "300",
        "topic.metadata.refresh.interval.ms": "1000",
    }
    site = Site(tmp_path, command_line, document)
    turmoil = Turmoil(site, own_kafka, feed, chance)
    chances = {
        turmoil.kill_worker: 6,
        turmoil.kill_two_workers: 2,
        turmoil.stop_worker_past_its_session: 3,
        turmoil.kill_broker: 2,
        turmoil.add_partitions: 1,
        turmoil.compact: 2,
        turmoil.expire: 2,
        turmoil.roll_back: 2,
    }
    deadline = time.monotonic() + MINUTES * 60
    due = list(chances)  # each at least once
    chance.shuffle(due)
    with Stream(feed):
        turmoil.until_they_go_on()
        while due or time.monotonic() < deadline:
            action = due.pop() if due else chance.choices(list(chances), list(chances.values()))[0]
            turmoil.happened[action.__name__] += 1
            action()
            turmoil.until_they_go_on()
    turmoil.parent.signal(signal.SIGTERM)
    ended = turmoil.parent.wait(120)
    print("seed", seed, dict(turmoil.happened))  # noqa: T201 - what it went through
    assert ended.code == 0, ended.err[-5000:]
    site.catch_up()
    difference = site.differs(f"{fresh_namespace}.trades", feed.sent)
    assert difference.exact, difference
    assert site.breaks(f"{fresh_namespace}.trades") == []
    verified = site.run("verify", "--against-source")
    print(difference, verified.out, sep="\n")  # noqa: T201
    assert verified.code == 0, verified.out + verified.err
