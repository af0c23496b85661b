"""The command line as a child process, what it stands on, and what was sent to it."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import yaml
from datafusion import SessionContext
from pyiceberg.catalog import Catalog

from lakeward.clock import SystemClock
from lakeward.config import CATALOG_NAME, load
from lakeward.positions import Partition
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.sinks.iceberg.history import Record, audit
from lakeward.sinks.iceberg.target import IcebergTarget, TargetSettings
from lakeward.testing.generators import Market, Quotes, Trades, avro_payloads, homes_of, json_payloads, keys_of
from lakeward.testing.oracle import Difference, compare, held, rows_of
from lakeward.testing.producing import produce, producer_of
from lakeward.testing.waiting import joined

SCHEMAS = Path(__file__).parents[2] / "examples" / "market_data" / "schemas"
TRADE, QUOTE = ((SCHEMAS / f"{name}.avsc").read_text(encoding="utf-8") for name in ("trade", "quote"))
JSON_TRADE = {
    "symbol": "string",
    "company_id": "int",
    "exchange": "string",
    "exchange_timestamp": "long",
    "price": "decimal(18,6)",
    "volume": "long",
    "qualifiers": "int",
    "venue": "string",
    "buyer_id": "string",
    "ingestion_timestamp": "long",
    "sequence_number": "long",
}
PATIENCE_S = 60.0
"""How long anything is waited for before a test fails."""
_numbers = itertools.count(1)


def until(condition: Callable[[], bool], what: str, within: float = PATIENCE_S) -> None:
    """Wait for ``condition``; the test fails where it does not come."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {within:g} s")
        time.sleep(0.01)


class Ended(NamedTuple):
    """How a command ended: its exit code (negative: the signal that ended it) and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed with ``--json``."""
        return json.loads(self.out)


@dataclass
class Command:
    """A running command."""

    number: int
    out: Path
    err: Path
    pid: int = 0
    code: int | None = None
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def alive(self) -> bool:
        return not self.ended.is_set()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log so far, or those of its lines whose event is ``name``."""
        lines = self.err.read_text(encoding="utf-8").split("\n")[:-1]
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in found if name in (None, event.get("event"))]

    @property
    def committed(self) -> int:
        """How many rows its log says are committed."""
        return sum(event["rows"] for event in self.events("committed"))

    def until(self, condition: Callable[[], bool], what: str, within: float = PATIENCE_S) -> None:
        """Wait for ``condition`` while the command lives."""
        until(lambda: condition() or not self.alive, what, within)
        if not condition():
            raise AssertionError(f"the command ended with {self.code} before {what}:\n{self.wait().err[-3000:]}")

    def until_event(self, name: str, count: int = 1) -> None:
        """Wait until its log has ``count`` events of this name."""
        self.until(lambda: len(self.events(name)) >= count, f"{count} x {name}")

    def until_committed(self, rows: int) -> None:
        """Wait until its log says that so many rows are committed."""
        self.until(lambda: self.committed >= rows, f"{rows} rows were committed")

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> Ended:
        """SIGKILL: nothing is cleaned up."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def wait(self, within: float = PATIENCE_S) -> Ended:
        """Wait for its end."""
        if not self.ended.wait(within):
            self.signal(signal.SIGUSR1)
            self.ended.wait(1.0)
            self.signal(signal.SIGKILL)
            raise TimeoutError(f"the command did not end within {within:g} s:\n{self.err.read_text()[-6000:]}")
        assert self.code is not None
        return Ended(self.code, self.out.read_text(encoding="utf-8"), self.err.read_text(encoding="utf-8"))


class CommandLine:
    """Starts ``lakeward`` as children of a process that has everything imported already (see `forking`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._commands: dict[int, Command] = {}
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forking.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(
        self, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, fsize: int | None = None
    ) -> Command:
        """Start ``lakeward arguments…`` in the folder ``cwd``, with ``env`` added to our environment.

        ``fsize``: no file may grow beyond so many bytes, as on a full disk.
        """
        number = next(_numbers)
        command = Command(number, self._folder / f"{number}.out", self._folder / f"{number}.err")
        command.out.touch()
        command.err.touch()
        self._commands[number] = command
        request = {
            "id": number,
            "args": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "env": dict(env or {}),
            "fsize": fsize,
            "out": str(command.out),
            "err": str(command.err),
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        assert command.started.wait(PATIENCE_S)
        return command

    def run(self, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
        """Run a command to its end."""
        return self.start(*arguments, cwd=cwd, env=env).wait()

    def end_all(self) -> None:
        """Kill what still runs."""
        for command in self._commands.values():
            if command.alive:
                command.kill()
        self._commands.clear()

    def close(self) -> None:
        self.end_all()
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(PATIENCE_S)
        joined(self._reader, "the reader of the commands' process")
        self._server.stdout.close()

    def _read(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            answer = json.loads(line)
            command = self._commands.get(answer["id"])
            if command is not None and "pid" in answer:
                command.pid = answer["pid"]
                command.started.set()
            elif command is not None:
                command.code = answer["code"]
                command.ended.set()


@dataclass
class Site:
    """One pipeline's folder: its configuration file, its catalog, and the commands that use it."""

    folder: Path
    commands: CommandLine
    document: dict[str, Any]

    def __post_init__(self) -> None:
        self.save()

    @property
    def file(self) -> Path:
        return self.folder / "lakeward.yaml"

    def save(self) -> None:
        """Write the configuration file anew."""
        self.file.write_text(yaml.safe_dump(self.document), encoding="utf-8")

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, fsize: int | None = None) -> Command:
        """``lakeward arguments…`` in the folder of the configuration."""
        return self.commands.start(*arguments, cwd=self.folder, env=env, fsize=fsize)

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
        return self.start(*arguments, env=env).wait()

    def catch_up(self) -> Ended:
        """Run until caught up; it must succeed."""
        ended = self.run("run", "--until-caught-up")
        assert ended.code == 0, ended.err[-3000:]
        return ended

    @property
    def properties(self) -> dict[str, Any]:
        """The catalog's properties."""
        return {"name": CATALOG_NAME, **load(self.file, os.environ).catalog_properties()}

    def catalog(self) -> Catalog:
        return open_catalog(self.properties)

    def held(self, table: str) -> pa.Table:
        """What the table holds, read by DuckDB."""
        return held(self.catalog().load_table(table), self.properties)

    def scanned(self, table: str) -> pa.Table:
        """What the table holds, read by PyIceberg."""
        return self.catalog().load_table(table).scan().to_arrow()

    def queried(self, table: str) -> pa.Table:
        """What the table holds, read by DataFusion."""
        found, context = self.catalog().load_table(table), SessionContext()
        # It takes nothing but texts, and names buckets as AWS does where it is not told otherwise.
        texts = {name: value for name, value in found.io.properties.items() if isinstance(value, str)}
        found.io.properties = {**texts, "s3.path-style-access": "true"}
        context.register_table("queried", found)
        return context.table("queried").to_arrow_table()

    def differs(self, table: str, sent: pa.Table) -> Difference:
        return compare(sent, self.held(table))

    def target(self, table: str) -> IcebergTarget:
        settings = TargetSettings(self.document["name"], tuple(table.split(".")))
        return IcebergTarget(self.catalog(), settings, SystemClock(), random.Random(1))

    def history(self, table: str) -> list[Record]:
        return self.target(table).history()

    def breaks(self, table: str) -> list[str]:
        """What is wrong with the table's ledger (PROTOCOL I3)."""
        return audit(self.history(table))

    def positions(self, table: str) -> dict[Partition, int]:
        """Where the table says that each partition continues."""
        entry = self.target(table).find().entry
        return {p: at.next for p, at in entry.positions.items()} if entry else {}

    def verified(self) -> None:
        """``lakeward verify`` must pass."""
        ended = self.run("verify")
        assert ended.code == 0, ended.out + ended.err
        assert "contiguous" in ended.out


