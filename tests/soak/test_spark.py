"""Spark works on a table while lakeward streams into it: rewrites, deletes, updates, appends, rolls back, expires."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.releases import ServerError
from servers.schema_registry import SchemaRegistry
from servers.spark import CATALOG, Spark
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, Stream, configuration

from lakeward.sinks.iceberg.find import ARCHIVE_PREFIX
from lakeward.testing.lake import Lake, batch, commit, expected
from lakeward.testing.oracle import compare

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

COMMITTED = 2_000
"""Trades that are in the table before Spark touches any of them."""
DELETED = "symbol = 'BHP' AND sequence_number BETWEEN 5 AND 9"
UPDATED = "symbol = 'CBA' AND sequence_number = 7"
COPIED = "symbol = 'CBA' AND sequence_number = 11"
STAGED = "symbol = 'CBA' AND sequence_number = 12"
BRANCHED = "symbol = 'CBA' AND sequence_number = 13"


CONFLICTS = ("CommitFailedException", "ValidationException")
MOST_CONFLICTS = ("CommitFailedException", "ValidationException")


class Table:
    """One table as Spark sees it, and how often Spark had to try."""

    def __init__(self, spark: Spark, name: str) -> None:
        self.spark = spark
        self.name = f"{CATALOG}.{name}"
        self._name = name
        self.conflicts = 0

    def call(self, procedure: str, **arguments: str) -> list[dict[str, Any]]:
        given = "".join(f", {key} => {value}" for key, value in arguments.items())
        return self.sql(f"CALL {CATALOG}.system.{procedure}(table => '{self._name}'{given})")

    def insert_copy(self, of: str) -> None:
        self.sql(f"INSERT INTO {{}} SELECT * FROM {{}} WHERE {of} LIMIT 1")

    def sql(self, statement: str) -> list[dict[str, Any]]:
        """Run ``statement``, in which ``{}`` stands for the table, on the table as it is now: Spark keeps what it saw.

        Where lakeward was faster, Spark has changed nothing and says so; it is asked again, as an operator would.
        """
        while True:
            self.spark.sql(f"REFRESH TABLE {self.name}")
            try:
                return self.spark.sql(statement.replace("{}", self.name))
            except ServerError as refused:
                if self.conflicts == MOST_CONFLICTS or not any(name in str(refused) for name in CONFLICTS):
                    raise
                self.conflicts += 1

    def read(self, folder: Path) -> pa.Table:
        self.spark.sql(f"REFRESH TABLE {self.name}")
        self.spark.export(f"SELECT * FROM {self.name}", folder)
        return pq.ParquetDataset(folder).read()


def as_spark_left_it(sent: pa.Table) -> pa.Table:
    """What was sent, and what the statements below make of it."""
    names = ", ".join(sent.column_names)
    changed = names.replace("volume", "volume + 1 AS volume")
    with duckdb.connect() as reader:
        reader.execute("SET TimeZone = 'UTC'")
        reader.register("sent", sent)
        parts = [
            f"SELECT {names} FROM sent WHERE NOT (({DELETED}) OR ({UPDATED}))",
            f"SELECT {changed} FROM sent WHERE {UPDATED}",
            *(f"SELECT {names} FROM sent WHERE {copied}" for copied in (COPIED, STAGED)),
        ]
        return reader.sql(" UNION ALL ".join(parts)).to_arrow_table().cast(sent.schema)


def test_a_table_that_spark_works_on_while_it_is_streamed_into_is_exact(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    iceberg_rest: IcebergRest,
    spark: Spark,
    fresh_topic: str,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    name = f"{fresh_namespace}.trades"
    kafka.create_topic(fresh_topic, 3)
    schema_id = schema_registry.register(f"{fresh_topic}-value", TRADE)
    feed = Feed(kafka.bootstrap_servers, fresh_topic, 3, schema_id)
    table = {**TRADES_TABLE, "topics": [fresh_topic], "table": name}
    catalog = {"catalog": iceberg_rest.pyiceberg_properties}
    document = configuration(kafka.bootstrap_servers, schema_registry.url, [table], catalog, interval="500ms")
    document["name"] = document["source"]["kafka"]["group_id"] = fresh_topic
    site = Site(tmp_path, command_line, document)
    feed.trades(COMMITTED)
    running = site.start("run")
    running.until_committed(COMMITTED)
    other = Table(spark, name)

    with Stream(feed, burst=50, pause=0.1):
        # A rollback first: what Spark itself commits before it would be undone with the rest.
        running.until_event("committed", 4)
        back = site.history(name)[-3].snapshot_id
        other.sql(f"CALL {CATALOG}.system.rollback_to_snapshot('{name}', {back})")
        running.until(lambda: _rewound_and_read_again(site, name), "what was undone was read again")

        other.call("rewrite_data_files", options="map('rewrite-all', 'true')")
        other.sql(f"DELETE FROM {{}} WHERE {DELETED}")
        other.sql("ALTER TABLE {} SET TBLPROPERTIES ('write.update.mode' = 'merge-on-read')")
        other.sql(f"UPDATE {{}} SET volume = volume + 1 WHERE {UPDATED}")
        other.insert_copy(COPIED)
        other.call("rewrite_manifests")
        _stage_and_pick(site, other, name)
        other.sql("ALTER TABLE {} CREATE BRANCH audit")
        other.sql("SET spark.wap.branch = audit")
        other.insert_copy(BRANCHED)
        other.sql("RESET spark.wap.branch")
        other.sql("ALTER TABLE {} DROP BRANCH audit")
        other.call("expire_snapshots", older_than=f"TIMESTAMP '{datetime.now(UTC):%F %T}'", retain_last="1")
        other.call("rewrite_data_files", options="map('rewrite-all', 'true')")
        already = running.committed
        running.until_committed(already + 500)

    ended = running_until_caught_up(site, running)
    assert ended == 0
    wanted = as_spark_left_it(feed.sent)
    difference = site.differs(name, wanted)
    assert difference.exact, difference
    by_spark = compare(wanted, other.read(tmp_path / "read").cast(wanted.schema))
    assert by_spark.exact, by_spark
    assert site.breaks(name) == []
    _verified(site)


def _verified(site: Site) -> None:
    verdict = site.run("verify")
    assert verdict.code == 0, verdict.out


def _stage_and_pick(site: Site, other: Table, name: str) -> None:
    """Write-audit-publish: a snapshot beside `main`, published by cherry-picking it on what was committed since."""
    other.sql("ALTER TABLE {} SET TBLPROPERTIES ('write.wap.enabled' = 'true')")
    other.sql("SET spark.wap.id = audited")
    other.insert_copy(STAGED)
    other.sql("RESET spark.wap.id")
    snapshots = site.catalog().load_table(name).metadata.snapshots
    (staged,) = [s.snapshot_id for s in snapshots if s.summary and s.summary.get("wap.id") == "audited"]
    other.sql(f"CALL {CATALOG}.system.cherrypick_snapshot('{name}', {staged})")


def _rewound_and_read_again(site: Site, name: str) -> bool:
    records = site.history(name)
    undone = max(record.after.rows for record in records if not record.on_ancestry)
    return records[-1].on_ancestry and records[-1].after.rows > undone


def running_until_caught_up(site: Site, running: Any) -> int:
    running.signal(15)
    assert running.wait().code == 0
    return site.catch_up().code


def test_removing_orphan_files_takes_what_a_killed_writer_left_and_nothing_else(spark: Spark, tmp_path: Path) -> None:
    name = f"orphans_{os.getpid()}"
    uri = f"{tmp_path}/catalog.db"
    with Lake(
        {"name": name, "type": "sql", "uri": f"sqlite:///{uri}", "warehouse": f"file://{tmp_path}"}, ("shop", "orders")
    ) as lake:
        target = lake.target()
        for offset in range(60):
            lake.clock.ms += 20_000
            commit(target, batch(offset, 1))
        target.stage(batch(60, 5, commit="killed"))
        (key,) = [key for key in lake.table().properties if key.startswith(ARCHIVE_PREFIX)]
        archive = lake.table().properties[key]
        for path in tmp_path.rglob("*"):
            os.utime(path, (0, 0))

        settings = {
            "": "org.apache.iceberg.spark.SparkCatalog",
            ".catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
            ".uri": f"jdbc:sqlite:{uri}",
            ".jdbc.schema-version": "V1",
            ".warehouse": f"file://{tmp_path}",
        }
        for setting, value in settings.items():
            spark.sql(f"SET `spark.sql.catalog.{name}{setting}`=`{value}`")
        remove = f"CALL {name}.system.remove_orphan_files(table => 'shop.orders', dry_run => "
        listed = {row["orphan_file_location"] for row in spark.sql(f"{remove}true)")}
        live = {file.file.file_path for file in lake.table().scan().plan_files()}
        live |= {snapshot.manifest_list for snapshot in lake.table().metadata.snapshots}
        live |= {m.manifest_path for s in lake.table().metadata.snapshots for m in s.manifests(lake.table().io)}
        assert any("killed" in path for path in listed)
        assert not {path for path in listed if "/_lakeward/" in path}
        assert not {path.split(str(tmp_path))[1] for path in listed} & {path.split(str(tmp_path))[1] for path in live}

        spark.sql(f"{remove}false)")
        assert not list(tmp_path.rglob("killed*"))
        assert lake.rows() == expected(batch(0, 60))
        assert lake.table().properties[key] == archive
        records = lake.target().history()
        assert [record.retained for record in records].count(False) > 0
        assert len(records) == 60
        assert lake.breaks() == []
