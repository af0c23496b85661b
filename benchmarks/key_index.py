"""``python -m benchmarks.key_index``: an index of keys is built from a table, asked, and made to follow commits."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.update import SetSnapshotRefUpdate

from benchmarks.report import FOLDER, origin, save
from lakeward.cli.output import print_table
from lakeward.keys import hashes
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.sinks.iceberg.upsert.index import Arrived, KeyIndex
from lakeward.sinks.iceberg.upsert.index_reading import KeyColumns

FILE_ROWS = 1_000_000
ASKED = 50_000
ROUNDS = 20
KEYS: dict[str, Callable[[np.ndarray], pa.Array]] = {
    "long": pa.array,
    "uuid text": lambda ids: pa.array([str(uuid.UUID(int=int(n) << 64 | int(n))) for n in ids]),
    "200 bytes": lambda ids: pa.array([f"{n:0200d}" for n in ids.tolist()]),
}


@dataclass(frozen=True, slots=True)
class Job:
    """``rows`` keys of a ``kind`` in a table in ``folder``; ``limit_mib``: of entries in memory."""

    folder: str
    kind: str
    rows: int
    limit_mib: int

    @property
    def table(self) -> str:
        """Its name."""
        return f"bench.{self.kind.replace(' ', '_')}_{self.rows}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one index took.

    ``find_ms``, ``land_ms``: of 50,000 keys, median. ``before_mib``, ``peak_mib``, ``after_mib``: what the process had
    in memory. ``memory_mib``, ``disk_mib``: entries.
    """

    build_s: float
    build_cpu_s: float
    find_ms: float
    land_ms: float
    before_mib: float
    peak_mib: float
    after_mib: float
    memory_mib: float
    disk_mib: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save; with ``--job``, be the process that is measured."""
    parser = argparse.ArgumentParser(prog="benchmarks.key_index", description=__doc__)
    parser.add_argument("--rows", default="1000000,10000000", help="of the tables of long keys (100000000: minutes)")
    parser.add_argument("--texts", type=int, default=1_000_000, help="of the tables of other keys; 0: none")
    parser.add_argument("--limits", default="1024,64", help="MiB of entries in memory")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--folder", type=Path, help="where tables are made (default: the system's for such)")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.job:
        print(json.dumps(asdict(measured(Job(**json.loads(chosen.job))))))
        return
    sizes = [("long", int(rows)) for rows in chosen.rows.split(",")]
    sizes += [(kind, chosen.texts) for kind in KEYS if kind != "long" and chosen.texts]
    with tempfile.TemporaryDirectory(prefix="lakeward-bench-", dir=chosen.folder) as folder:
        runs = list(_runs(folder, sizes, [int(limit) for limit in chosen.limits.split(",")]))
    names = list(Figures.__dataclass_fields__)
    lines = [(job.kind, f"{job.rows:,}", job.limit_mib, *(f"{getattr(f, n):,.1f}" for n in names)) for job, f in runs]
    print_table(("KEY", "ROWS", "LIMIT", *(name.upper().replace("_", " ") for name in names)), lines)
    told = [{k: v for k, v in asdict(job).items() if k != "folder"} | asdict(figures) for job, figures in runs]
    result = origin() | {"indexes": told}
    place = FOLDER / f"{result['at'].replace(':', '').replace('+0000', 'Z')}-key-index.json"
    print(f"\nsaved: {save(result, chosen.out or place)}")


def _runs(folder: str, sizes: Sequence[tuple[str, int]], limits: Sequence[int]) -> Iterator[tuple[Job, Figures]]:
    for kind, rows in sizes:
        jobs = [Job(folder, kind, rows, limit) for limit in limits]
        make(jobs[0])
        for job in jobs:
            command = [sys.executable, "-m", "benchmarks.key_index", "--job", json.dumps(asdict(job))]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            yield job, Figures(**json.loads(told.splitlines()[-1]))


def make(job: Job) -> None:
    """The table: its rows in files of a million, in no order inside them."""
    chance = np.random.default_rng(1)
    catalog = _catalog(job)
    catalog.create_namespace_if_not_exists("bench")
    first = KEYS[job.kind](np.arange(1))
    table = catalog.create_table(job.table, pa.schema([("id", first.type), ("value", pa.int64())]))
    for start in range(0, job.rows, FILE_ROWS):
        ids = chance.permutation(np.arange(start, min(start + FILE_ROWS, job.rows)))
        table.append(pa.table({"id": KEYS[job.kind](ids), "value": ids}))


def measured(job: Job) -> Figures:
    """Build an index, ask it, and let it follow commits that move keys to new files."""
    table = _catalog(job).load_table(job.table)
    warm = KeyIndex(("id",))
    warm.emptied(table)  # everything is compiled, or loaded, before anything is measured
    columns = KeyColumns.of(table, ("id",))
    file = next(iter(table.scan().plan_files())).file
    warm.landed(table, [Arrived(file, next(columns.read(file))[1])], [])
    before = _memory("VmRSS")
    index = KeyIndex(("id",), job.limit_mib << 20, Path(job.folder))
    clock, cpu = time.perf_counter(), time.process_time()
    index.advance(table)
    built, built_cpu = time.perf_counter() - clock, time.process_time() - cpu
    chance, head = np.random.default_rng(2), table.metadata.current_snapshot_id
    finds, lands = [], []
    for _ in range(ROUNDS):
        ids = chance.choice(job.rows * 5 // 4, min(ASKED, job.rows), replace=False)
        keys = hashes(pa.table({"id": KEYS[job.kind](ids)}))
        clock = time.perf_counter()
        numbers, positions = index.find(keys)
        finds.append(time.perf_counter() - clock)
        touched = [(n, positions[numbers == n]) for n in np.unique(numbers[numbers >= 0]).tolist()]
        arrived = [Arrived(_appended(table, ids), keys)]
        clock = time.perf_counter()
        index.landed(table, arrived, touched)
        lands.append(time.perf_counter() - clock)
        if index.at != table.metadata.current_snapshot_id:
            raise RuntimeError("the index did not follow")
    update = SetSnapshotRefUpdate(ref_name=MAIN_BRANCH, type="branch", snapshot_id=head)
    table.catalog.commit_table(table, (), (update,))
    return Figures(
        build_s=built,
        build_cpu_s=built_cpu,
        find_ms=1000 * float(np.median(finds)),
        land_ms=1000 * float(np.median(lands)),
        before_mib=before,
        peak_mib=_memory("VmHWM"),
        after_mib=_memory("VmRSS"),
        memory_mib=index.in_memory / (1 << 20),
        disk_mib=index.in_files / (1 << 20),
    )


def _appended(table: Table, ids: np.ndarray) -> DataFile:
    """A file more at the head, of as many rows."""
    table.append(pa.table({"value": ids}))
    snapshot = table.current_snapshot()
    if snapshot is None:
        raise RuntimeError("nothing was appended")
    return snapshot.manifests(table.io)[0].fetch_manifest_entry(table.io)[0].data_file


def _catalog(job: Job) -> Catalog:
    return open_catalog({"type": "sql", "uri": f"sqlite:///{job.folder}/catalog.db", "warehouse": f"{job.folder}/lake"})


def _memory(name: str) -> float:
    """What the process has in memory, files that it has mapped included: ``VmRSS`` now, ``VmHWM`` at most. MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)


if __name__ == "__main__":
    main()
