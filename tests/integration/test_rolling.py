"""Workers come and go while a topic is streamed: each rebalance moves what it must, and nothing else stands still."""

from __future__ import annotations

import signal
from pathlib import Path

from servers.kafka import Kafka
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import JSON_TRADE, Command, CommandLine, Feed, Site, Stream, configuration

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
