"""Apicurio Registry, spoken to through its Confluent-compatible interface."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import requests

from servers import tools
from servers.jvm import ARCHIVE, Jvm
from servers.process import Server, answers
from servers.releases import HOME, Release, ServerError

_VERSION = "2.6.13.Final"
_HEADERS = {"Content-Type": "application/vnd.schemaregistry.v1+json"}


class SchemaRegistry(Server):
    """A schema registry that keeps its schemas in memory: `pause` makes it vanish for a while, `kill` empties it."""

    name = "schema-registry"

    def __init__(self, directory: Path, port: int | None = None, home: Path = HOME) -> None:
        """The log goes into ``directory``.

        Raises:
            NotInstalledError: the registry is not installed in ``home``.
        """
        super().__init__(directory, port)
        self._folder = RELEASE.require(home)
        self._jvm = Jvm(self._folder / ARCHIVE)

    @property
    def url(self) -> str:
        """The base address for Confluent clients, no trailing slash."""
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def register(self, subject: str, schema: str, schema_type: str = "AVRO") -> int:
        """Register ``schema`` (its text) under ``subject`` and return its id.

        Raises:
            ServerError: the registry refused it.
        """
        body = {"schema": schema, "schemaType": schema_type}
        answer = requests.post(f"{self.url}/subjects/{subject}/versions", json=body, headers=_HEADERS, timeout=30)
        if answer.status_code != requests.codes.ok:
            raise ServerError(f"subject {subject} was refused with status {answer.status_code}: {answer.text[:300]}")
        return int(answer.json()["id"])

    def _command(self) -> Sequence[str]:
        address = ("-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self.port}")
        jar = next(self._folder.glob("apicurio-registry-app-*-runner.jar"))
        return self._jvm.command(self.directory, *address, "-jar", str(jar))

    def _environment(self) -> Mapping[str, str]:
        return {"QUARKUS_LOG_FILE_ENABLE": "false"}

    def _is_ready(self) -> bool:
        return answers(f"{self.url}/subjects")

    def _after_start(self) -> None:
        # Confluent's default; Apicurio's own is NONE.
        answer = requests.put(f"{self.url}/config", json={"compatibility": "BACKWARD"}, headers=_HEADERS, timeout=30)
        answer.raise_for_status()


class _Rehearsal(SchemaRegistry):
    """The registry that `_install` runs once to write the archive of loaded classes."""

    def __init__(self, directory: Path, folder: Path) -> None:
        Server.__init__(self, directory)
        self._folder = folder
        self._jvm = Jvm(folder / ARCHIVE, write_archive=True)


def _install(folder: Path) -> None:
    tools.unpack_artifact(f"io.apicurio:apicurio-registry-app:{_VERSION}:tar.gz:all", folder)
    with tempfile.TemporaryDirectory() as temporary:
        rehearsal = _Rehearsal(Path(temporary), folder).start()
        try:
            schema = '{"type": "record", "name": "Rehearsal", "fields": [{"name": "a", "type": "long"}]}'
            number = rehearsal.register("rehearsal-value", schema)
            requests.get(f"{rehearsal.url}/schemas/ids/{number}", timeout=30).raise_for_status()
        finally:
            rehearsal.stop(within=60)  # the archive is written on the way out


RELEASE = Release("schema-registry", _VERSION, _install)
