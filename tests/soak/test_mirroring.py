"""A real PostgreSQL and a real MongoDB at work for minutes, mirrored by a pipeline that is killed again and again.

Rivals write the same tables meanwhile, Spark compacts them, and in the end everybody reads the same.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import polars as pl
import psycopg2
import pyarrow.parquet as pq
import pytest
import requests
from servers.debezium import Debezium, Envelope, converters
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.mongodb import MongoDb
from servers.postgres import Postgres
from servers.releases import ServerError
from servers.schema_registry import SchemaRegistry
from servers.spark import CATALOG, Spark
from tests.e2e.killing import wait_for_a_moment
from tests.e2e.rig import CommandLine, Site, configuration
from tests.integration.documents import COLLECTIONS, Documents, document_differences
from tests.integration.mirroring import Busy, Mirror
from tests.integration.mirrors import differences
from tests.integration.workload import TABLES, Workload, database

from lakeward.clock import SystemClock
from lakeward.decoding.avro_registered import record_of
from lakeward.decoding.avro_shape import Shape
from lakeward.decoding.code_cache import CodeCache, default_folder
from lakeward.decoding.debezium_avro import Readable
from lakeward.decoding.registry import RegistryClient
from lakeward.testing.oracle import compare

MINUTES = float(os.environ.get("LAKEWARD_SOAK_MINUTES", "3"))
PARTS = {"publish.via.partition.root": "true", "table.exclude.list": r"\w+\.parted_\w+"}
NULLS = {"value.converter.replace.null.with.default": "false"}
NOT_SPARKS = {"codes"}
"""It has a column of times of day, which Spark does not know."""

pytestmark = [pytest.mark.soak, pytest.mark.servers, pytest.mark.timeout(900 + MINUTES * 180)]


def test_a_postgresql_at_work_is_mirrored(
    kafka: Kafka,
    debezium: Debezium,
    postgres: Postgres,
    spark: Spark,
    iceberg_rest: IcebergRest,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    address, prefix, seed = database(postgres, fresh_namespace), f"{fresh_namespace}.work", secrets.randbits(32)
    with closing(Workload(address, "work", seed)) as work:
        settings = {**PARTS, **converters(Envelope.JSON_WITH_SCHEMA), **NULLS}
        debezium.follow_postgres(fresh_namespace, address, "work", settings)
        site = site_of(kafka, prefix, iceberg_rest, tmp_path, command_line)
        mirror = Mirror(kafka, site, work, prefix, f"{fresh_namespace}.{{}}".format, differences, seed=seed)
        disturb(mirror, spark, sorted(set(TABLES) - NOT_SPARKS))
        assert mirror.differences() == ""
        for name, shown in work.shows().items():
            table = mirror.table(name)
            read_alike(site, table)
            if name not in NOT_SPARKS:
                spark.sql(f"REFRESH TABLE {CATALOG}.{table}")
                spark.export(f"SELECT * FROM {CATALOG}.{table}", tmp_path / name)
                assert differences(shown, pq.ParquetDataset(tmp_path / name).read()) == "", name
        site.verified()
    debezium.delete(fresh_namespace)


def test_a_postgresql_that_is_told_of_in_avro_is_mirrored(
    kafka: Kafka,
    debezium: Debezium,
    postgres: Postgres,
    spark: Spark,
    schema_registry: SchemaRegistry,
    iceberg_rest: IcebergRest,
    fresh_namespace: str,
    new_command_line: CommandLine,
    tmp_path: Path,
) -> None:
    """First records are read one by one, then by programs: those are compiled half-way."""
    address, prefix, seed = database(postgres, fresh_namespace), f"{fresh_namespace}.work", secrets.randbits(32)
    with closing(Workload(address, "work", seed)) as work:
        with closing(psycopg2.connect(address)) as connection, connection, connection.cursor() as cursor:
            # Apicurio's converter writes it in place of a null, whatever its settings are.
            cursor.execute("ALTER TABLE work.accounts ALTER COLUMN changed DROP DEFAULT")
        settings = {**PARTS, **converters(Envelope.AVRO, schema_registry)}
        debezium.follow_postgres(fresh_namespace, address, "work", settings)
        site = site_of(kafka, prefix, iceberg_rest, tmp_path, new_command_line, schema_registry)
        mirror = Mirror(kafka, site, work, prefix, f"{fresh_namespace}.{{}}".format, differences, seed=seed)
        for _ in range(2):
            disturb(mirror, spark, sorted(set(TABLES) - NOT_SPARKS), MINUTES / 2)
            assert mirror.differences() == ""
            compile_all(schema_registry, [f"{prefix}.{name}-value" for name in TABLES])
        for name in TABLES:
            read_alike(site, mirror.table(name))
        site.verified()
    debezium.delete(fresh_namespace)


@pytest.fixture
def new_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """Commands that find no compiled program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "commands"
    folder.mkdir()
    line = CommandLine(folder)
    yield line
    line.end_all()
    line.close()


