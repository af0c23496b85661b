"""A real PostgreSQL and a real MongoDB, told of by a real Debezium: the tables are what the sources hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.debezium import Debezium, Envelope, converters
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.minio import Minio
from servers.mongodb import MongoDb
from servers.postgres import Postgres
from servers.schema_registry import SchemaRegistry
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import CommandLine, Site, configuration
from tests.integration.documents import Documents, document_differences
from tests.integration.mirroring import Mirror
from tests.integration.mirrors import differences
from tests.integration.workload import Workload, database

__all__ = ["command_line", "shared_command_line"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop" / "debezium-postgres.yaml"
PARTS = {"publish.via.partition.root": "true", "table.exclude.list": r"\w+\.parted_\w+"}
TEXT = {"decimal.handling.mode": "string"}
NULLS = {"value.converter.replace.null.with.default": "false"}  # else a null is told of as the column's default


@pytest.fixture
def own_debezium(tmp_path: Path, own_kafka: Kafka) -> Iterator[Debezium]:
    """A worker for one test, on its own broker."""
    with Debezium(tmp_path / "debezium", own_kafka) as worker:
        yield worker


def test_the_example_mirrors_a_postgresql_as_it_stands(
    own_kafka: Kafka,
    own_debezium: Debezium,
    postgres: Postgres,
    iceberg_rest: IcebergRest,
    s3: Minio,
    command_line: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = {
        "KAFKA_BOOTSTRAP_SERVERS": own_kafka.bootstrap_servers,
        "ICEBERG_REST_URL": iceberg_rest.url,
        "S3_ENDPOINT": s3.url,
        "S3_ACCESS_KEY": s3.access_key,
        "S3_SECRET_KEY": s3.secret_key,
    }
    for name, value in addresses.items():
        monkeypatch.setenv(name, value)
    address = database(postgres, "shop")
    with closing(Workload(address, "public", seed=1)) as work:
        own_debezium.follow_postgres("shop", address, "public", {**PARTS, **TEXT, **NULLS})
        site = AsItStands(tmp_path, command_line, {}, addresses)
        mirror = Mirror(own_kafka, site, work, "shop.public", "shop.{}".format, differences)
        mirror.work_and_kill(2)
        mirror.settle()
        assert mirror.differences() == ""
        site.verified()
    own_debezium.delete("shop")


def site_of(
    kafka: Kafka, prefix: str, envelope: Envelope, registry: SchemaRegistry, place: tuple[Path, CommandLine]
) -> Site:
    """A pipeline that mirrors all topics below ``prefix``, in a local warehouse."""
    avro = envelope is Envelope.AVRO
    table = {"topic_pattern": rf"{prefix.replace('.', '[.]')}[.](?P<table>[a-y]\w+)", "table": "mirror.{table}"}
    document = configuration(kafka.bootstrap_servers, registry.url if avro else None, [{**table, "mode": "upsert"}])
    document["name"] = document["source"]["kafka"]["group_id"] = prefix.partition(".")[0]
    document["decode"] = {"debezium": {"format": "avro" if avro else "json"}}
    return Site(*place, document)


@pytest.mark.soak
@pytest.mark.parametrize("envelope", [Envelope.JSON_WITH_SCHEMA])
def test_types_that_schemas_tell_are_mirrored(
    kafka: Kafka,
    debezium: Debezium,
    postgres: Postgres,
    schema_registry: SchemaRegistry,
    fresh_namespace: str,
    envelope: Envelope,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    address = database(postgres, fresh_namespace)
    prefix = f"{fresh_namespace}.work"
    settings = {**PARTS, **converters(envelope, schema_registry), **NULLS}
    with closing(Workload(address, "work", seed=2)) as work:
        debezium.follow_postgres(fresh_namespace, address, "work", settings)
        site = site_of(kafka, prefix, envelope, schema_registry, (tmp_path, command_line))
        mirror = Mirror(kafka, site, work, prefix, "mirror.{}".format, differences)
        mirror.work_and_kill(1)
        mirror.settle()
        assert mirror.differences() == ""
    debezium.delete(fresh_namespace)


@pytest.mark.parametrize("envelope", [Envelope.JSON, pytest.param(Envelope.AVRO, marks=pytest.mark.soak)])
def test_a_mongodb_at_work_is_mirrored(
    kafka: Kafka,
    debezium: Debezium,
    mongodb: MongoDb,
    schema_registry: SchemaRegistry,
    fresh_namespace: str,
    envelope: Envelope,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    prefix = f"{fresh_namespace}.{fresh_namespace}"
    with closing(Documents(mongodb, fresh_namespace, seed=3)) as work:
        settings = {"capture.mode": "change_streams_update_full", **converters(envelope, schema_registry)}
        debezium.follow_mongodb(fresh_namespace, mongodb, fresh_namespace, settings)
        site = site_of(kafka, prefix, envelope, schema_registry, (tmp_path, command_line))
        mirror = Mirror(kafka, site, work, prefix, "mirror.{}".format, document_differences)
        mirror.work_and_kill(1)
        mirror.settle()
        assert mirror.differences() == ""
    debezium.delete(fresh_namespace)


class AsItStands(Site):
    """The example's own file."""

    def __init__(self, folder: Path, commands: CommandLine, document: dict[str, Any], env: dict[str, str]) -> None:
        super().__init__(folder, commands, document)
        self._env = env

    def save(self) -> None:
        shutil.copy(EXAMPLE, self.file)
        self.document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))

    def start(self, *arguments: str, env: Any = None, fsize: int | None = None) -> Any:
        return super().start(*arguments, env={**self._env, **(env or {})}, fsize=fsize)
