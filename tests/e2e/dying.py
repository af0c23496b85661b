"""A small run of the whole pipeline with a fault at its n-th call to catalog or store, for every n.

Each run is a fork of a process that has everything imported. A run that died, or stopped with an error, is started
again (and hit once more, at another call), until one ends well; that one compares the table with what was sent.

A kind may end in ``:letters``: then some messages cannot become rows; or in ``:replay``: then the run that is hit is
not the pipeline's, but the one that brings those letters back.

Prints one JSON document: how many runs were hit, which operations they were hit at, and what was wrong.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import random
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyiceberg.catalog.sql  # noqa: F401 -- before the forks
import requests
import structlog
from pyiceberg.catalog import Catalog

from lakeward.batching import FlushPolicy
from lakeward.clock import SystemClock
from lakeward.dead_letters.book import read
from lakeward.dead_letters.box import Letterbox
from lakeward.dead_letters.replay import Replay, Selection
from lakeward.dead_letters.rows import PLACE, Owner
from lakeward.errors import LakewardError
from lakeward.lanes import Lane, LaneSettings
from lakeward.pipeline import Pipeline, PipelineSettings, Until
from lakeward.positions import Partition
from lakeward.records import Blobs, Decoded, Polled, RawBatch
from lakeward.retrying import Patience
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.sinks.iceberg.history import audit, history
from lakeward.sinks.iceberg.target import IcebergTarget, TargetSettings
from lakeward.testing.faults import Call, Fault, Plan, die, die_after, fail, faulty, lose, refuse, twice
from lakeward.testing.lake import rows_of
from lakeward.testing.memory import MemorySource, TextDecoder

PR_SET_PDEATHSIG = 1
PARTITIONS, BATCH = 2, 12
REPLAYED = sys.argv[1:2] != [] and sys.argv[1].endswith(":replay")
LETTERED = REPLAYED or (sys.argv[1:2] != [] and sys.argv[1].endswith(":letters"))
DIED, FAILED = 137, 3
TABLE, LETTERS = ("shop", "orders"), ("shop", "orders__dead_letters")
OWNER = Owner("test", "shop.orders")
WRITES = frozenset({"create_namespace", "create_table", "commit_table"})
FAULTS: Mapping[str, tuple[Callable[[], Fault], frozenset[str]]] = {
    # Before a call is also after the one before it; only a file can be there in half.
    "die": (die, frozenset()),
    "die-after": (die_after, frozenset({"write"})),
    "fail": (lambda: fail(requests.ConnectionError("by plan")), frozenset()),
    "lose": (lambda: lose(requests.ReadTimeout("by plan")), WRITES),
    "refuse": (refuse, frozenset({"commit_table"})),
    "twice": (twice, frozenset({"commit_table"})),
}
"""Each fault, and the operations that it is tried at; none named: all."""


class Nth(Plan):
    """A plan with one fault, at the n-th call of the operations that the fault is for."""

    def __init__(self, number: int, kind: str, hits: int) -> None:
        super().__init__()
        make, self._operations = FAULTS[kind.partition(":")[0]]
        self._number, self._fault, self._hits = number, make(), hits
        self._total = 0
        self._counting = threading.Lock()

    def run(self, operation: str, call: Call) -> Any:
        with self._counting:
            self._total += not self._operations or operation in self._operations
            hit = self._total == self._number and (not self._operations or operation in self._operations)
        if not hit:
            return call()
        os.write(self._hits, operation.encode() + b"\n")
        return self._fault(call)


class Hurrying(SystemClock):
    """Minutes pass between two looks, so that housekeeping is always due."""

    def __init__(self) -> None:
        self._jumps = 0

    def now_ms(self) -> int:
        self._jumps += 1
        return super().now_ms() + self._jumps * 400_000

    def monotonic(self) -> float:
        self._jumps += 1
        return super().monotonic() + self._jumps * 400.0

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return super().wait(event, min(seconds, 0.01))


class Patient(MemorySource):
    """Waits where nothing comes, as a broker's client does."""

    def poll(self, timeout: float) -> Polled:
        polled = super().poll(timeout)
        if not polled.batches:
            time.sleep(min(timeout, 0.001))
        return polled


def properties(folder: Path) -> dict[str, str]:
    return {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder)}


def stream(folder: Path, plan: Plan, messages: int) -> None:
    """Run until the first ``messages`` of each partition are committed."""
    source = Patient(step=6)
    for number in range(PARTITIONS):
        source.append("orders", number, [text(number, i).encode() for i in range(messages)])
    lane = lane_of(folder, plan, TextDecoder())
    settings = PipelineSettings("test", ("orders",), patience=Patience(0.001, 0.01, 5.0))
    pipeline = Pipeline(settings, source, lambda _topic: [lane], SystemClock(), random.Random())
    pipeline.run(Until(caught_up=True))


class Mended(TextDecoder):
    """Makes a row of what was poison."""

    def decode(self, raw: RawBatch) -> Decoded:
        values = [value.removeprefix(b"!") for i in range(len(raw)) if (value := raw.values.get(i)) is not None]
        return super().decode(replace(raw, values=Blobs.of(values)))