def compile_all(registry: SchemaRegistry, subjects: Sequence[str]) -> None:
    """Put the programs of the latest schemas of these subjects where the command line looks for them."""
    with requests.Session() as session:
        client = Readable(RegistryClient(registry.url, None, SystemClock(), session))
        for subject in subjects:
            found = client.latest(subject)
            assert found is not None, subject
            schema_id, registered = found
            Shape.of(record_of(registered, f"schema id {schema_id}"), CodeCache(default_folder()))


def test_a_mongodb_at_work_is_mirrored(
    kafka: Kafka,
    debezium: Debezium,
    mongodb: MongoDb,
    spark: Spark,
    iceberg_rest: IcebergRest,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    prefix, seed = f"{fresh_namespace}.{fresh_namespace}", secrets.randbits(32)
    with closing(Documents(mongodb, fresh_namespace, seed)) as work:
        settings = {"capture.mode": "change_streams_update_full"}
        debezium.follow_mongodb(fresh_namespace, mongodb, fresh_namespace, settings)
        site = site_of(kafka, prefix, iceberg_rest, tmp_path, command_line)
        mirror = Mirror(kafka, site, work, prefix, f"{fresh_namespace}.{{}}".format, document_differences, seed=seed)
        disturb(mirror, spark, COLLECTIONS)
        assert mirror.differences() == ""
        for name in COLLECTIONS:
            read_alike(site, mirror.table(name))
        site.verified()
    debezium.delete(fresh_namespace)


def site_of(
    kafka: Kafka,
    prefix: str,
    catalog: IcebergRest,
    folder: Path,
    commands: CommandLine,
    registry: SchemaRegistry | None = None,
) -> Site:
    """A pipeline into the REST catalog; the environment names its consumer group, so that it can have rivals.

    With a ``registry`` it reads Avro.
    """
    name = prefix.partition(".")[0]
    table = {"topic_pattern": rf"{prefix.replace('.', '[.]')}[.](?P<table>[a-y]\w+)", "table": f"{name}.{{table}}"}
    iceberg = {"catalog": catalog.pyiceberg_properties}
    url = None if registry is None else registry.url
    document = configuration(kafka.bootstrap_servers, url, [{**table, "mode": "upsert"}], iceberg, interval="500ms")
    document["name"], document["decode"] = name, {"debezium": {"format": "avro" if registry else "json"}}
    document["source"]["kafka"]["group_id"] = f"{name}-${{GROUP:-main}}"
    return Site(folder, commands, document)


def disturb(mirror: Mirror, spark: Spark, compacted: Sequence[str], minutes: float = MINUTES) -> None:
    """Let the source work so long, kill writers, let rivals write, let Spark compact; then let it settle."""
    print("seed", mirror.seed)  # noqa: T201 - to replay a failure
    chance, until, number = random.Random(mirror.seed), time.monotonic() + minutes * 60, 0
    with Busy(mirror.worker) as busy:
        while time.monotonic() < until:
            number += 1
            command = mirror.site.start("run", env={"GROUP": f"group-{number}"})
            rival = mirror.site.start("run", env={"GROUP": f"rival-{number}"}) if number % 3 == 0 else None
            if rival is None:
                wait_for_a_moment(command, chance)
            else:  # one of them may have given up by then
                time.sleep(chance.uniform(2.0, 5.0))
            table = mirror.table(chance.choice(compacted))
            if number % 4 == 1:
                with suppress(ServerError):  # it loses against a writer that commits all the time
                    compact(spark, table)
            command.kill()
            if rival is not None:
                rival.kill()
            if number % 4 == 0:
                compact(spark, table)
    mirror.settle()
    print(f"{busy.done} changes to the source, {number} writers killed")  # noqa: T201 - what was shown


def compact(spark: Spark, table: str) -> None:
    """Let Spark rewrite a table as it is now: it keeps what it has seen of a table for half a minute."""
    spark.sql(f"REFRESH TABLE {CATALOG}.{table}")
    spark.sql(f"CALL {CATALOG}.system.rewrite_data_files(table => '{table}')")


@pytest.fixture(autouse=True)
def polars_plans_with_pyiceberg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with a plug-in of its own, whose absence it warns of."""
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")


def read_alike(site: Site, table: str) -> None:
    """PyIceberg, polars and DataFusion read what DuckDB reads."""
    store = {
        "aws_endpoint_url": site.properties["s3.endpoint"],
        "aws_access_key_id": site.properties["s3.access-key-id"],
        "aws_secret_access_key": site.properties["s3.secret-access-key"],
        "aws_region": site.properties["s3.region"],
        "aws_virtual_hosted_style_request": "false",
        "aws_allow_http": "true",
    }
    held = site.held(table)
    by_polars = pl.scan_iceberg(site.catalog().load_table(table), storage_options=store).collect().to_arrow()
    times = by_polars.cast(held.schema)  # polars has times of day in nanoseconds
    by_datafusion = site.queried(table).cast(held.schema)  # it calls UTC +00:00
    for found in (site.scanned(table), times, by_datafusion):
        difference = compare(held, found)
        assert difference.exact, (table, difference)
