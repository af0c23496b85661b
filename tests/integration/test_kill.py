"""kill -9 at random moments on real Kafka, Schema Registry, Iceberg REST catalog and S3."""

from __future__ import annotations

from pathlib import Path

from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.schema_registry import SchemaRegistry
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.killing import kill_again_and_again
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.testing.producing import produce, producer_of

__all__ = ["command_line", "shared_command_line"]


def test_a_writer_that_is_killed_twenty_times_loses_and_doubles_nothing(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    iceberg_rest: IcebergRest,
    fresh_topic: str,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    kafka.create_topic(fresh_topic, 3)
    feed = Feed(kafka.bootstrap_servers, fresh_topic, 3, schema_registry.register(f"{fresh_topic}-value", TRADE))
    feed.trades(100)
    table = {**TRADES_TABLE, "topics": [fresh_topic], "table": f"{fresh_namespace}.trades"}
    catalog = {"catalog": iceberg_rest.pyiceberg_properties}
    document = configuration(kafka.bootstrap_servers, schema_registry.url, [table], catalog)
    document["name"] = document["source"]["kafka"]["group_id"] = fresh_topic
    document["source"]["kafka"]["properties"] = {"session.timeout.ms": "600", "heartbeat.interval.ms": "150"}
    site = Site(tmp_path, command_line, document)
    kill_again_and_again(site, feed, f"{fresh_namespace}.trades", kills=20)
    assert len(site.history(f"{fresh_namespace}.trades")) >= 10


def test_a_worker_that_was_killed_reads_the_topics_that_have_come_up_since(
    kafka: Kafka, fresh_topic: str, command_line: CommandLine, tmp_path: Path
) -> None:
    table = {"topic_pattern": f"{fresh_topic}-(?P<n>[ab])", "table": "some.{n}"}
    document = configuration(kafka.bootstrap_servers, None, [table])
    document["name"], document["decode"] = fresh_topic, "bytes"
    site = Site(tmp_path, command_line, document)
    producer = producer_of(kafka.bootstrap_servers, {"log_level": 0})
    kafka.create_topic(f"{fresh_topic}-a")
    produce(producer, f"{fresh_topic}-a", [b"before"], [None], [0])
    command = site.start("run")
    command.until_event("committed")
    command.kill()
    kafka.create_topic(f"{fresh_topic}-b")
    produce(producer, f"{fresh_topic}-b", [b"after"], [None], [0])
    site.catch_up()
    assert site.held("some.b")["value"].to_pylist() == [b"after"]
