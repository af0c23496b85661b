"""Installing: which servers there are, one after the other, each once."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from servers.releases import Release

MODULES = {  # in the order in which they depend on each other
    "minio": "servers.minio",
    "kafka": "servers.kafka",
    "schema-registry": "servers.schema_registry",
    "iceberg-rest": "servers.iceberg_rest",
    "postgres": "servers.postgres",
    "mongodb": "servers.mongodb",
    "debezium": "servers.debezium",
}
OPTIONAL = {"spark": "servers.spark", "connect-sink": "servers.connect_sink"}
"""Large, needed by few tests or benchmarks, and installed only when named."""
NEEDS = {"iceberg-rest": "minio"}


def releases(names: Sequence[str] = ()) -> list[Release]:
    """The releases of ``names`` and what these need, or all but the optional; in the order to install them."""
    wanted = {*names, *(NEEDS[name] for name in names if name in NEEDS)} or set(MODULES)
    return [import_module(module).RELEASE for name, module in {**MODULES, **OPTIONAL}.items() if name in wanted]


def install(names: Sequence[str], home: Path) -> None:
    """Install what is missing of ``names`` (empty: everything), telling a person about it; two runs do not collide.

    Raises:
        ServerError: a tool is missing or a download failed; running again continues where this stopped.
    """
    wanted = releases(names)
    if all(release.is_installed(home) for release in wanted):
        return
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home):
        for release in wanted:
            if release.is_installed(home):
                continue
            print(f"installing {release.name} {release.version}", flush=True)
            started = time.monotonic()
            release.install_into(home)
            print(f"  done in {time.monotonic() - started:.0f} s", flush=True)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another installation to finish", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
