"""What a seed decides: when which call fails and how, who is delayed, who dies."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import cache
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

import requests
import structlog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import clear_manifest_cache
from tests.simulation.savings import savings
from tests.simulation.strands import Killed, Process, Strands

EPOCH_MS = 4_102_444_800_000
"""The year 2100: later than any real clock that a library may still look at."""
MOST_S = 3_000.0
FAR = 1e9


@dataclass(frozen=True, slots=True)
class Climate:
    """How often what happens; probabilities are per call, weights are relative, times in simulated seconds."""

    workers: tuple[int, int] = (1, 3)
    tables: tuple[int, int] = (1, 2)
    events: tuple[int, int] = (2, 8)
    delay: float = 0.25
    fail: float = 0.03
    registry: float = 0.03
    commit: dict[str, float] = field(
        default_factory=lambda: {
            "fine": 12.0, "no answer": 1.0, "lost answer": 1.0, "held": 1.0, "held and lost": 0.4,
            "conflict after success": 0.5, "twice": 0.5, "refused": 0.5,
        }
    )  # fmt: skip
    death: float = 0.3
    happens: dict[str, float] = field(
        default_factory=lambda: {
            "appended": 4.0, "rebalance": 3.0, "killed": 1.5, "stalled": 1.5, "worker added": 1.0,
            "foreign append": 0.4, "foreign compaction": 0.4, "foreign expiry": 0.3, "foreign rollback": 0.4,
            "rollback": 0.5, "schema changed": 0.2,
        }
    )  # fmt: skip
    flush_s: tuple[float, ...] = (0.05, 0.5, 2.0)
    zombie: float = 0.5
    given_back: float = 0.3
    held_s: float = 6.0
    latest: float = 0.15
    pipelines: float = 0.15
    records: tuple[int, int] = (1, 12)
    compacts: bool = False
    """Workers merge small files, as soon as there are two."""
    fresh: float = 0.5
    """How often the history ends with a new worker, and not with one that has lived through it."""


class World:
    """A seed, and what it has led to so far."""

    def __init__(self, seed: int, climate: Climate, *, tell: bool = False) -> None:
        self.tell = tell
        self.chance = random.Random(seed)
        self.climate = climate
        self.strands = Strands(self.chance, MOST_S)
        self.happened: Counter[str] = Counter()
        self.quiet = False
        self.held: list[tuple[float, Callable[[], object]]] = []
        self._kinds, self._weights = list(climate.commit), list(climate.commit.values())

    def say(self, event: str, **details: object) -> None:
        """Print what happens, where somebody wants to hear it."""
        if self.tell:
            strand = self.strands.current
            who = strand.process.name if strand is not None and strand.process is not None else "-"
            told = " ".join(f"{key}={value}" for key, value in details.items())
            print(f"{self.strands.now:9.2f} {who:8} {event} {told}")  # noqa: T201

    def sometimes(self, probability: float, what: str) -> bool:
        """Whether ``what`` happens now; it is noted."""
        hit = not self.quiet and self.chance.random() < probability
        if hit:
            self.happened[what] += 1
            self.say(f"! {what}")
        return hit

    def travel(self, process: Process | None) -> None:
        """A message is on its way: others go on, time passes, the process may die."""
        if process is None or not self.strands.inside:
            return
        if process.dead:
            raise Killed
        process.calls_left -= 1
        if process.calls_left < 0:
            self.kill(process)
            raise Killed
        if not self.quiet and self.chance.random() < self.climate.delay:
            self.strands.sleep(self.chance.choice((0.0, 0.0, 0.01, 0.1, 0.5, 2.0)))

    def may_fail(self, process: Process | None, what: str) -> None:
        """A server or store does not answer now and then."""
        if process is not None and self.strands.inside and self.sometimes(self.climate.fail, what):
            raise requests.ConnectionError(what)

    def kill(self, process: Process) -> None:
        """As `kill -9`: what it knows is lost, what it has sent is on its way."""
        if not process.dead:
            self.happened["killed"] += 1
            self.say(f"! {process.name} killed")
            process.dead = True
            self.strands.hurry(process)

    def send(self, process: Process | None, request: Callable[[], Any]) -> Any:
        """Deliver a commit as the seed has it: once, late, twice or never, and the answer or not."""
        if process is None or self.quiet or not self.strands.inside:
            return request()
        try:
            self.travel(process)
        except Killed:
            if self.chance.random() < 0.5:
                self.hold(request)
            raise
        kind = self.chance.choices(self._kinds, self._weights)[0]
        if kind != "fine":
            self.happened[kind] += 1
            self.say(f"! {kind}")
        if kind == "no answer":
            raise requests.ConnectionError(kind)
        if kind == "refused":
            raise CommitFailedException(kind)
        if kind == "held":
            self.hold(request)
            raise requests.ReadTimeout(kind)
        if kind == "held and lost":
            self.hold(request)
            raise CommitFailedException("a proxy gave up")
        answer = request()
        if kind == "twice":
            self.travel(process)
            answer = request()
        self.travel(process)
        if kind == "lost answer":
            raise requests.ReadTimeout(kind)
        if kind == "conflict after success":
            raise CommitFailedException(kind)
        return answer

    def hold(self, request: Callable[[], object]) -> None:
        """Somewhere on the way: it arrives later."""
        self.held.append((self.strands.now + self.chance.random() * self.climate.held_s, request))

    def deliver(self, *, everything: bool = False) -> None:
        """What was held and is due arrives; nobody hears the answer."""
        due = [one for one in self.held if everything or one[0] <= self.strands.now]
        for one in due:
            self.held.remove(one)
            self.happened["late"] += 1
            self.say("! late")
            try:
                one[1]()
            except (CommitFailedException, ValueError):
                self.happened["late and refused"] += 1


class Clock:
    """A process's own clock: simulated, and wrong by a constant."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def now_ms(self) -> int:
        return EPOCH_MS + round(self._world.strands.now * 1000) + self._process.skew_ms

    def monotonic(self) -> float:
        return self._world.strands.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self._world.strands.sleep(seconds)
        return event.is_set()


