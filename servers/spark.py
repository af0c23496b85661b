"""Apache Spark with Iceberg's runtime: one local session that answers SQL over HTTP. Not installed unless asked for.

It is a client of a catalog like any other tool that works on the same tables: `python -m servers install spark`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from servers import tools
from servers.iceberg_rest import IcebergRest
from servers.minio import REGION, Minio
from servers.process import Server, answers
from servers.releases import HOME, Release, ServerError

_POM = Path(__file__).with_name("spark-pom.xml")
_SESSION = Path(__file__).with_name("spark_session.py")
_VERSION = "3.5.9"
_ANSWER_WITHIN_S = 300.0
CATALOG = "lake"


class Spark(Server):
    """A Spark session on two cores, whose catalog ``lake`` is a REST catalog over S3."""

    name = "spark"
    start_within = 120.0

    def __init__(self, directory: Path, catalog: IcebergRest, store: Minio, home: Path = HOME) -> None:
        """Scratch files and log go into ``directory``; ``catalog`` and ``store`` must run.

        Raises:
            NotInstalledError: Spark is not installed in ``home``.
        """
        super().__init__(directory)
        self._catalog = catalog
        self._store = store
        self._folder = RELEASE.require(home)

    def sql(self, statement: str) -> list[dict[str, Any]]:
        """Run one statement and return its rows; what JSON does not know comes as text.

        Raises:
            ServerError: Spark refused it; the message holds the first line of Spark's own.
        """
        return self._ask({"sql": statement})

    def export(self, statement: str, path: Path) -> None:
        """Write the rows of a query as Parquet files into the new folder ``path``.

        Raises:
            ServerError: as `sql`.
        """
        self._ask({"sql": statement, "parquet": str(path)})

    def _ask(self, request: Mapping[str, str]) -> list[dict[str, Any]]:
        answer = requests.post(f"http://127.0.0.1:{self.port}/", json=request, timeout=_ANSWER_WITHIN_S)
        document = answer.json()
        if answer.status_code != requests.codes.ok:
            raise ServerError(f"Spark refused `{request['sql']}`: {document['error']}")
        rows: list[dict[str, Any]] = document["rows"]
        return rows

    def _command(self) -> Sequence[str]:
        program = self._folder / "python" / "bin" / "python"
        return [str(program), str(_SESSION), str(self.port)]

    def _environment(self) -> Mapping[str, str]:
        jars = ":".join(str(jar) for jar in sorted((self._folder / "jars").glob("*.jar")))
        lake = f"spark.sql.catalog.{CATALOG}"
        settings = {
            "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
            lake: "org.apache.iceberg.spark.SparkCatalog",
            f"{lake}.type": "rest",
            f"{lake}.uri": self._catalog.url,
            f"{lake}.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
            f"{lake}.s3.endpoint": self._store.url,
            f"{lake}.s3.path-style-access": "true",
            f"{lake}.http-client.type": "urlconnection",
            "spark.driver.extraClassPath": jars,
            "spark.driver.memory": "1g",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.shuffle.partitions": "2",
            "spark.local.dir": str(self.directory / "scratch"),
            "spark.sql.warehouse.dir": str(self.directory / "warehouse"),
        }
        return {
            "PYSPARK_PYTHON": str(self._folder / "python" / "bin" / "python"),
            "PYSPARK_SUBMIT_ARGS": "--master local[2] pyspark-shell",
            "SPARK_SETTINGS": "\n".join(f"{key}={value}" for key, value in settings.items()),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "JAVA_HOME": str(Path(tools.java()).resolve().parents[1]),
            "AWS_ACCESS_KEY_ID": self._store.access_key,
            "AWS_SECRET_ACCESS_KEY": self._store.secret_key,
            "AWS_REGION": REGION,
        }

    def _is_ready(self) -> bool:
        return answers(f"http://127.0.0.1:{self.port}/")


def _install(folder: Path) -> None:
    tools.copy_dependencies(_POM, folder / "jars")
    python = folder / "python"
    tools.run([sys.executable, "-m", "venv", str(python)])
    pip = [str(python / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    tools.run([*pip, f"pyspark=={_VERSION}"], {"PIP_NO_INPUT": "1", "PATH": os.environ["PATH"]})


RELEASE = Release("spark", _VERSION, _install, (_POM,))
