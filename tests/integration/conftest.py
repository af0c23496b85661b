"""The real servers as fixtures: each starts when a test first asks for it and is shared by the whole session."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the `servers` package lies in the repository root

from servers.debezium import Debezium
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka, KafkaOptions
from servers.minio import Minio
from servers.mongodb import MongoDb
from servers.postgres import Postgres
from servers.process import Server
from servers.releases import NotInstalledError
from servers.schema_registry import SchemaRegistry

S = TypeVar("S", bound=Server)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    """Data and logs of all servers, gone after the session."""
    directory = Path(tempfile.mkdtemp(prefix="lakeward-servers-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka(servers_directory: Path) -> Iterator[Kafka]:
    """The shared broker; never stop, pause or kill it: take `own_kafka` for that."""
    yield from running(lambda: Kafka(servers_directory / "kafka"))


@pytest.fixture(scope="session")
def schema_registry(servers_directory: Path) -> Iterator[SchemaRegistry]:
    yield from running(lambda: SchemaRegistry(servers_directory / "schema-registry"))


@pytest.fixture(scope="session")
def s3(servers_directory: Path) -> Iterator[Minio]:
    yield from running(lambda: Minio(servers_directory / "s3"))


@pytest.fixture(scope="session")
def iceberg_rest(servers_directory: Path, s3: Minio) -> Iterator[IcebergRest]:
    """The shared REST catalog; its tables live in the bucket `warehouse` of `s3`."""
    yield from running(lambda: IcebergRest(servers_directory / "iceberg-rest", s3))


@pytest.fixture(scope="session")
def postgres(servers_directory: Path) -> Iterator[Postgres]:
    yield from running(lambda: Postgres(servers_directory / "postgres"))


@pytest.fixture(scope="session")
def mongodb(servers_directory: Path) -> Iterator[MongoDb]:
    """The shared replica set of one."""
    yield from running(lambda: MongoDb(servers_directory / "mongodb"))


@pytest.fixture(scope="session")
def debezium(servers_directory: Path, kafka: Kafka) -> Iterator[Debezium]:
    """The shared Connect worker with Debezium's connectors, on `kafka`; a test deletes the connectors that it made."""
    yield from running(lambda: Debezium(servers_directory / "debezium", kafka))


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Kafka]:
    """A broker for one test, to be killed, paused and restarted at will."""
    yield from running(lambda: Kafka(tmp_path / "kafka", KafkaOptions(crash_tests=True)))


@pytest.fixture
def fresh_topic() -> str:
    """A topic name that no other test uses; the topic does not exist yet."""
    return _fresh("topic", "-")


@pytest.fixture
def fresh_namespace() -> str:
    """A namespace that no other test uses; it does not exist yet."""
    return _fresh("namespace", "_")


@pytest.fixture
def fresh_bucket(s3: Minio) -> str:
    """An empty bucket in `s3`."""
    return s3.create_bucket(_fresh("bucket", "-"))


def running(make: Callable[[], S]) -> Iterator[S]:
    """The server while the fixture lives; where it is not installed, its tests are skipped."""
    try:
        server = make()
    except NotInstalledError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
    server.start()
    yield server
    server.kill()


def _fresh(kind: str, joint: str) -> str:
    # Not a counter: this file may be imported under two names, each with a counter of its own.
    return f"{kind}{joint}{uuid.uuid4().hex[:12]}"
