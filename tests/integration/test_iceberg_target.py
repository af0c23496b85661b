"""The target's contract on real catalogs and stores: REST with S3, and PostgreSQL with S3 and with local files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import duckdb_extension_httpfs
import pytest
from servers.iceberg_rest import IcebergRest
from servers.minio import Minio
from servers.postgres import Postgres
from tests.contract.test_target import *  # noqa: F403 -- the contract itself, run here against what `lake` opens

from lakeward.errors import PermissionDeniedError, UnreachableError
from lakeward.outcomes import CommitReceipt
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.testing.lake import Lake, batch, commit, expected


@pytest.fixture(scope="session")
def s3_reader(s3: Minio) -> Iterator[duckdb.DuckDBPyConnection]:
    """The oracle, able to read the store."""
    properties = s3.pyiceberg_properties
    with duckdb.connect() as connection:
        extension = next(Path(str(duckdb_extension_httpfs.__file__)).parent.rglob("httpfs.duckdb_extension"))
        connection.execute(f"LOAD '{extension}'")
        options = {
            "KEY_ID": properties["s3.access-key-id"],
            "SECRET": properties["s3.secret-access-key"],
            "ENDPOINT": s3.url.removeprefix("http://"),
            "REGION": properties["s3.region"],
            "URL_STYLE": "path",
        }
        given = ", ".join(f"{key} '{value}'" for key, value in options.items())
        connection.execute(f"CREATE SECRET (TYPE s3, USE_SSL false, {given})")
        yield connection


@pytest.fixture(params=["rest-s3", "postgres-files", "postgres-s3"])
def lake(request: pytest.FixtureRequest, fresh_namespace: str, tmp_path: Path) -> Iterator[Lake]:
    reader: duckdb.DuckDBPyConnection | None = None
    if request.param == "rest-s3":
        rest: IcebergRest = request.getfixturevalue("iceberg_rest")
        properties, reader = dict(rest.pyiceberg_properties), request.getfixturevalue("s3_reader")
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        properties = {"type": "sql", "uri": sqlalchemy_uri(postgres), "warehouse": str(tmp_path)}
        if request.param == "postgres-s3":
            store: Minio = request.getfixturevalue("s3")
            bucket: str = request.getfixturevalue("fresh_bucket")
            reader = request.getfixturevalue("s3_reader")
            properties |= {**store.pyiceberg_properties, "warehouse": f"s3://{bucket}/wh"}
    with Lake(properties, (fresh_namespace, "orders"), reader) as opened:
        yield opened


def sqlalchemy_uri(postgres: Postgres) -> str:
    return postgres.dsn.replace("postgresql://", "postgresql+psycopg2://", 1)


def test_expiry_history_and_find_work_together_over_many_commits(lake: Lake) -> None:
    target = lake.target()
    for offset in range(60):
        lake.clock.ms += 1_000
        assert isinstance(commit(target, batch(offset, 1)), CommitReceipt)
    fresh = lake.target()
    assert len(lake.table().metadata.snapshots) < 60
    assert fresh.find().entry is not None
    assert len(fresh.history()) == 60
    assert lake.breaks() == []
    assert isinstance(commit(fresh, batch(60, 1)), CommitReceipt)
    assert lake.rows() == expected(batch(0, 61))


def test_a_rest_catalog_on_a_wrong_port_is_named(iceberg_rest: IcebergRest) -> None:
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9 does not answer"):
        open_catalog({**iceberg_rest.pyiceberg_properties, "uri": "http://127.0.0.1:9"})


def test_a_database_that_refuses_us_is_named(postgres: Postgres) -> None:
    uri = sqlalchemy_uri(postgres)
    with pytest.raises((PermissionDeniedError, UnreachableError), match="opening the catalog"):
        open_catalog({"type": "sql", "uri": f"{uri}_that_is_not_there", "warehouse": "/nowhere"})


def test_wrong_keys_for_the_store_are_told(iceberg_rest: IcebergRest, fresh_namespace: str) -> None:
    properties = {**iceberg_rest.pyiceberg_properties, "s3.secret-access-key": "wrong"}
    with Lake(properties, (fresh_namespace, "orders")) as wrong:
        target = wrong.target()
        with pytest.raises(PermissionDeniedError):
            target.stage(batch(0, 1))