def replay(folder: Path, plan: Plan, _messages: int) -> None:
    """Bring the letters back."""
    lane = lane_of(folder, plan, Mended())
    assert lane.letterbox is not None
    shelf = target_of(open_catalog(properties(folder)), LETTERS)
    again = Replay(lane, lane.letterbox, shelf, lambda _: True, SystemClock(), lambda: secrets.token_hex(8))
    again.run(Selection(), write=True)


def lane_of(folder: Path, plan: Plan, decoder: TextDecoder) -> Lane:
    catalog = faulty(open_catalog(properties(folder)), plan)
    return Lane(
        target_of(catalog, TABLE),
        decoder,
        LaneSettings(FlushPolicy(3600, BATCH, 1 << 30), {"partition": "partition", "offset": "offset"}),
        Letterbox(target_of(catalog, LETTERS), OWNER, 1.0, SystemClock()),
    )


def target_of(catalog: Catalog, name: tuple[str, str]) -> IcebergTarget:
    return IcebergTarget(catalog, TargetSettings("test", name, keep_ms=1), Hurrying(), random.Random(1))


def text(number: int, i: int) -> str:
    return f"!{number}-{i}" if LETTERED and i % 4 == 1 else f"{number}-{i}"


def check(folder: Path, messages: int) -> None:
    """Raise unless the table is exact, its positions are the ends, and its ledger is contiguous."""
    catalog = open_catalog(properties(folder))
    table = catalog.load_table(TABLE)
    sent = Counter((text(p, i).removeprefix("!"), p, i) for p in range(PARTITIONS) for i in range(messages))
    entry = target_of(catalog, TABLE).find().entry
    book = read(target_of(catalog, LETTERS), OWNER, entry)
    waiting = Counter((f"{p}-{i}", p, i) for p, i in zip(*(book.open[c].to_pylist() for c in PLACE[1:]), strict=True))
    held = rows_of(table) + waiting
    if held != sent:
        raise AssertionError(f"{(sent - held).total()} missing, {(held - sent).total()} extra")
    if entry is not None and entry.account.letters != waiting.total():
        raise AssertionError(f"{waiting.total()} letters wait, the account says {entry.account.letters}")
    if REPLAYED and waiting:
        raise AssertionError(f"{waiting.total()} letters still wait")
    ends = {Partition("orders", number): messages for number in range(PARTITIONS)}
    if entry is None or {partition: at.next for partition, at in entry.positions.items()} != ends:
        raise AssertionError("the positions are not the ends")
    if problems := audit(history(table, "test")):
        raise AssertionError("; ".join(problems))


def forked(action: Callable[[], object]) -> int:
    """The exit code of ``action`` in a child: 0, or as it ends itself, or FAILED for an error of ours."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a test that gives up leaves nothing behind
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = 1
        try:
            action()
            code = 0
        except LakewardError as error:
            sys.stderr.write(f"{error}\n")
            code = FAILED
        except BaseException as error:  # noqa: BLE001 -- told to the parent by the code
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dataclass
class Trial:
    """One kind of fault at every call of a run that takes a table from ``before`` messages a partition to ``after``."""

    kind: str
    before: int
    after: int
    chance: random.Random
    folder: Path
    operations: Counter[str] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def run(self) -> None:
        lake, template = self.folder / "lake", self.folder / "template"
        lake.mkdir()
        if self.before:
            forked(functools.partial(stream, lake, Plan(), self.before))
        shutil.copytree(lake, template)
        number = 0
        while True:
            number += 1
            shutil.rmtree(lake)
            shutil.copytree(template, lake)
            if not self._at(number, lake):
                return

    def _at(self, number: int, lake: Path) -> bool:
        """Hit the run at its ``number``-th call; return whether there was one."""
        told, hits = os.pipe()
        first = self._run(lake, Nth(number, self.kind, hits), self.after)
        second = self.chance.randint(1, 20)
        code = self._run(lake, Nth(second, self.kind, hits), self.after) if first else 0
        code = self._run(lake, Plan(), self.after) if code else 0
        os.close(hits)
        with os.fdopen(told) as reader:
            operations = reader.read().split()
        self.operations.update(operations)
        self.ends[first] += 1
        if first not in (0, DIED, FAILED) or code:
            self.problems.append(f"call {number}, then {second}: ended with {first}, at last with {code}")
        elif forked(functools.partial(check, lake, self.after)):
            kept = shutil.copytree(lake, tempfile.mkdtemp(prefix="lakeward-wrong-"), dirs_exist_ok=True)
            self.problems.append(f"call {number}, then {second}, {operations}: the table is wrong, see {kept}")
        return bool(operations)

    def _run(self, lake: Path, plan: Plan, messages: int) -> int:
        return forked(functools.partial(replay if REPLAYED else stream, lake, plan, messages))


def main(kind: str, before: int, after: int, seed: int) -> dict[str, Any]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lakeward-dying-") as folder:
        trial = Trial(kind, before, after, random.Random(seed), Path(folder))
        trial.run()
    return {
        "operations": trial.operations,
        "ends": trial.ends,
        "problems": trial.problems,
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:]))))  # noqa: T201
