"""Workers come and go while a topic is streamed: each rebalance moves what it must, and nothing else stands still."""

from __future__ import annotations

import signal
from pathlib import Path

import pyarrow as pa
from servers.kafka import Kafka
from servers.schema_registry import SchemaRegistry
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import (
    JSON_TRADE,
    TRADE,
    TRADES_TABLE,
    Command,
    CommandLine,
    Feed,
    Site,
    Stream,
    configuration,
)

__all__ = ["command_line", "shared_command_line"]


def partitions(command: Command, event: str) -> list[str]:
    return [name for told in command.events(event) for name in told["partitions"]]


def test_workers_that_join_and_leave_take_only_what_moves(
    kafka: Kafka, fresh_topic: str, command_line: CommandLine, tmp_path: Path
) -> None:
    kafka.create_topic(fresh_topic, 6)
    feed = Feed(kafka.bootstrap_servers, fresh_topic, 6, None)
    table = {"topics": [fresh_topic], "table": "rolling.trades", "decode": {"json": {"fields": JSON_TRADE}}}
    document = configuration(kafka.bootstrap_servers, None, [table])
    document["name"] = fresh_topic
    document["source"]["kafka"]["properties"] = {"session.timeout.ms": "60000", "heartbeat.interval.ms": "200"}
    site = Site(tmp_path, command_line, document)
    with Stream(feed):
        first = site.start("run")
        first.until_event("committed", 2)
        second = site.start("run")
        second.until_event("committed", 2)
        moved = partitions(first, "revoked")
        assert 0 < len(moved) < 6
        assert sorted(partitions(second, "assigned")) == sorted(moved)
        assert len(partitions(first, "assigned")) == 6  # what it kept it never had to take up again
        before = len(first.events("committed"))
        second.signal(signal.SIGTERM)
        assert second.wait().code == 0
        first.until(lambda: len(partitions(first, "assigned")) == 6 + len(moved), "taking over, long before a session")
        first.until(lambda: len(first.events("committed")) > before + 2, "going on")
        assert partitions(first, "revoked") == moved
    first.signal(signal.SIGTERM)
    assert first.wait().code == 0
    site.catch_up()
    difference = site.differs("rolling.trades", feed.sent)
    assert difference.exact, difference
    assert site.breaks("rolling.trades") == []


def test_a_named_worker_that_reads_fewer_topics_than_before_leaves_the_others_alone(
    kafka: Kafka, schema_registry: SchemaRegistry, fresh_topic: str, command_line: CommandLine, tmp_path: Path
) -> None:
    """A broker gives a member of this name what it had, without asking what it reads now."""
    topics = [fresh_topic, f"{fresh_topic}-more"]
    schema_id = schema_registry.register(f"{fresh_topic}-value", TRADE)
    feeds = []
    for seed, topic in enumerate(topics):
        kafka.create_topic(topic, 2)
        feeds.append(Feed(kafka.bootstrap_servers, topic, 2, schema_id, seed=seed))
        feeds[-1].trades(100)
    table = {**TRADES_TABLE, "topics": topics}
    document = configuration(kafka.bootstrap_servers, schema_registry.url, [table])
    document["name"] = document["source"]["kafka"]["group_id"] = fresh_topic
    site = Site(tmp_path, command_line, document)
    first = site.start("run", "--instance", "one")
    first.until_committed(200)
    first.kill()
    site.document["tables"][0]["topics"] = topics[:1]
    site.save()
    second = site.start("run", "--instance", "one")
    for feed in feeds:
        feed.trades(50)
    second.until_committed(50)
    second.signal(signal.SIGTERM)
    assert second.wait().code == 0
    sent = pa.concat_tables([feeds[0].sent, feeds[1].sent.slice(0, 100)])
    difference = site.differs("market_data.trades", sent)
    assert difference.exact, difference
