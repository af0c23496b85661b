"""Each writer as a process of its own, measured from outside: CPU of all its threads, wall time, peak memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
import yaml

from benchmarks.topics import JSON_FIELDS, SCHEMA

ON_S3 = "lakeward s3"
_LOOK_S = 0.05
PARTITION_BY = ["day(exchange_timestamp)"]


@dataclass(frozen=True, slots=True)
class Feed:
    """Where a writer reads from: a topic with ``messages``, and an empty one, to tell what starting alone takes."""

    servers: str
    registry: str
    topic: str
    empty: str
    encoding: str
    messages: int


@dataclass(frozen=True, slots=True)
class Run:
    """One writer over one topic. ``streaming_s``: from its partitions being assigned to its last commit.

    ``process_s`` and ``cpu_s`` are of the whole process; ``startup_cpu_s`` is what the same process takes where
    there is nothing to read: imports, connecting, leaving. ``peak_mib`` is resident. ``others`` are the cores that
    everything else on the machine took meanwhile, the broker included.
    """

    writer: str
    encoding: str
    rows: int
    commits: int
    streaming_s: float
    process_s: float
    cpu_s: float
    startup_cpu_s: float
    peak_mib: float
    others: float

    @property
    def per_second(self) -> float:
        """Rows a second of wall time while streaming."""
        return self.rows / self.streaming_s

    @property
    def per_cpu_second(self) -> float:
        """Rows a second of CPU time, start-up included."""
        return self.rows / self.cpu_s

    @property
    def per_cpu_second_streaming(self) -> float:
        """Rows a second of CPU time, start-up taken off."""
        return self.rows / max(self.cpu_s - self.startup_cpu_s, 0.01)

    def line(self) -> str:
        """For the terminal."""
        return f"{self.per_second:,.0f} rows/s, {self.per_cpu_second:,.0f} rows/CPU-s, {self.peak_mib:,.0f} MiB"


def lakeward(folder: Path, feed: Feed, catalog: Mapping[str, str] | None = None) -> Run:
    """``lakeward run --until-caught-up`` into a fresh table, sorted and partitioned by day.

    ``catalog``: properties of the catalog; None for SQLite and a local folder.
    """
    idle = _run_lakeward(folder, feed, feed.empty, catalog)
    ran = _run_lakeward(folder, feed, feed.topic, catalog)
    told = json.loads(ran.out)
    events = [json.loads(line) for line in ran.err.splitlines() if line.startswith("{")]
    first = next(_time(event) for event in events if event["event"] == "assigned")
    last = [_time(event) for event in events if event["event"] == "committed"][-1]
    rows, commits = told["tables"][0]["written"], told["tables"][0]["commits"]
    writer = "lakeward" if catalog is None else ON_S3
    return _run(writer, feed, _Told(rows, commits, last - first), ran, idle)


def _run_lakeward(folder: Path, feed: Feed, topic: str, catalog: Mapping[str, str] | None) -> _Ran:
    home = Path(tempfile.mkdtemp(dir=folder))
    where = {"warehouse": str(home / "warehouse")} if catalog is None else {"catalog": dict(catalog)}
    config = {
        "name": f"bench-{home.name}".replace("_", "-"),
        "source": {"kafka": {"bootstrap_servers": feed.servers}},
        "schema_registry": {"url": feed.registry},
        "decode": "avro" if feed.encoding == "avro" else {"json": {"fields": JSON_FIELDS}},
        "sink": {"iceberg": where},
        "tables": [
            {
                "topics": [topic],
                "table": f"market_data.{home.name}",
                "partition_by": PARTITION_BY,
                "sort_by": ["exchange_timestamp", "sequence_number"],
            }
        ],
    }
    file = home / "lakeward.yaml"
    file.write_text(yaml.safe_dump(config))
    start = "from lakeward.cli import main; main()"
    return _measured([sys.executable, "-c", start, "run", str(file), "--until-caught-up", "--json"], home)


def baseline(folder: Path, feed: Feed) -> Run:
    """The plain Python loop of `benchmarks.baseline` into a fresh table, partitioned by day."""
    idle = _run_baseline(folder, feed, 0)
    ran = _run_baseline(folder, feed, feed.messages)
    told = json.loads(ran.out)
    return _run("baseline", feed, _Told(told["rows"], told["commits"], told["streaming_s"]), ran, idle)


def _run_baseline(folder: Path, feed: Feed, messages: int) -> _Ran:
    home = Path(tempfile.mkdtemp(dir=folder))
    job = {"servers": feed.servers, "topic": feed.topic, "encoding": feed.encoding, "messages": messages}
    job |= {"home": str(home), "schema": str(SCHEMA)}
    return _measured([sys.executable, "-m", "benchmarks.baseline", json.dumps(job)], home)


@dataclass(frozen=True, slots=True)
class _Ran:
    out: str
    err: str
    seconds: float
    cpu: float
    peak_mib: float
    others: float


@dataclass(frozen=True, slots=True)
class _Told:
    rows: int
    commits: int
    streaming_s: float


def _run(writer: str, feed: Feed, told: _Told, ran: _Ran, idle: _Ran) -> Run:
    used = ran.seconds, ran.cpu, idle.cpu, ran.peak_mib, ran.others
    return Run(writer, feed.encoding, told.rows, told.commits, told.streaming_s, *used)


def _measured(command: Sequence[str], home: Path) -> _Ran:
    out, err = home / "out", home / "err"
    began, busy = time.monotonic(), _busy_s()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        child = subprocess.Popen(
            command, stdout=stdout, stderr=stderr, cwd=Path(__file__).parents[1], env=as_installed()
        )
        peak = 0.0
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            peak = _peak_mib(child.pid) or peak
            time.sleep(_LOOK_S)
        _, status, used = ended
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if child.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{err.read_text()[-2000:]}\n{out.read_text()}")
    cpu = used.ru_utime + used.ru_stime
    others = (_busy_s() - busy - cpu) / seconds
    ran = _Ran(out.read_text(), err.read_text(), seconds, cpu, peak, others)
    shutil.rmtree(home / "warehouse", ignore_errors=True)
    return ran


def as_installed() -> dict[str, str]:
    """Our environment, less what keeps Python from keeping bytecode: an installed package brings its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _peak_mib(pid: int) -> float:
    """The most memory that a process has had; what `wait4` tells of it would include ours, from which it was forked."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def _busy_s() -> float:
    """CPU time of the whole machine, seconds since it started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _time(event: dict[str, str]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()
