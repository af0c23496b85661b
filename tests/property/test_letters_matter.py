"""Each protection of dead letters is there for a reason: without it, some history ends with a table that is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.property.test_loop import play

from lakeward.letters import Lettering, Letters
from lakeward.pipeline import Pipeline
from lakeward.testing import memory

MOST = 200
Patch = pytest.MonkeyPatch


def without_the_order(patch: Patch) -> None:
    """The rows are committed whether the letters are durable or not (D1)."""
    patch.setattr(Pipeline, "_post", lambda *_: None)


def without_the_intervals(patch: Patch) -> None:
    """A rollback leaves no trace in the entry (D2)."""
    patch.setattr(Letters, "rewound", lambda letters, *_: letters)


def without_the_commit(patch: Patch) -> None:
    """A letter counts as soon as it is written (D2)."""
    patch.setattr(Letters, "count", lambda *_: True)


def without_the_comparison(patch: Patch) -> None:
    """A replay lands whatever happened since it was planned (D4)."""
    patch.setattr(memory, "outdated", lambda *_: False)


def without_the_note(patch: Patch) -> None:
    """The entry forgets commits that nobody has confirmed (D1)."""
    after = Lettering.after

    def forgetful(lettering: Lettering, before: Letters, commit: str, number: int) -> Letters:
        return after(Lettering(before.open, lettering.planned_on), before, commit, number)

    patch.setattr(Lettering, "after", forgetful)


@pytest.mark.parametrize(
    "switch_off",
    [without_the_order, without_the_intervals, without_the_commit, without_the_comparison, without_the_note],
)
def test_without_a_protection_a_history_goes_wrong(switch_off: Callable[[Patch], None], monkeypatch: Patch) -> None:
    switch_off(monkeypatch)
    for seed in range(MOST):
        try:
            play(seed)
        except AssertionError:
            return
    pytest.fail(f"{MOST} histories are right without it")
