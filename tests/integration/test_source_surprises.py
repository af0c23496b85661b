"""What topics do to a pipeline behind its back, on a real broker: each time either exact, or a clear end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions
from servers.kafka import Kafka
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import CommandLine, Ended, Site, configuration, until

from lakeward.sinks.iceberg.history import Record
from lakeward.sources.kafka_client import close

__all__ = ["command_line", "shared_command_line"]


class Topics:
    """Topics of one broker whose records are numbers."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.admin = kafka.admin()

    def send(self, topic: str, numbers: Sequence[int], partition: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap_servers, "log_level": 0})
        for number in numbers:
            producer.produce(topic, _json(number), key=str(number % 10).encode(), partition=partition)
        assert producer.flush(20) == 0

    def recreate(self, topic: str, numbers: Sequence[int]) -> None:
        self.admin.delete_topics([topic], operation_timeout=10)[topic].result(20)
        until(lambda: topic not in self.admin.list_topics(timeout=10).topics, "deleting")
        self.kafka.create_topic(topic)
        self.send(topic, numbers)

    def expire(self, topic: str, before: int) -> None:
        place = TopicPartition(topic, 0, before)
        self.admin.delete_records([place])[place].result(20)

    def grow(self, topic: str, partitions: int) -> None:
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(20)


def _json(number: int) -> bytes:
    return json.dumps({"n": number}).encode()


@pytest.fixture
def topics(kafka: Kafka) -> Topics:
    return Topics(kafka)


@pytest.fixture
def site_of(fresh_topic: str, command_line: CommandLine, tmp_path: Path) -> Callable[..., Site]:
    def site_of(kafka: Kafka, *names: str, **source: Any) -> Site:
        decode = {"json": {"fields": {"n": "long"}}}
        tables = [{"topics": [name], "table": _table(name), "decode": decode} for name in names]
        document = configuration(kafka.bootstrap_servers, None, tables)
        document["name"] = fresh_topic
        document["source"]["kafka"]["properties"]["topic.metadata.refresh.interval.ms"] = "1000"
        document["source"]["kafka"] |= source
        return Site(tmp_path, command_line, document)

    return site_of


def _table(topic: str) -> str:
    return "numbers." + topic.replace("-", "_")


def _numbers(site: Site, topic: str) -> list[int]:
    return sorted(site.scanned(_table(topic))["n"].to_pylist())


def _given_up(site: Site, topic: str) -> list[tuple[int, int]]:
    history: list[Record] = site.history(_table(topic))
    found = [record.entry for record in history if record.entry is not None][-1]
    return [(loss.start, loss.end) for loss in found.accepted]


def _verified(site: Site) -> None:
    ended = site.run("verify", "--against-source")
    assert ended.code == 0, ended.out + ended.err


def _surprised(topics: Topics, site_of: Callable[..., Site], name: str) -> tuple[Site, dict[str, str]]:
    """Three tables with ten numbers each, whose topics were then created again, longer and shorter, or lost records."""
    names = {what: f"{name}-{what}" for what in ("longer", "shorter", "expired")}
    for topic in names.values():
        topics.kafka.create_topic(topic)
        topics.send(topic, range(10))
    site = site_of(topics.kafka, *names.values())
    site.catch_up()
    topics.recreate(names["longer"], range(100, 125))
    topics.recreate(names["shorter"], range(100, 105))
    topics.send(names["expired"], range(10, 30))
    topics.expire(names["expired"], 25)
    return site, names


def test_stop_names_what_happened_and_earliest_reads_all_that_is_there(
    topics: Topics, site_of: Callable[..., Site], fresh_topic: str
) -> None:
    site, names = _surprised(topics, site_of, fresh_topic)
    words = {
        "longer": "was deleted and created again",
        "shorter": "was deleted and created again",
        "expired": "continues at offset 10 but the topic now begins at 25: 15 offsets have expired",
    }
    tables = site.document["tables"]
    for table, (what, topic) in zip(tables, names.items(), strict=True):
        site.document["tables"] = [table]
        site.save()
        ended = site.run("run", "--until-caught-up")
        assert (ended.code, ended.out) == (4, "")
        assert words[what] in ended.err
        assert "Set `on_lost_positions: earliest` (or latest)" in ended.err
        assert _numbers(site, topic) == list(range(10))
    site.document["tables"] = tables
    site.document["source"]["kafka"]["on_lost_positions"] = "earliest"
    site.save()
    site.catch_up()
    assert _numbers(site, names["longer"]) == [*range(10), *range(100, 125)]
    assert _numbers(site, names["shorter"]) == [*range(10), *range(100, 105)]
    assert _numbers(site, names["expired"]) == [*range(10), *range(25, 30)]
    assert {what: _given_up(site, topic) for what, topic in names.items()} == {
        "longer": [(10, 0)],
        "shorter": [(10, 0)],
        "expired": [(10, 25)],
    }
    _verified(site)


