"""All servers at once, in the foreground, for a person to play with."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from servers.debezium import Debezium
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.minio import Minio
from servers.mongodb import MongoDb
from servers.postgres import Postgres
from servers.process import Server
from servers.releases import ServerError
from servers.schema_registry import SchemaRegistry

BUCKETS = ("warehouse", "data", "backups")
_STOP_WITHIN = 60.0


def start(home: Path, ports: Mapping[str, int | None]) -> None:
    """Run all servers until Ctrl-C or `stop`; their data are gone afterwards.

    Raises:
        ServerError: a server is not installed or did not start, or another session runs.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    with _only_session(home) as notes, tempfile.TemporaryDirectory(prefix="lakeward-servers-") as temporary:
        directory = Path(temporary)
        kafka = Kafka(directory / "kafka", port=ports["kafka"], home=home)
        registry = SchemaRegistry(directory / "schema-registry", ports["schema-registry"], home)
        store = Minio(directory / "minio", ports["minio"], home)
        catalog = IcebergRest(directory / "iceberg-rest", store, port=ports["iceberg-rest"], home=home)
        postgres = Postgres(directory / "postgres", ports["postgres"], home)
        mongodb = MongoDb(directory / "mongodb", ports["mongodb"], home)
        debezium = Debezium(directory / "debezium", kafka, ports["debezium"], home)
        with ExitStack() as running:
            try:
                _start_together(running, kafka, registry, store, postgres, mongodb)
                _start_together(running, catalog, debezium)
                for bucket in BUCKETS:
                    store.create_bucket(bucket)
                addresses = {
                    "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
                    "SCHEMA_REGISTRY_URL": registry.url,
                    "ICEBERG_REST_URL": catalog.url,
                    "S3_ENDPOINT": store.url,
                    "S3_ACCESS_KEY": store.access_key,
                    "S3_SECRET_KEY": store.secret_key,
                    "POSTGRES_DSN": postgres.dsn,
                    "MONGODB_URI": mongodb.uri,
                    "DEBEZIUM_URL": debezium.url,
                }
                text = "\n".join(f"export {name}={value}" for name, value in addresses.items())
                notes.write_text(f"{os.getpid()}\n{text}\n", encoding="utf-8")
                print(f"{text}\n# all servers run; Ctrl-C stops them and forgets their data", flush=True)
                signal.pause()
            except KeyboardInterrupt:
                print("stopping", flush=True)


def stop(home: Path) -> str:
    """End the running session, wait until all its servers are gone, and say what was done.

    Raises:
        ServerError: it did not end in time.
    """
    running = _running(home)
    if running is None:
        return "nothing runs"
    process = int(running[0])
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_WITHIN
    while _running(home) is not None:
        if time.monotonic() > deadline:
            raise ServerError(
                f"process {process} did not stop its servers within {_STOP_WITHIN:.0f} s: end it yourself"
            )
        time.sleep(0.1)
    return "stopped"


def describe(home: Path) -> str:
    """The addresses of the running session, as shell exports, or that nothing runs."""
    running = _running(home)
    return "nothing runs" if running is None else "\n".join(running[1:])


def _start_together(running: ExitStack, *servers: Server) -> None:
    with ThreadPoolExecutor(len(servers)) as pool:
        starts = [pool.submit(server.start) for server in servers]
    for server in servers:
        running.callback(server.stop)
    for started in starts:
        started.result()


@contextmanager
def _only_session(home: Path) -> Iterator[Path]:
    """Hold the lock that tells a running session from the notes of one that died."""
    home.mkdir(parents=True, exist_ok=True)
    with _lock_file(home).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError("the servers run already: see `python -m servers status`") from None
        notes = _notes(home)
        notes.unlink(missing_ok=True)
        yield notes


def _running(home: Path) -> list[str] | None:
    """Process id and exports of the running session; None when there is none, or it is still starting."""
    notes = _notes(home)
    if not notes.exists():
        return None
    with _lock_file(home).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return notes.read_text(encoding="utf-8").splitlines()
    return None


def _notes(home: Path) -> Path:
    return home / "running"


def _lock_file(home: Path) -> Path:
    return home / "running.lock"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
