"""What can be installed: a name, a version, and how to fill a folder with it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent / ".servers"
"""Where `python -m servers install` puts the servers unless told otherwise."""

STAMP = "installed"


class ServerError(Exception):
    """A server could not be installed, started or reached; the message says what to do."""


class NotInstalledError(ServerError):
    """The server is not in the folder that was asked for."""


@dataclass(frozen=True, slots=True)
class Release:
    """One version of one server.

    `install` fills an empty folder; `recipe` lists the files that decide the result, so that a change installs again.
    """

    name: str
    version: str
    install: Callable[[Path], None]
    recipe: tuple[Path, ...] = ()

    def folder(self, home: Path) -> Path:
        """Where this server lives in ``home``."""
        return home / self.name

    def is_installed(self, home: Path) -> bool:
        """Whether exactly this version is complete in ``home``."""
        stamp = self.folder(home) / STAMP
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self._stamp()

    def require(self, home: Path) -> Path:
        """The server's folder.

        Raises:
            NotInstalledError: it is not installed there, or in another version.
        """
        if not self.is_installed(home):
            raise NotInstalledError(f"{self.name} {self.version} is not installed: run `python -m servers install`")
        return self.folder(home)

    def install_into(self, home: Path) -> None:
        """Install from scratch; the stamp comes last, so that an interrupted run starts this server again.

        Nothing is fetched twice: Maven and Go keep what they have downloaded in their own caches.
        """
        folder = self.folder(home)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.install(folder)
        (folder / STAMP).write_text(self._stamp(), encoding="utf-8")

    def _stamp(self) -> str:
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in self.recipe)).hexdigest()
        return f"{self.version} {digest[:12]}\n"