class Executor:
    """The committing threads of the process that makes it: each piece of work is a strand."""

    def __init__(self, world: World) -> None:
        self._world = world
        current = world.strands.current
        assert current is not None
        self._process = current.process
        self._waiting: list[Future[Any]] = []

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append(future)

        def job() -> None:
            dead = self._process is not None and self._process.dead
            if dead or not future.set_running_or_notify_cancel():
                return
            self._waiting.remove(future)
            try:
                future.set_result(work(*arguments))
            except Killed:
                raise
            except BaseException as error:  # noqa: BLE001 -- as an executor's thread does
                future.set_exception(error)

        self._world.strands.start(self._process, job)
        return future

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        del wait
        if cancel_futures:
            for future in self._waiting:
                future.cancel()


class Inline:
    """An executor that does what it is given at once."""

    def __init__(self, *_: object, **__: object) -> None:
        """Takes what an executor takes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to wait for."""

    map = staticmethod(map)


@contextmanager
def conditions(world: World) -> Iterator[None]:
    """Simulated threads, time and ids for everything that runs inside; limits so small that they are reached."""

    def waited(futures: Sequence[Future[Any]], timeout: float) -> None:
        end = world.strands.now + timeout
        while world.strands.now < end and not all(future.done() for future in futures):
            world.strands.sleep(0.1)

    def now(zone: tzinfo | None = None) -> datetime:
        return datetime.fromtimestamp((EPOCH_MS / 1000) + world.strands.now, zone or UTC)

    ids = random.Random(world.chance.random())
    clear_manifest_cache()
    before = structlog.get_config()
    structlog.configure(wrapper_class=_telling(world) if world.tell else _Silent)
    patches = [
        *(patch(f"{name}.ThreadPoolExecutor", Inline) for name in _using_threads()),
        patch("lakeward.pipeline.ThreadPoolExecutor", lambda *_, **__: Executor(world)),
        patch("lakeward.pipeline.wait", waited),
        patch("lakeward.sinks.iceberg.expiry.ALWAYS_COUNT", 3),
        patch("lakeward.sinks.iceberg.expiry.RECENT_COUNT", 5),
        patch("lakeward.sinks.iceberg.upkeep.DUE_COMMITS", 3),
        patch("lakeward.sinks.iceberg.upkeep.GRACE_S", 2.0),
        patch("lakeward.sinks.iceberg.manifests.FANOUT", 3),
        patch("pyiceberg.table.metadata._generate_snapshot_id", lambda: ids.getrandbits(62)),
        patch("pyiceberg.table.snapshots.time", SimpleNamespace(time=lambda: now().timestamp())),
        patch("pyiceberg.table.update.datetime", SimpleNamespace(now=now)),
        *savings(),
    ]
    try:
        for one in patches:
            one.start()
        yield
    finally:
        for one in patches:
            one.stop()
        structlog.configure(**before)


@cache
def _using_threads() -> list[str]:
    """The modules that wait for servers side by side; in turn will do here."""
    modules = {name: module for name, module in sys.modules.items() if name.startswith("lakeward.")}
    return sorted(
        n for n, module in modules.items() if hasattr(module, "ThreadPoolExecutor") and n != "lakeward.pipeline"
    )


class _Silent:
    """A logger that costs nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        """Takes what a logger takes."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _nothing


def _nothing(*_: object, **__: object) -> None:
    """Logs nothing."""


def _telling(world: World) -> type[_Silent]:
    """A logger that prints what happens, when and to whom."""

    class Telling(_Silent):
        def __getattr__(self, name: str) -> Callable[..., None]:
            return world.say

    return Telling
