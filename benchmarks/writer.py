"""A `lakeward run` that stays up while records keep coming, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import yaml

from benchmarks.measuring import as_installed
from benchmarks.topics import SCHEMA, Registry
from lakeward.testing.generators import Market, avro_payloads, homes_of, keys_of
from lakeward.testing.producing import produce, producer_of

PARTITIONS = 6
PATIENCE_S = 120.0
START = "from lakeward.cli import main; main()"
_TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class Stream:
    """A topic of Avro trades into ``market_data.trades`` below ``home``, with a flush interval such as ``250ms``."""

    home: Path
    servers: str
    registry: Registry
    topic: str
    interval: str

    @property
    def catalog(self) -> Path:
        """The SQLite file of the catalog."""
        return self.home / "warehouse" / "catalog.db"


class Writer:
    """One `lakeward run`; a context that ends it."""

    def __init__(self, stream: Stream) -> None:
        stream.home.mkdir(parents=True, exist_ok=True)
        file = stream.home / "lakeward.yaml"
        file.write_text(yaml.safe_dump(_configuration(stream)))
        self._log = stream.home / f"log-{time.time_ns()}"
        self.began = time.time()
        with self._log.open("wb") as err:
            self._process = psutil.Popen(
                [sys.executable, "-c", START, "run", str(file)],
                stderr=err,
                stdout=subprocess.DEVNULL,
                env=as_installed(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    @property
    def resident_mib(self) -> float:
        """Memory at this moment."""
        return float(self._process.memory_info().rss / 2**20)

    @property
    def cpu_s(self) -> float:
        """CPU time of all threads so far."""
        return float(sum(self._process.cpu_times()[:2]))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of the log that say ``name``."""
        lines = self._log.read_text().split("\n")[:-1]
        return [event for event in map(_parsed, lines) if event.get("event") == name]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for ``condition``."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline or self._process.poll() is not None:
                sys.exit(f"{what} did not come:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.01)


def time_of(event: dict[str, Any]) -> float:
    """When it was logged, seconds since the epoch."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


@contextmanager
def sending(stream: Stream, rate: int) -> Iterator[None]:
    """``rate`` trades a second in even steps; a trade's ingestion timestamp is when it is handed to the producer."""
    schema_id = stream.registry.register(f"{stream.topic}-value", SCHEMA.read_text())
    stop = threading.Event()
    a_tick = max(1, round(rate * _TICK_S))

    def send() -> None:
        market, producer = Market(seed=1), producer_of(stream.servers, {"linger.ms": 0})
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            due += a_tick / rate
            trades = market.trades(a_tick)
            now = np.full(a_tick, time.time_ns() // 1_000_000)
            trades = replace(trades, exchange_ms=now, ingestion_ms=now)
            homes = homes_of(trades, PARTITIONS)
            produce(producer, stream.topic, avro_payloads(trades, schema_id), keys_of(trades), homes)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _configuration(stream: Stream) -> dict[str, Any]:
    return {
        "name": f"bench-{stream.home.name}",
        "source": {"kafka": {"bootstrap_servers": stream.servers}},
        "schema_registry": {"url": stream.registry.url},
        "decode": "avro",
        "sink": {"iceberg": {"warehouse": str(stream.home / "warehouse")}},
        "flush": {"interval": stream.interval},
        "tables": [
            {
                "topics": [stream.topic],
                "table": "market_data.trades",
                "partition_by": ["day(exchange_timestamp)"],
                "sort_by": ["exchange_timestamp", "sequence_number"],
            }
        ],
    }


def _parsed(line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
    return found