def configuration(
    bootstrap_servers: str,
    registry: str | None,
    tables: Sequence[Mapping[str, Any]],
    iceberg: Mapping[str, Any] | None = None,
    interval: str = "150ms",
) -> dict[str, Any]:
    """A configuration with short intervals, so that a test need not wait for a killed member's session either."""
    properties = {"session.timeout.ms": "1000", "heartbeat.interval.ms": "200"}
    return {
        "name": "market-data",
        "source": {"kafka": {"bootstrap_servers": bootstrap_servers, "properties": properties}},
        **({"schema_registry": {"url": registry}} if registry else {}),
        "decode": "avro" if registry else "json",
        "sink": {"iceberg": dict(iceberg or {"warehouse": "./warehouse"})},
        "flush": {"interval": interval},
        "tables": [dict(table) for table in tables],
    }


TRADES_TABLE: Mapping[str, Any] = {
    "topics": ["trades"],
    "table": "market_data.trades",
    "partition_by": ["day(exchange_timestamp)"],
    "sort_by": ["exchange_timestamp", "sequence_number"],
}


class Feed:
    """A topic's market data, and a record of all that was sent there. ``schema_id`` None: as JSON."""

    def __init__(self, servers: str, topic: str, partitions: int, schema_id: int | None, seed: int = 1) -> None:
        self.topic = topic
        self._producer = producer_of(servers, {"linger.ms": 2, "log_level": 0})
        self._partitions = partitions
        self._schema_id = schema_id
        self._market = Market(seed)
        self._sent: list[pa.Table] = []

    def trades(self, count: int) -> None:
        """Send the next ``count`` trades, and wait until the broker has them."""
        self._send(self._market.trades(count))

    def spread(self, servers: str, partitions: int) -> None:
        """From now on, send to so many partitions; the topic has them already."""
        assert self._producer.flush(PATIENCE_S) == 0, "messages were not taken"
        self._producer = producer_of(servers, {"linger.ms": 2, "log_level": 0})  # the old one knows fewer
        self._partitions = partitions

    def quotes(self, count: int) -> None:
        self._send(self._market.quotes(count))

    def _send(self, columns: Trades | Quotes) -> None:
        id_ = self._schema_id
        values = json_payloads(columns) if id_ is None else avro_payloads(columns, id_)
        produce(self._producer, self.topic, values, keys_of(columns), homes_of(columns, self._partitions))
        rows = rows_of(columns)
        self._sent.append(rows if id_ is not None else _with_milliseconds(rows))

    @property
    def sent(self) -> pa.Table:
        """Every row that was sent."""
        return pa.concat_tables(self._sent)


def _with_milliseconds(rows: pa.Table) -> pa.Table:
    """As JSON has them: times are numbers there."""
    for index, field_ in enumerate(rows.schema):
        if pa.types.is_timestamp(field_.type):
            numbers = rows.column(index).cast(pa.timestamp("ms", "UTC")).cast(pa.int64())
            rows = rows.set_column(index, field_.name, numbers)
    return rows


class Stream:
    """Sends trades in small bursts from a thread, until it is stopped."""

    def __init__(self, feed: Feed, burst: int = 50, pause: float = 0.02) -> None:
        self._feed = feed
        self._burst, self._pause = burst, pause
        self._stop = threading.Event()
        self._failure: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        joined(self._thread, "the stream's sender", 2 * PATIENCE_S)
        if self._failure:
            raise self._failure[0]

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause):
                self._feed.trades(self._burst)
        except BaseException as failure:  # noqa: BLE001 -- raised again where the stream ends
            self._failure.append(failure)
