"""``python -m benchmarks.restarts``: from the start after ``kill -9`` to the next commit, on real Kafka."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from servers.kafka import Kafka, KafkaOptions

from benchmarks.report import FOLDER, origin, save
from benchmarks.topics import SCHEMA
from lakeward.cli.output import print_table
from lakeward.testing.generators import Market, avro_payloads, homes_of, keys_of
from lakeward.testing.producing import produce, producer_of
from lakeward.testing.registry import EmbeddedRegistry

PARTITIONS = 6
PATIENCE_S = 120.0
START = "from lakeward.cli import main; main()"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of running: what is started, and the librdkafka properties that it is started with."""

    name: str
    options: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()


WAYS = (
    Way("one worker"),
    Way("one worker, newer group protocol", properties=(("group.protocol", "consumer"),)),
    Way("three workers, one killed", ("--workers", "3")),
)


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from the start of the new process to its partitions, and to its first proved commit."""

    way: str
    assigned_s: float
    committed_s: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(prog="benchmarks.restarts", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="kills of each way of running")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lakeward-bench-") as name:
        restarts = measure(Path(name), WAYS, chosen.repeat)
    print_table(("", "ASSIGNED P50", "COMMIT P50", "COMMIT MAX"), list(_lines(restarts)))
    result = origin() | {"restarts": [asdict(restart) for restart in restarts]}
    place = FOLDER / f"{result['at'].replace(':', '').replace('+0000', 'Z')}-restarts.json"
    print(f"\nsaved: {save(result, chosen.out or place)}")


def measure(folder: Path, ways: Sequence[Way], repeat: int) -> list[Restart]:
    """Kill and start ``repeat`` times in each way, while records keep coming."""
    found: list[Restart] = []
    with Kafka(folder / "kafka", KafkaOptions(full_jit=True)) as kafka, EmbeddedRegistry() as registry:
        for number, way in enumerate(ways):
            topic = kafka.create_topic(f"market.trades.{number}", PARTITIONS)
            file = _configured(folder / str(number), kafka.bootstrap_servers, registry.url, topic, way)
            schema_id = registry.register(f"{topic}-value", SCHEMA.read_text())
            with _sending(kafka.bootstrap_servers, topic, schema_id):
                kill = _supervised if "--workers" in way.options else _alone
                for restart in kill(file, way, repeat):
                    found.append(restart)
                    print(f"{way.name}: assigned {restart.assigned_s:.1f} s, commit {restart.committed_s:.1f} s")
    return found


def _configured(home: Path, servers: str, registry: str, topic: str, way: Way) -> Path:
    home.mkdir()
    config = {
        "name": f"restarts-{home.name}",
        "source": {"kafka": {"bootstrap_servers": servers, "properties": dict(way.properties)}},
        "schema_registry": {"url": registry},
        "decode": "avro",
        "sink": {"iceberg": {"warehouse": str(home / "warehouse")}},
        "flush": {"interval": "1s"},
        "tables": [{"topics": [topic], "table": "market_data.trades"}],
    }
    file = home / "lakeward.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@contextmanager
def _sending(servers: str, topic: str, schema_id: int) -> Iterator[None]:
    stop = threading.Event()

    def send() -> None:
        market, producer = Market(seed=1), producer_of(servers)
        while not stop.wait(0.1):
            trades = market.trades(600)
            produce(producer, topic, avro_payloads(trades, schema_id), keys_of(trades), homes_of(trades, PARTITIONS))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _alone(file: Path, way: Way, repeat: int) -> Iterator[Restart]:
    """The same command again, at once after the kill."""
    log = file.with_name("log")
    before = _start(file, way, log)
    _until(lambda: bool(_events(log, "committed")), log)
    for number in range(repeat):
        before.kill()
        before.wait()
        log = file.with_name(f"log-{number}")
        began = time.time()
        before = _start(file, way, log)
        _until(lambda log=log: bool(_events(log, "committed")), log)  # type: ignore[misc]
        yield Restart(way.name, *(_time(_events(log, name)[0]) - began for name in ("assigned", "committed")))
    _end(before)


def _supervised(file: Path, way: Way, repeat: int) -> Iterator[Restart]:
    """The supervisor starts the worker that was killed."""
    log = file.with_name("log")
    parent = _start(file, way, log)
    _until(lambda: len({event.get("worker") for event in _events(log, "committed")}) == 3, log)
    for number in range(repeat):
        started = _events(log, "worker started")
        victim = started[:3][number % 3]["worker"]
        seen = len(_read(log))
        with suppress(ProcessLookupError):
            os.kill([event["pid"] for event in started if event["worker"] == victim][-1], signal.SIGKILL)

        def again(name: str, victim: str = victim, seen: int = seen) -> list[dict[str, Any]]:
            after = _read(log)[seen:]
            starts = [index for index, e in enumerate(after) if e["event"] == "worker started"]
            rest = after[starts[0] :] if starts else []
            return [e for e in rest if e["event"] == name and e.get("worker") == victim]

        _until(lambda again=again: bool(again("committed")), log)  # type: ignore[misc]
        began = _time(again("worker started")[0])
        yield Restart(way.name, *(_time(again(name)[0]) - began for name in ("assigned", "committed")))
    _end(parent)


def _start(file: Path, way: Way, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-c", START, "run", str(file), *way.options], stderr=err, stdout=subprocess.DEVNULL
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(60)


def _read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().split("\n")[:-1] if line.startswith("{")]


def _events(log: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in _read(log) if event["event"] == name]


def _until(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"nothing was committed within {PATIENCE_S:g} s:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def _lines(restarts: Sequence[Restart]) -> Iterator[tuple[str, str, str, str]]:
    for name in dict.fromkeys(restart.way for restart in restarts):
        assigned = [restart.assigned_s for restart in restarts if restart.way == name]
        committed = [restart.committed_s for restart in restarts if restart.way == name]
        yield (
            name,
            f"{statistics.median(assigned):.1f} s",
            f"{statistics.median(committed):.1f} s",
            f"{max(committed):.1f} s",
        )


if __name__ == "__main__":
    main()
