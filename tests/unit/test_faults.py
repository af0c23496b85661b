"""The faults themselves: each does to a call exactly what it says."""

from __future__ import annotations

import threading

import pytest
from pyiceberg.exceptions import CommitFailedException

from lakeward.errors import ConfigurationError
from lakeward.testing.faults import Fault, Held, Plan, fail, hang, lose, meanwhile, refuse, twice


def outcomes(plan: Plan, calls: int) -> tuple[list[object], int]:
    """What each of ``calls`` calls of one operation returns or raises, and how many were delivered."""
    delivered: list[int] = []

    def call() -> int:
        delivered.append(1)
        return len(delivered)

    seen: list[object] = []
    for _ in range(calls):
        try:
            seen.append(plan.run("op", call))
        except Exception as error:  # noqa: BLE001 -- the point of the test
            seen.append(type(error))
    return seen, len(delivered)


@pytest.mark.parametrize(
    ("fault", "seen", "delivered"),
    [
        (fail(OSError()), [1, OSError, 2], 2),
        (lose(OSError()), [1, OSError, 3], 3),
        (refuse(), [1, CommitFailedException, 2], 2),
        (twice(), [1, 3, 4], 4),
        (meanwhile(lambda: None), [1, 2, 3], 3),
    ],
)
def test_a_fault_hits_the_planned_call_alone(fault: Fault, seen: list[object], delivered: int) -> None:
    plan = Plan()
    plan.at("op", 2, fault)
    plan.at("another", 1, fail(KeyError()))
    assert outcomes(plan, 3) == (seen, delivered)


def test_next_plans_behind_what_is_planned_already() -> None:
    plan = Plan()
    plan.next("op", fail(OSError()))
    plan.next("op", fail(KeyError()))
    assert outcomes(plan, 3)[0] == [OSError, KeyError, 1]


def test_always_holds_until_it_is_taken_back() -> None:
    plan = Plan()
    plan.always("op", fail(OSError()))
    plan.at("op", 2, meanwhile(lambda: None))
    assert outcomes(plan, 3)[0] == [OSError, 1, OSError]
    plan.always("op", None)
    assert outcomes(plan, 1)[0] == [1]


def test_a_held_request_is_delivered_when_it_is_released() -> None:
    plan, held = Plan(), Held(TimeoutError())
    plan.at("op", 1, held.fault)
    assert outcomes(plan, 2) == ([TimeoutError, 1], 1)
    assert held.release() == 2


def test_a_hanging_call_returns_when_it_is_let_go() -> None:
    plan, gate = Plan(), threading.Event()
    plan.at("op", 1, hang(gate))
    seen: list[object] = []
    caller = threading.Thread(target=lambda: seen.append(plan.run("op", lambda: "answer")), daemon=True)
    caller.start()
    assert not seen
    gate.set()
    caller.join(10)
    assert seen == ["answer"]


@pytest.mark.parametrize("text", ["commit_table", "commit_table:x:die", "commit_table:1:explode"])
def test_a_plan_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no fault"):
        Plan.parse(text)
