"""MinIO: an object store that speaks S3, with conditional writes that are atomic. A tool for tests only (AGPL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from servers import tools
from servers.process import Server, answers, free_port
from servers.releases import HOME, Release

_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
REGION = "us-east-1"


class Minio(Server):
    """An S3 store on the local disk. Anyone on this machine may know its key: it holds test data only."""

    name = "minio"
    access_key = "lakeward"
    secret_key = "lakeward-tests"

    def __init__(self, directory: Path, port: int | None = None, home: Path = HOME) -> None:
        """Objects and log go into ``directory``, which may hold those of an earlier run.

        Raises:
            NotInstalledError: MinIO is not installed in ``home``.
        """
        super().__init__(directory, port)
        self._console_port = free_port()
        self._folder = RELEASE.require(home)

    @property
    def url(self) -> str:
        """The endpoint for S3 clients; buckets are addressed by path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pyiceberg_properties(self) -> dict[str, str]:
        """The catalog properties with which PyIceberg reaches this store."""
        return {
            "s3.endpoint": self.url,
            "s3.access-key-id": self.access_key,
            "s3.secret-access-key": self.secret_key,
            "s3.region": REGION,
        }

    def client(self) -> Any:
        """A new boto3 S3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}),
        )

    def create_bucket(self, name: str) -> str:
        """Create a bucket (nothing happens if it exists) and return its name."""
        client = self.client()
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
        return name

    def _command(self) -> Sequence[str]:
        ports = ("--address", f"127.0.0.1:{self.port}", "--console-address", f"127.0.0.1:{self._console_port}")
        return [str(self._folder / "minio"), "server", "--quiet", *ports, str(self.directory / "data")]

    def _environment(self) -> Mapping[str, str]:
        return {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_UPDATE": "off",
            "MINIO_BROWSER": "off",
        }

    def _prepare(self) -> None:
        (self.directory / "data").mkdir(exist_ok=True)

    def _is_ready(self) -> bool:
        return answers(f"{self.url}/minio/health/ready")


def _install(folder: Path) -> None:
    tools.go_install(f"github.com/minio/minio@{_VERSION}", folder)


RELEASE = Release("minio", _VERSION, _install)
