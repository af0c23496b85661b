"""What the long tests stand on: the command line, and the real servers of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.iceberg_rest import IcebergRest
from servers.minio import Minio
from servers.spark import Spark
from tests.e2e.fixtures import command_line, shared_command_line
from tests.integration.conftest import (
    debezium,
    fresh_namespace,
    fresh_topic,
    iceberg_rest,
    kafka,
    mongodb,
    own_kafka,
    postgres,
    running,
    s3,
    schema_registry,
    servers_directory,
)

__all__ = [
    "command_line",
    "debezium",
    "fresh_namespace",
    "fresh_topic",
    "iceberg_rest",
    "kafka",
    "mongodb",
    "own_kafka",
    "postgres",
    "s3",
    "schema_registry",
    "servers_directory",
    "shared_command_line",
]


@pytest.fixture(scope="session")
def spark(servers_directory: Path, iceberg_rest: IcebergRest, s3: Minio) -> Iterator[Spark]:
    """A Spark session on the shared catalog."""
    yield from running(lambda: Spark(servers_directory / "spark", iceberg_rest, s3))
