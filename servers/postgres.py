"""PostgreSQL with logical decoding, from the system's own package."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servers import tools
from servers.process import Server
from servers.releases import HOME, Release, ServerError

_OLDEST = 15
_OWNER = "nobody"
# PostgreSQL refuses to be root. As another user it could not reach data below a folder that is root's alone, such as
# pytest's, so it keeps the one right to pass such folders.
_NOT_ROOT = (
    "setpriv",
    f"--reuid={_OWNER}",
    "--regid=nogroup",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--pdeathsig=KILL",  # lost when the user changes, so asked for again
)
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": "8",
    "max_replication_slots": "8",
    "shared_buffers": "64MB",
    "wal_sender_timeout": "0",
    # What is committed survives kill -9 of the server, not a power cut of the machine.
    "fsync": "off",
    "full_page_writes": "off",
}

BOUNDED: dict[str, Any] = {"connect_timeout": 10, "tcp_user_timeout": 120_000, "options": "-c statement_timeout=120s"}
"""For `psycopg2.connect`: no statement waits longer for a lock or an answer. No signal would end its waiting."""


class Postgres(Server):
    """A PostgreSQL server; user and database are `postgres`, no password."""

    name = "postgres"
    stop_signal = signal.SIGINT  # does not wait for clients to leave

    def __init__(self, directory: Path, port: int | None = None, home: Path = HOME) -> None:
        """Data and log go into ``directory``, which may hold those of an earlier run.

        Raises:
            NotInstalledError: PostgreSQL is not known in ``home``.
        """
        super().__init__(directory, port)
        self._programs = Path((RELEASE.require(home) / "programs").read_text(encoding="utf-8"))

    @property
    def dsn(self) -> str:
        """The connection address for libpq clients."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _command(self) -> Sequence[str]:
        settings = {**_SETTINGS, "unix_socket_directories": ""}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        data = str(self.directory / "data")
        return [*_privileges(), str(self._programs / "postgres"), "-D", data, "-p", str(self.port), *options]

    def _prepare(self) -> None:
        data = self.directory / "data"
        if (data / "PG_VERSION").exists():
            return
        data.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(data, _OWNER, "nogroup")
        initdb = [str(self._programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"]
        tools.run([*_privileges(), *initdb, "--no-sync", "--no-locale", "-E", "UTF8"])

    def _is_ready(self) -> bool:
        return self._logged("ready to accept connections")


def _privileges() -> tuple[str, ...]:
    return _NOT_ROOT if os.geteuid() == 0 else ()


def _find_programs() -> Path | None:
    on_path = shutil.which("initdb")
    candidates = [Path(on_path)] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    for initdb in candidates:
        version = re.search(r"\d+", tools.run([str(initdb), "--version"]))
        if version is not None and int(version.group()) >= _OLDEST:
            return initdb.resolve().parent
    return None


def _install(folder: Path) -> None:
    programs = _find_programs()
    if programs is None:
        tools.apt_install("postgresql")
        programs = _find_programs()
    if programs is None:
        raise ServerError(f"PostgreSQL {_OLDEST} or later was not found: install it and put its initdb on the PATH")
    (folder / "programs").write_text(str(programs), encoding="utf-8")


RELEASE = Release("postgres", f"{_OLDEST}+", _install)
