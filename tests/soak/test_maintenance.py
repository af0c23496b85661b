"""A stream on real servers for minutes: writers and maintenance are killed at random, the store fails now and then."""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.minio import Minio
from servers.schema_registry import SchemaRegistry
from tests.e2e.rig import TRADE, TRADES_TABLE, Command, CommandLine, Feed, Site, Stream, configuration

from lakeward.testing.faults import fail, lose
from lakeward.testing.proxy import Answer, StoreProxy

MINUTES = float(os.environ.get("LAKEWARD_SOAK_MINUTES", "3"))
EVERYTHING = ("--rewrite", "all", "--keep-snapshots", "12", "--json")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300 + MINUTES * 120)]


class Turmoil:
    """A writer, and what happens to it and beside it."""

    def __init__(self, site: Site, proxy: StoreProxy, chance: random.Random) -> None:
        self.site, self.proxy, self.chance = site, proxy, chance
        self.happened: Counter[str] = Counter()
        self.writer: Command = self._started()

    def _started(self) -> Command:
        return self.site.start("run", env={"GROUP": f"group-{self.happened.total()}"})

    def kill_the_writer(self) -> None:
        """At any moment: staging, committing, rewriting, expiring."""
        event, count = self.chance.choice([("committed", 2), ("compacted", 1), ("expired", 1), ("committed", 9)])
        self.writer.until_event(event, count)
        threading.Event().wait(self.chance.uniform(0.0, 0.3))
        assert self.writer.kill().code == -9
        self.writer = self._started()

    def maintain(self) -> None:
        told = self.site.run("maintain", *EVERYTHING)
        assert told.code in {0, 3}, told.err[-3000:]  # 3: the store failed once too often

    def kill_maintain(self) -> None:
        command = self.site.start("maintain", *EVERYTHING)
        threading.Event().wait(self.chance.uniform(0.0, 3.0))
        command.kill()

    def maintain_twice_at_once(self) -> None:
        both = [self.site.start("maintain", *EVERYTHING) for _ in range(2)]
        assert {command.wait().code for command in both} <= {0, 3}

    def let_the_store_fail(self) -> None:
        faults = [fail(Answer(503)), fail(ConnectionError()), lose(ConnectionError())]
        for operation in ("PUT", "GET", "HEAD", "DELETE"):
            for _ in range(5):
                number = self.proxy.counts[operation] + self.chance.randint(1, 60)
                self.proxy.plan.at(operation, number, self.chance.choice(faults))

    def go_on(self) -> None:
        """Two more commits are proved."""
        self.writer.until_event("committed", len(self.writer.events("committed")) + 2)


def test_a_stream_stays_exact_while_writers_and_maintenance_are_killed_and_the_store_fails(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    s3: Minio,
    iceberg_rest: IcebergRest,
    fresh_topic: str,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    kafka.create_topic(fresh_topic, 3)
    feed = Feed(kafka.bootstrap_servers, fresh_topic, 3, schema_registry.register(f"{fresh_topic}-value", TRADE))
    feed.trades(100)
    name = f"{fresh_namespace}.trades"
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 -- pytest shows it where the test fails
    chance = random.Random(seed)
    with StoreProxy(s3.port) as proxy:
        sink = {"catalog": {**iceberg_rest.pyiceberg_properties, "s3.endpoint": proxy.url}}
        table = {**TRADES_TABLE, "topics": [fresh_topic], "table": name}
        document = configuration(kafka.bootstrap_servers, schema_registry.url, [table], sink, interval="100ms")
        document["name"] = fresh_topic
        document["source"]["kafka"]["group_id"] = "${GROUP:-last}"
        site = Site(tmp_path, command_line, document)
        ends = time.monotonic() + MINUTES * 60
        with Stream(feed):
            turmoil = Turmoil(site, proxy, chance)
            deeds: list[Callable[[], None]] = [
                turmoil.kill_the_writer,
                turmoil.kill_the_writer,
                turmoil.maintain,
                turmoil.kill_maintain,
                turmoil.maintain_twice_at_once,
                turmoil.let_the_store_fail,
            ]
            while time.monotonic() < ends:
                deed = chance.choice(deeds)
                deed()
                turmoil.happened[deed.__name__] += 1
                turmoil.go_on()
            turmoil.writer.kill()
        site.catch_up()
        print(f"{dict(turmoil.happened)}, requests {dict(proxy.counts)}")  # noqa: T201 -- as above
        difference = site.differs(name, feed.sent)
        assert difference.exact, difference
        assert site.breaks(name) == []
        site.verified()
        kinds = Counter(c["by"]["kind"] for c in site.run("history", name, "--json").document["commits"])
        print(f"{dict(kinds)}, {len(feed.sent)} records")  # noqa: T201 -- as above
        assert set(kinds) == {"stream", "compaction"}
