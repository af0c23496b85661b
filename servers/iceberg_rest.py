"""Apache Iceberg's own REST catalog (the fixture of its open-api module) over a SQLite file and a MinIO bucket."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyiceberg.catalog import load_catalog

from servers import tools
from servers.jvm import ARCHIVE, Jvm
from servers.minio import REGION, Minio
from servers.process import Server, answers
from servers.releases import HOME, Release

_POM = Path(__file__).with_name("iceberg-rest-pom.xml")


class IcebergRest(Server):
    """A REST catalog whose tables live in a bucket of ``store``; it vends no credentials."""

    name = "iceberg-rest"

    def __init__(
        self,
        directory: Path,
        store: Minio,
        bucket: str = "warehouse",
        port: int | None = None,
        home: Path = HOME,
    ) -> None:
        """The catalog's database and log go into ``directory``; ``store`` must run, the bucket is created on start.

        Raises:
            NotInstalledError: the catalog is not installed in ``home``.
        """
        super().__init__(directory, port)
        self._store = store
        self._bucket = bucket
        self._folder = RELEASE.require(home)
        self._jvm = Jvm(self._folder / ARCHIVE)

    @property
    def url(self) -> str:
        """The catalog's address, no trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def warehouse(self) -> str:
        """Where tables are put."""
        return f"s3://{self._bucket}/"

    @property
    def pyiceberg_properties(self) -> dict[str, str]:
        """All properties for ``load_catalog("rest", **properties)``, the store's included."""
        return {"type": "rest", "uri": self.url, "warehouse": self.warehouse, **self._store.pyiceberg_properties}

    def _command(self) -> Sequence[str]:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        main = ("-cp", f"{self._folder / 'jars'}/*", "org.apache.iceberg.rest.RESTCatalogServer")
        return self._jvm.command(self.directory, quiet, *main)

    def _environment(self) -> Mapping[str, str]:
        return {
            "CATALOG_CATALOG__IMPL": "org.apache.iceberg.jdbc.JdbcCatalog",
            "CATALOG_URI": f"jdbc:sqlite:file:{self.directory / 'catalog.db'}",
            "CATALOG_JDBC_USER": "unused",
            "CATALOG_JDBC_PASSWORD": "unused",
            "CATALOG_JDBC_SCHEMA__VERSION": "V1",
            "CATALOG_WAREHOUSE": self.warehouse,
            "CATALOG_IO__IMPL": "org.apache.iceberg.aws.s3.S3FileIO",
            "CATALOG_S3_ENDPOINT": self._store.url,
            "CATALOG_S3_PATH__STYLE__ACCESS": "true",
            "CATALOG_HTTP__CLIENT_TYPE": "urlconnection",
            "CATALOG_REST_PORT": str(self.port),
            "REST_PORT": str(self.port),
            "AWS_ACCESS_KEY_ID": self._store.access_key,
            "AWS_SECRET_ACCESS_KEY": self._store.secret_key,
            "AWS_REGION": REGION,
        }

    def _prepare(self) -> None:
        self._store.create_bucket(self._bucket)

    def _is_ready(self) -> bool:
        return answers(f"{self.url}/v1/config")


class _Rehearsal(IcebergRest):
    """The catalog that `_install` runs once to write the archive of loaded classes."""

    def __init__(self, directory: Path, store: Minio, folder: Path) -> None:
        Server.__init__(self, directory)
        self._store = store
        self._bucket = "warehouse"
        self._folder = folder
        self._jvm = Jvm(folder / ARCHIVE, write_archive=True)


def _install(folder: Path) -> None:
    tools.copy_dependencies(_POM, folder / "jars")
    with tempfile.TemporaryDirectory() as temporary, Minio(Path(temporary, "s3"), home=folder.parent) as store:
        rehearsal = _Rehearsal(Path(temporary, "rest"), store, folder).start()
        try:
            catalog = load_catalog("rehearsal", **rehearsal.pyiceberg_properties)
            catalog.create_namespace("rehearsal")
            table = catalog.create_table("rehearsal.rows", pa.schema({"a": pa.int64()}))
            table.append(pa.table({"a": [1]}))
            catalog.load_table("rehearsal.rows").refresh()
        finally:
            rehearsal.stop(within=60)  # the archive is written on the way out


RELEASE = Release("iceberg-rest", "1.11.0", _install, (_POM,))
