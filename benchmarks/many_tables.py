"""``python -m benchmarks.many_tables``: two hundred topics into two hundred tables, in one process, on real Kafka."""

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from servers.kafka import Kafka, KafkaOptions

from benchmarks.report import FOLDER, origin, save
from benchmarks.topics import JSON_FIELDS
from lakeward.cli.output import print_table
from lakeward.testing.generators import Market, iso_text, json_payloads
from lakeward.testing.producing import producer_of

HOT, HOT_RATE = 5, 2_000
"""So many topics get so many records a second each; of the others, three in four get one, and the rest none."""
START = "from lakeward.cli import main; main()"


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. Seconds, mebibytes, and milliseconds from a record's time to its proved commit.

    ``first_s``: from the start of the process to the moment at which every table has had a commit; ``again_s``: from
    the start of the next process to the moment at which every partition is being read. ``cpu`` is while records come,
    in cores, reading them included; ``idle_cpu`` while none come.
    """

    tables: int
    interval_s: float
    first_s: float
    again_s: float
    commits_a_second: float
    busy_p50_ms: float
    busy_p99_ms: float
    slow_p50_ms: float
    slow_p99_ms: float
    cpu_ms_a_commit: float
    cpu: float
    idle_cpu: float
    peak_mib: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(prog="benchmarks.many_tables", description=__doc__)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long records are sent")
    parser.add_argument("--interval", type=float, default=5.0, help="flush interval, in seconds")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lakeward-bench-") as name:
        figures = measure(Path(name), chosen.tables, chosen.seconds, chosen.interval)
    print_table(("", ""), [(key, f"{value:,.4g}") for key, value in asdict(figures).items()])
    result = origin() | {"many_tables": asdict(figures)}
    place = FOLDER / f"{result['at'].replace(':', '').replace('+0000', 'Z')}-many-tables.json"
    print(f"\nsaved: {save(result, chosen.out or place)}")


def measure(folder: Path, tables: int, seconds: float, interval: float) -> Figures:
    """Fill ``tables`` topics, run while records keep coming, then start once more."""
    with Kafka(folder / "kafka", KafkaOptions(full_jit=True)) as kafka:
        topics = {kafka.create_topic(f"shop.t{number:03d}", 1 + number % 2): 1 + number % 2 for number in range(tables)}
        feed = Feed(kafka.bootstrap_servers, topics)
        for topic in topics:
            feed.send(topic, 20)
        feed.flush()
        file = _configured(folder, kafka.bootstrap_servers, interval)
        worker = Worker(file, folder / "first.log")
        worker.until("committed", "table", tables)
        first = max(worker.firsts("committed", "table").values()) - worker.began
        cpu, since = worker.cpu(), time.time()
        with feed.streaming():
            time.sleep(seconds)
        used = worker.cpu() - cpu
        worker.until_quiet(2 * interval)
        cpu = worker.cpu()
        time.sleep(10)
        idle = (worker.cpu() - cpu) / 10
        peak = worker.end()
        again = Worker(file, folder / "again.log")
        again.until("continues", "partition", sum(topics.values()))
        again_s = max(again.firsts("continues", "partition").values()) - again.began
        again.end()
    sent = [e for e in worker.events("committed") if e["rows"] and since < _time(e) < since + seconds]
    # What came before the stream is older than a flush interval, so the first commits of each table do not count.
    steady = [e for e in sent if _time(e) > since + 2 * interval]
    busy = [e["freshness_ms"] for e in steady if int(e["table"][-3:]) < HOT]
    slow = [e["freshness_ms"] for e in steady if int(e["table"][-3:]) >= HOT]
    rate = len(steady) / (seconds - 2 * interval)
    each = used / len(sent) * 1000
    return Figures(
        tables,
        interval,
        first,
        again_s,
        rate,
        *_percentiles(busy),
        *_percentiles(slow),
        each,
        used / seconds,
        idle,
        peak,
    )


def _percentiles(samples: Sequence[float]) -> tuple[float, float]:
    return statistics.median(samples), statistics.quantiles(samples, n=100)[98]


class Feed:
    """Trades as JSON, to any of the topics."""

    def __init__(self, servers: str, topics: dict[str, int]) -> None:
        self._producer = producer_of(servers, {"log_level": 0})
        self._topics = topics
        self._market = Market(seed=1)

    def send(self, topic: str, count: int) -> None:
        """Send the next ``count`` trades, without waiting for the broker."""
        values = json_payloads(self._market.trades(count), iso_text)
        for number in range(count):
            self._producer.produce(topic, values.get(number), partition=number % self._topics[topic])
        self._producer.poll(0)

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Send at the rates above while the context lasts."""
        stop, names = threading.Event(), list(self._topics)
        slow = names[HOT : HOT + (len(names) - HOT) * 3 // 4]

        def stream() -> None:
            tenth = 0
            while not stop.wait(0.1):
                for topic in names[:HOT]:
                    self.send(topic, HOT_RATE // 10)
                for topic in slow[tenth % 10 :: 10]:
                    self.send(topic, 1)
                tenth += 1

        thread = threading.Thread(target=stream)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.flush()

    def flush(self) -> None:
        """Wait until the broker has all of it."""
        self._producer.flush(60)


class Worker:
    """``lakeward run`` as a process of its own."""

    def __init__(self, file: Path, log: Path) -> None:
        self._log = log
        self.began = time.time()
        with log.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, "run", str(file)], stderr=err, stdout=subprocess.DEVNULL
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log of this name."""
        lines = self._log.read_text().split("\n")[:-1]
        return [e for e in (json.loads(line) for line in lines if line.startswith("{")) if e["event"] == name]

    def firsts(self, name: str, key: str) -> dict[str, float]:
        """When each value of ``key`` came first in these events, in seconds since the epoch."""
        found: dict[str, float] = {}
        for event in self.events(name):
            found.setdefault(event[key], _time(event))
        return found

    def until(self, name: str, key: str, count: int) -> None:
        """Wait until so many values of ``key`` have come."""
        deadline = time.monotonic() + 120
        while len(self.firsts(name, key)) < count:
            if time.monotonic() > deadline or self._process.poll() is not None:
                sys.exit(f"{len(self.firsts(name, key))} of {count} {name}:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.2)

    def until_quiet(self, seconds: float) -> None:
        """Wait until nothing has been committed for so long."""
        seen, before = 0, -1
        while seen != before:
            time.sleep(seconds)
            seen, before = len(self.events("committed")), seen

    def cpu(self) -> float:
        """CPU seconds so far, of all threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> float:
        """Stop it; return its largest resident memory in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def _configured(folder: Path, servers: str, interval: float) -> Path:
    config = {
        "name": "many-tables",
        "source": {"kafka": {"bootstrap_servers": servers}},
        "decode": {"json": {"fields": JSON_FIELDS}},
        "sink": {"iceberg": {"warehouse": str(folder / "warehouse")}},
        "flush": {"interval": f"{interval:g}s"},
        "tables": [{"topic_pattern": r"shop\.(?P<name>\w+)", "table": "shops.{name}"}],
    }
    file = folder / "lakeward.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


if __name__ == "__main__":
    main()
