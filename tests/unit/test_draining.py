"""The end of a run when servers do not play along: bounded, and it says why."""

from __future__ import annotations

import threading
import time

import pytest
from tests.unit.test_pipeline import CAUGHT_UP, World, texts, values

from lakeward.errors import StorageError, UndecidedError
from lakeward.outcomes import Batch, Staged
from lakeward.testing.memory import MemoryTarget


def test_a_drain_that_cannot_stage_says_why_it_stopped() -> None:
    world = World()
    world.drain_s = 0.05
    world.source.append("t", 0, values(0, 5))

    def full(batch: Batch) -> Staged:
        raise StorageError("the disk is full", "Make room.")

    world.on_target = lambda target: setattr(target, "stage", full)
    with pytest.raises(StorageError, match="the disk is full"):
        world.run()
    world.on_target = lambda target: None
    world.run()
    assert world.table.rows == texts(0, 5)


def test_a_commit_that_hangs_is_waited_for_once_not_twice() -> None:
    world = World()
    world.drain_s = 1.0
    world.source.append("t", 0, values(0, 5))
    release = threading.Event()
    given_up: list[float] = []

    def hang(target: MemoryTarget) -> None:
        target.faults.append(lambda staged: release.wait(30) and None)
        target.give_up = lambda: given_up.append(time.monotonic())

    world.on_target = hang
    pipeline = world.pipeline()
    with pytest.raises(UndecidedError, match=r"after 1 s with open commits: a\n.*Nothing is lost"):
        pipeline.run(CAUGHT_UP)
    assert len(given_up) == 2  # by the drain, and on the way out
    assert pipeline.hangs
    release.set()
    world.on_target = lambda target: None
    world.run()
    assert sorted(world.table.rows) == texts(0, 5)


def test_a_commit_that_ends_when_it_is_given_up_counts() -> None:
    world = World()
    world.drain_s = 0.05
    world.source.append("t", 0, values(0, 5))
    release = threading.Event()

    def hang(target: MemoryTarget) -> None:
        target.faults.append(lambda staged: release.wait(30) and None)
        target.give_up = release.set

    world.on_target = hang
    world.run()
    assert world.table.rows == texts(0, 5)
    assert world.source.acked
