"""Rollbacks on a real REST catalog with S3, and a stream of a real broker that is replayed after one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.schema_registry import SchemaRegistry
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration
from tests.integration.test_iceberg_target import s3_reader
from tests.unit.sinks.test_rollback import *  # noqa: F403 -- its rules, run here against what `lake` opens

from lakeward.testing.lake import Lake

__all__ = ["command_line", "s3_reader", "shared_command_line"]


@pytest.fixture
def lake(iceberg_rest: IcebergRest, fresh_namespace: str, s3_reader: duckdb.DuckDBPyConnection) -> Iterator[Lake]:
    with Lake(iceberg_rest.pyiceberg_properties, (fresh_namespace, "orders"), s3_reader) as opened:
        yield opened


def test_bad_data_is_rolled_back_under_a_running_pipeline_and_replayed_without_it(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    iceberg_rest: IcebergRest,
    fresh_topic: str,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    good_topic, bad_topic, name = fresh_topic, f"{fresh_topic}-bad", f"{fresh_namespace}.trades"
    for topic in (good_topic, bad_topic):
        kafka.create_topic(topic, 3)
    schema_id = schema_registry.register(f"{fresh_topic}-value", TRADE)
    good = Feed(kafka.bootstrap_servers, good_topic, 3, schema_id, seed=1)
    bad = Feed(kafka.bootstrap_servers, bad_topic, 3, schema_id, seed=2)
    table = {**TRADES_TABLE, "topics": [good_topic, bad_topic], "table": name}
    catalog = {"catalog": iceberg_rest.pyiceberg_properties}
    document = configuration(kafka.bootstrap_servers, schema_registry.url, [table], catalog)
    document["name"] = document["source"]["kafka"]["group_id"] = fresh_topic
    site = Site(tmp_path, command_line, document)
    good.trades(1_000)
    running = site.start("run")
    running.until_committed(1_000)
    moment = site.history(name)[-1].snapshot_id
    bad.trades(300)
    good.trades(500)
    running.until_committed(1_800)
    assert not site.differs(name, good.sent).exact

    running.kill()
    site.document["tables"][0]["topics"] = [good_topic]
    site.save()
    fixed = site.start("run")
    good.trades(200)
    fixed.until_committed(200)
    done = site.run("rollback", name, "--to", str(moment), "--yes", "--json")
    assert done.code == 0, done.err
    assert done.document["rows"] == {"before": 2_000, "after": 1_000}
    good.trades(100)
    fixed.until_committed(200 + 500 + 200 + 100)
    fixed.until(lambda: site.differs(name, good.sent).exact, "the table was exact again")
    assert site.breaks(name) == []
    site.verified()
    by = [commit["by"]["kind"] for commit in site.run("history", name, "--all", "--json").document["commits"]]
    assert by.count("rollback") == 1
    assert set(by) - {"compaction"} == {"stream", "rollback"}
