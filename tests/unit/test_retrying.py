"""Trying again: for whom, how often, and when it ends."""

from __future__ import annotations

import random
import threading

import pytest

from lakeward.errors import OperatorError, StorageError, UnreachableError
from lakeward.retrying import Patience, Persistence
from lakeward.testing.lake import ManualClock


def persistence(clock: ManualClock, stopping: threading.Event | None = None) -> Persistence:
    return Persistence(Patience(1.0, 8.0, 60.0), clock, random.Random(1), stopping or threading.Event())


def test_an_action_is_repeated_with_growing_bounded_jittered_waits_until_it_succeeds() -> None:
    clock = ManualClock()
    failures = [UnreachableError("away")] * 6

    def action() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert persistence(clock).run(action, "test") == "done"
    assert len(clock.waits) == 6
    for wait, most in zip(clock.waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert most / 2 <= wait <= most


def test_patience_ends_and_the_last_error_is_the_answer() -> None:
    clock = ManualClock()

    def action() -> None:
        raise StorageError("full")

    with pytest.raises(StorageError, match="full"):
        persistence(clock).run(action, "test")
    assert 60 <= sum(clock.waits) <= 76


def test_an_error_that_needs_a_person_is_never_repeated() -> None:
    clock = ManualClock()

    def action() -> None:
        raise OperatorError("decide")

    with pytest.raises(OperatorError):
        persistence(clock).run(action, "test")
    assert clock.waits == []


def test_stopping_ends_the_series() -> None:
    clock, stopping = ManualClock(), threading.Event()

    def action() -> None:
        stopping.set()
        raise UnreachableError("away")

    with pytest.raises(UnreachableError):
        persistence(clock, stopping).run(action, "test")
    assert clock.waits == []
