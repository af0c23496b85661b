"""A worker's name in its consumer group, when nobody gave it one.

A member that is known by a name gets its partitions back at once when it is killed and started again; one without has
to wait until the session of the one that died has timed out. But two that live under one name fence each other. So a
name is taken only together with a lock that the kernel lets go of when its holder dies, however it dies, and the name
says where that lock holds: in this boot of this machine, and in this network of its.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

PLACES = 64
"""How many workers of one consumer group may have a name at one place; further ones do without."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where names are unique. ``host`` is for people; ``scope`` tells apart all places where a lock might hold."""

    host: str
    scope: str


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group, and what its members read.

    A broker gives a member that comes back under its name what it had before, also topics that it does not read any
    more: who reads something else is somebody else.
    """

    id: str
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """A name that is ours, and our children's to whom we give it, for as long as ``lock`` is open."""

    text: str
    lock: socket.socket

    def release(self) -> None:
        """Let somebody else take it."""
        self.lock.close()


def here(proc: Path = Path("/proc")) -> Place | None:
    """This place; None where the system has no locks of the kind that names need (they are Linux's)."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        network = (proc / "self/ns/net").stat().st_ino
    except OSError:
        return None
    return Place(socket.gethostname(), f"{boot}/{network}")


def is_parent(process: int | None) -> bool:
    """Whether ``process`` still lives and is the one that started this one; a name that it gave us is then ours."""
    return os.getppid() == process


def take(group: Group, place: Place | None) -> Name | None:
    """The first name that nobody at ``place`` holds in the consumer group; None where there is none to be had."""
    if place is None:
        return None
    who = f"{group.id}/{place.host}/{place.scope}/{' '.join(group.reads)}"
    mark = hashlib.sha256(who.encode()).hexdigest()[:10]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", f"{group.id[:80]}-{place.host[:80]}")
    for number in range(1, PLACES + 1):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0lakeward/{mark}/{number}")  # an abstract address: no file, gone with its holder
        except OSError as failure:
            lock.close()
            if failure.errno != errno.EADDRINUSE:
                return None
        else:
            return Name(f"{readable}-{mark}-{number}", lock)
    return None
