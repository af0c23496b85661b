"""``python -m benchmarks.contention``: several writers commit to one table, each as fast as it can."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

from servers.iceberg_rest import IcebergRest
from servers.minio import Minio

from benchmarks.report import FOLDER, origin, save
from lakeward.cli.output import print_table
from lakeward.clock import SystemClock
from lakeward.outcomes import CommitReceipt
from lakeward.positions import Partition
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.sinks.iceberg.target import IcebergTarget, TargetSettings
from lakeward.testing.lake import batch

ROWS = 100
READY = "ready"


@dataclass(frozen=True, slots=True)
class Job:
    """What one writer does: its own partition's commits to ``table``, once it was told to begin."""

    catalog: Mapping[str, str]
    table: str
    partition: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Contest:
    """``writers`` on one table. ``commits`` and ``longest_ms`` are one a writer; latencies are of all their commits."""

    catalog: str
    writers: int
    seconds: float
    commits: Sequence[int]
    attempts: int
    p50_ms: int
    p99_ms: int
    longest_ms: Sequence[int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save; with ``--job``, be one of the writers."""
    parser = argparse.ArgumentParser(prog="benchmarks.contention", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each contest")
    parser.add_argument("--writers", default="1,2,4,8", help="how many at once")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.job:
        print(json.dumps(write(Job(**json.loads(chosen.job)))))
        return
    with tempfile.TemporaryDirectory(prefix="lakeward-bench-") as name:
        contests = list(measure(Path(name), [int(number) for number in chosen.writers.split(",")], chosen.seconds))
    heads = ("CATALOG", "WRITERS", "COMMITS/S", "EACH, FEWEST", "EACH, MOST", "ATTEMPTS", "P50", "P99", "LONGEST")
    print_table(heads, [_line(contest) for contest in contests])
    result = origin() | {"rows_per_commit": ROWS, "contests": [asdict(contest) for contest in contests]}
    place = FOLDER / f"{result['at'].replace(':', '').replace('+0000', 'Z')}-contention.json"
    print(f"\nsaved: {save(result, chosen.out or place)}")


def measure(folder: Path, writers: Sequence[int], seconds: float) -> Iterator[Contest]:
    """Each number of writers on a fresh table: in a SQLite catalog and local files, in a REST catalog and MinIO."""
    sqlite = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder / "lake")}
    with ExitStack() as stack:
        store = stack.enter_context(Minio(folder / "minio"))
        rest = stack.enter_context(IcebergRest(folder / "rest", store))
        for name, properties in (("SQLite, local files", sqlite), ("REST, MinIO", dict(rest.pyiceberg_properties))):
            for count in writers:
                yield _contest(name, {"name": "bench", **properties}, count, seconds)


def _contest(name: str, catalog: Mapping[str, str], writers: int, seconds: float) -> Contest:
    table = f"contest_{writers}"
    _target(catalog, table).create(batch(0, 1).parts[0].schema)
    jobs = [json.dumps(asdict(Job(catalog, table, number, seconds))) for number in range(writers)]
    command = [sys.executable, "-m", "benchmarks.contention", "--job"]
    children = [subprocess.Popen([*command, job], stdin=PIPE, stdout=PIPE, text=True) for job in jobs]
    for child in children:
        _read(child, READY)
    for child in children:
        _write(child, "begin")
    told = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    every = sorted(ms for one in told for ms in one["ms"])
    contest = Contest(
        name,
        writers,
        seconds,
        [len(one["ms"]) for one in told],
        sum(one["attempts"] for one in told),
        every[len(every) // 2],
        every[len(every) * 99 // 100],
        [max(one["ms"]) for one in told],
    )
    print("  ".join(_line(contest)), flush=True)
    return contest


def write(job: Job) -> dict[str, Any]:
    """Commit until the time is over: how long each commit took, milliseconds, and all their attempts."""
    target = _target(job.catalog, job.table)
    partition, offset = Partition("orders", job.partition), 0
    took: list[int] = []
    attempts = 0
    target.find()
    print(READY, flush=True)
    sys.stdin.readline()
    end = time.monotonic() + job.seconds
    while time.monotonic() < end:
        outcome = target.commit(target.stage(batch(offset, ROWS, partition=partition)))
        if not isinstance(outcome, CommitReceipt):
            sys.exit(f"refused: {outcome}")
        offset += ROWS
        took.append(outcome.duration_ms)
        attempts += outcome.attempts
        target.maintain()
    return {"ms": took, "attempts": attempts}


def _read(child: subprocess.Popen[str], word: str) -> None:
    for line in child.stdout or ():
        if line.strip() == word:
            return
    sys.exit("a writer ended before it began")


def _write(child: subprocess.Popen[str], word: str) -> None:
    if child.stdin is not None:
        child.stdin.write(word + "\n")
        child.stdin.flush()


def _target(catalog: Mapping[str, str], table: str) -> IcebergTarget:
    settings = TargetSettings("contest", ("bench", table))
    return IcebergTarget(open_catalog(dict(catalog)), settings, SystemClock(), random.Random())


def _line(contest: Contest) -> tuple[str, ...]:
    total = sum(contest.commits)
    each = [f"{number / contest.seconds:.1f}/s" for number in (min(contest.commits), max(contest.commits))]
    return (
        contest.catalog,
        str(contest.writers),
        f"{total / contest.seconds:.1f}",
        *each,
        f"{contest.attempts / total:.1f}",
        f"{contest.p50_ms} ms",
        f"{contest.p99_ms} ms",
        f"{max(contest.longest_ms)} ms",
    )


if __name__ == "__main__":
    main()