def test_latest_reads_what_comes_from_then_on(topics: Topics, site_of: Callable[..., Site], fresh_topic: str) -> None:
    site, names = _surprised(topics, site_of, fresh_topic)
    site.document["source"]["kafka"]["on_lost_positions"] = "latest"
    site.save()
    site.catch_up()
    for topic in names.values():
        assert _numbers(site, topic) == list(range(10))
        topics.send(topic, [1000, 1001])
    site.catch_up()
    for topic in names.values():
        assert _numbers(site, topic) == [*range(10), 1000, 1001]
    assert [_given_up(site, topic)[0][1] for topic in names.values()] == [25, 5, 30]
    _verified(site)


def _while_it_runs(topics: Topics, site: Site, names: Sequence[str], final: int) -> Ended | None:
    """Take a worker's topics away while it stands still; how it ended, or None where it went on to ``final``."""
    command = site.start("run")
    command.until_committed(10 * len(names))
    command.signal(signal.SIGSTOP)
    for topic in names:
        if topic.endswith("expired"):
            topics.send(topic, range(10, 12))  # may be the answer to a fetch that is under way
            topics.send(topic, range(12, 30))
            topics.expire(topic, 25)
        else:
            topics.recreate(topic, range(100, 125))
    command.signal(signal.SIGCONT)
    until(lambda: not command.alive or command.committed >= final, "its end, or its going on")
    if not command.alive:
        return command.wait()
    command.signal(signal.SIGTERM)
    assert command.wait().code == 0
    return None


@pytest.mark.parametrize("what", ["recreated", "expired"])
def test_a_running_worker_stops_and_says_why(
    topics: Topics, site_of: Callable[..., Site], fresh_topic: str, what: str
) -> None:
    topic = topics.kafka.create_topic(f"{fresh_topic}-{what}")
    topics.send(topic, range(10))
    site = site_of(topics.kafka, topic)
    ended = _while_it_runs(topics, site, [topic], 13)  # twelve may be there before it stops
    assert ended is not None
    assert ended.code == 4, ended.err[-3000:]
    assert topic in ended.err
    assert "on_lost_positions: earliest" in ended.err
    held = _numbers(site, topic)
    assert held == list(range(len(held)))
    assert len(held) in (10, 12)


def test_a_running_worker_that_may_give_up_what_is_lost_goes_on(
    topics: Topics, site_of: Callable[..., Site], fresh_topic: str
) -> None:
    names = [topics.kafka.create_topic(f"{fresh_topic}-{what}") for what in ("recreated", "expired")]
    for topic in names:
        topics.send(topic, range(10))
    site = site_of(topics.kafka, *names, on_lost_positions="earliest")
    assert _while_it_runs(topics, site, names, 50) is None
    assert _numbers(site, names[0]) == [*range(10), *range(100, 125)]
    assert _given_up(site, names[0]) == [(10, 0)]
    [(start, end)] = _given_up(site, names[1])
    assert end == 25
    assert _numbers(site, names[1]) == [*range(start), *range(25, 30)]
    _verified(site)


