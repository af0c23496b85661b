"""Twelve schema versions from a real registry, interleaved, with a kill in between: each value is in its column."""

from __future__ import annotations

from pathlib import Path

from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.schema_registry import SchemaRegistry
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import CommandLine, Site, configuration
from tests.e2e.versions import Orders, differences

from lakeward.testing.producing import produce, producer_of

__all__ = ["command_line", "shared_command_line"]

PARTITIONS = 3


def test_twelve_versions_interleaved_over_partitions_and_restarts_are_read_back_right(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    iceberg_rest: IcebergRest,
    fresh_topic: str,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    topic = kafka.create_topic(fresh_topic, PARTITIONS)
    orders = Orders(1, lambda text: schema_registry.register(f"{topic}-value", text))
    name = f"{fresh_namespace}.orders"
    table = {"topics": [topic], "table": name, "partition_by": ["bucket(4, n)"], "sort_by": ["price desc", "n"]}
    document = configuration(
        kafka.bootstrap_servers, schema_registry.url, [table], {"catalog": iceberg_rest.pyiceberg_properties}
    )
    document["name"] = topic
    site = Site(tmp_path, command_line, document)
    producer = producer_of(kafka.bootstrap_servers, {"log_level": 0})
    held = {}
    for upto in (2, 5, 8, 12, 12):
        values = orders.payloads(60, upto)
        produce(producer, topic, values, homes=[i % PARTITIONS for i in range(len(values))])
        if upto == 8:
            running = site.start("run")
            running.until_committed(1)
            running.kill()
        site.catch_up()
        snapshot = site.catalog().load_table(name).current_snapshot()
        assert snapshot is not None
        held[snapshot.snapshot_id] = len(orders.sent)
    loaded = site.catalog().load_table(name)
    assert {field.name for field in loaded.schema().fields} == set(orders.sent[0])
    for snapshot_id, count in held.items():
        assert differences(loaded, orders.sent[:count], snapshot_id) == []
    assert site.breaks(name) == []
    ended = site.run("verify", "--against-source")
    assert ended.code == 0, ended.out + ended.err
