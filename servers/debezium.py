"""Debezium: Kafka Connect with its PostgreSQL and MongoDB connectors, which put each change of a row into a topic."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from servers import tools
from servers.connect import AVRO_POM, PLUGINS, WORKER, WORKER_POM, ConnectWorker
from servers.jvm import ARCHIVE, Jvm
from servers.kafka import Kafka
from servers.mongodb import MongoDb
from servers.postgres import Postgres
from servers.releases import HOME, Release, ServerError
from servers.schema_registry import SchemaRegistry

_VERSION = "3.6.1.Final"
_CONNECTORS = ("postgres", "mongodb")
_CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
_AVRO_CONVERTER = "io.apicurio.registry.utils.converter.AvroConverter"


class Envelope(StrEnum):
    """How events are written: JSON without or with a schema in each, or Avro with the schema in the registry."""

    JSON = "json"
    JSON_WITH_SCHEMA = "json-with-schema"
    AVRO = "avro"


class Debezium(ConnectWorker):
    """A Connect worker on ``kafka``, which must run, with Debezium's connectors."""

    name = "debezium"
    discovery = "service_load"

    def __init__(self, directory: Path, kafka: Kafka, port: int | None = None, home: Path = HOME) -> None:
        """The log goes into ``directory``.

        Raises:
            NotInstalledError: Debezium is not installed in ``home``.
        """
        folder = RELEASE.require(home)
        super().__init__(directory, kafka, folder, Jvm(folder / ARCHIVE, heap="768m").command(directory), port)

    def follow_postgres(
        self, prefix: str, database: Postgres | str, schema: str, settings: Mapping[str, str] | None = None
    ) -> None:
        """Follow all tables of ``schema``: topics ``<prefix>.<schema>.<table>``; the slot is called as the prefix.

        ``settings`` of the connector come last, `converters` among them. Returns when rows that are written from now on
        will be told of, and those that were there are on their way.

        Raises:
            ServerError: the worker refused it, or the connector failed.
        """
        address = urlsplit(database if isinstance(database, str) else database.dsn)
        config = {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": str(address.hostname),
            "database.port": str(address.port),
            "database.user": str(address.username),
            "database.password": address.password or "none",
            "database.dbname": address.path.lstrip("/"),
            "plugin.name": "pgoutput",
            "slot.name": prefix,
            "slot.drop.on.stop": "false",
            "publication.name": prefix,
            "publication.autocreate.mode": "filtered",
            "schema.include.list": schema,
        }
        self._follow(prefix, config, settings, "Starting streaming")

    def follow_mongodb(
        self, prefix: str, server: MongoDb, database: str, settings: Mapping[str, str] | None = None
    ) -> None:
        """Follow all collections of ``database``: topics ``<prefix>.<database>.<collection>``; as `follow_postgres`.

        Raises:
            ServerError: the worker refused it, or the connector failed.
        """
        config = {
            "connector.class": "io.debezium.connector.mongodb.MongoDbConnector",
            "mongodb.connection.string": server.uri,
            "database.include.list": database,
        }
        self._follow(prefix, config, settings, "Starting streaming")

    def _follow(self, prefix: str, config: Mapping[str, str], settings: Mapping[str, str] | None, sign: str) -> None:
        self._log_start = self.log.stat().st_size  # what it logs of this connector comes after
        common = {
            "topic.prefix": prefix,
            "tasks.max": "1",
            "poll.interval.ms": "20",
            "skipped.operations": "none",
            "topic.creation.default.replication.factor": "1",
            "topic.creation.default.partitions": "1",
            **converters(Envelope.JSON),
        }
        self.put(prefix, {**common, **config, **(settings or {})})
        self._wait_for(lambda: self._follows(prefix, sign), f"following {prefix}")

    def _follows(self, prefix: str, sign: str) -> bool:
        if (failure := self.failure(prefix)) is not None:
            raise ServerError(f"connector {prefix} failed: {failure}")
        return self._logged(sign)


def converters(envelope: Envelope, registry: SchemaRegistry | None = None) -> dict[str, str]:
    """The settings of a connector that write keys and values as ``envelope``; Avro needs the ``registry``."""
    if envelope is not Envelope.AVRO:
        schemas = str(envelope is Envelope.JSON_WITH_SCHEMA).lower()
        one = {"": _CONVERTER, ".schemas.enable": schemas}
    elif registry is None:
        raise ServerError("Avro needs a schema registry")
    else:
        one = {
            "": _AVRO_CONVERTER,
            ".apicurio.registry.url": f"http://127.0.0.1:{registry.port}/apis/registry/v2",
            ".apicurio.registry.auto-register": "true",
            ".apicurio.registry.find-latest": "true",
            ".apicurio.registry.as-confluent": "true",
            ".apicurio.registry.headers.enabled": "false",  # the id of the schema goes before the record
            ".apicurio.registry.use-id": "contentId",
        }
    return {f"{part}.converter{name}": value for part in ("key", "value") for name, value in one.items()}


def _install(folder: Path) -> None:
    tools.copy_dependencies(WORKER_POM, folder / WORKER)
    tools.copy_dependencies(AVRO_POM, folder / PLUGINS / "avro")
    _declare_converter(folder / PLUGINS / "avro" / "services.jar")
    for connector in _CONNECTORS:
        artifact = f"io.debezium:debezium-connector-{connector}:{_VERSION}:tar.gz:plugin"
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            tools.unpack_artifact(artifact, Path(temporary))
            name = f"debezium-connector-{connector}"
            (Path(temporary) / name).rename(folder / PLUGINS / name)


def _declare_converter(jar: Path) -> None:
    """The converter does not declare itself, and would not be found."""
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/services/org.apache.kafka.connect.storage.Converter", f"{_AVRO_CONVERTER}\n")


RELEASE = Release("debezium", _VERSION, _install, (WORKER_POM, AVRO_POM))