def test_a_truncated_log_stops_the_table_whether_it_is_shorter_or_has_grown_again(
    own_kafka: Kafka, site_of: Callable[..., Site], fresh_topic: str
) -> None:
    topics = Topics(own_kafka)
    own_kafka.create_topic(fresh_topic)
    topics.send(fresh_topic, range(10))
    site = site_of(own_kafka, fresh_topic)
    site.catch_up()
    own_kafka.stop()
    for file in (own_kafka.directory / "data" / f"{fresh_topic}-0").glob("0*"):
        file.unlink()
    (own_kafka.directory / "data" / "recovery-point-offset-checkpoint").unlink()
    (own_kafka.directory / "data" / "replication-offset-checkpoint").unlink()
    own_kafka.start()
    topics.send(fresh_topic, range(100, 103))
    ended = site.run("run", "--until-caught-up")
    assert ended.code == 4
    assert f"{fresh_topic}/0 continues at offset 10 but the topic ends at 3: it was truncated" in ended.err
    topics.send(fresh_topic, range(103, 120))
    ended = site.run("run", "--until-caught-up")
    assert ended.code == 4
    assert "the record at offset 9 is not the one that was read there" in ended.err
    assert "lakeward seek" in ended.err
    assert _numbers(site, fresh_topic) == list(range(10))
    site.document["source"]["kafka"]["on_lost_positions"] = "earliest"  # nothing says where it was written anew
    site.save()
    ended = site.run("run", "--until-caught-up")
    assert ended.code == 4
    assert "lakeward seek" in ended.err
    sought = site.run("seek", _table(fresh_topic), "--partition", f"{fresh_topic}/0=0", "--yes")
    assert sought.code == 0, sought.err
    site.catch_up()
    assert _numbers(site, fresh_topic) == [*range(10), *range(100, 120)]


def test_partitions_added_while_running_are_read_from_their_beginning(
    topics: Topics, site_of: Callable[..., Site], fresh_topic: str
) -> None:
    topics.kafka.create_topic(fresh_topic)
    topics.send(fresh_topic, range(10))
    site = site_of(topics.kafka, fresh_topic, start="latest")
    command = site.start("run")
    command.until_event("committed")  # where it starts
    topics.grow(fresh_topic, 3)
    for partition in range(3):
        topics.send(fresh_topic, range(100 * partition, 100 * partition + 20), partition)
    command.until_committed(60)
    command.signal(signal.SIGTERM)
    assert command.wait().code == 0
    assert _numbers(site, fresh_topic) == [
        n for partition in range(3) for n in range(100 * partition, 100 * partition + 20)
    ]
    _verified(site)


def test_aborted_transactions_and_markers_are_passed_to_the_end(
    topics: Topics, site_of: Callable[..., Site], fresh_topic: str
) -> None:
    topics.kafka.create_topic(fresh_topic)
    producer = Producer({"bootstrap.servers": topics.kafka.bootstrap_servers, "transactional.id": fresh_topic})
    producer.init_transactions(20)
    site = site_of(topics.kafka, fresh_topic)
    kept: list[int] = []
    for round_ in range(2):
        for number in range(round_ * 6, round_ * 6 + 6):
            producer.begin_transaction()
            for value in range(number * 5, number * 5 + 5):
                producer.produce(fresh_topic, _json(value))
            producer.flush(20)  # what is aborted lies in the log too
            if number % 3:
                producer.commit_transaction(20)
                kept += range(number * 5, number * 5 + 5)
            else:
                producer.abort_transaction(20)
        site.catch_up()  # the last thing in the log is a marker, then records that are aborted
        assert _numbers(site, fresh_topic) == kept
    assert list(site.positions(_table(fresh_topic)).values()) == [2 * 6 * 6]
    _verified(site)


def test_a_compacted_topic_is_read_over_its_holes(
    topics: Topics, site_of: Callable[..., Site], fresh_topic: str
) -> None:
    kafka = topics.kafka
    config = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
    kafka.create_topic(fresh_topic, 1, config | {"segment.bytes": "1048576"})
    topics.send(fresh_topic, range(10))
    site = site_of(kafka, fresh_topic)
    site.catch_up()
    topics.send(fresh_topic, range(10, 100))
    left: list[int] = []

    def compacted() -> bool:
        topics.send(fresh_topic, [1000])  # rolls the segment
        left[:] = _offsets(kafka, fresh_topic)
        return len(left) < 60

    until(compacted, "compaction")
    site.catch_up()
    numbers = _numbers(site, fresh_topic)
    assert [n for n in numbers if n < 1000] == [*range(10), *(n for n in range(10, 100) if n in left)]
    assert site.positions(_table(fresh_topic)) == {(fresh_topic, 0): left[-1] + 1}
    _verified(site)


def _offsets(kafka: Kafka, topic: str) -> list[int]:
    """The offsets that the topic still has a record at."""
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": topic + "-look", "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    while (message := consumer.poll(10)) is not None and message.error() is None:
        found.append(message.offset() or 0)
    close(consumer)
    return found
