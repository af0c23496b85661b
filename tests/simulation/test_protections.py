"""Each protection matters: switched off, the oracle finds what goes wrong; on, the same history is right."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.simulation.oracle import WrongTableError
from tests.simulation.protections import PROTECTIONS, Protection, as_table

GUARANTEE = Path(__file__).parents[2] / "docs" / "guarantee.md"


def is_wrong(protection: Protection, seed: int) -> bool:
    """Whether the oracle finds anything in this history without the protection."""
    with ExitStack() as patches:
        for patch in protection.off():
            patches.enter_context(patch)
        try:
            protection.play(seed)
        except WrongTableError:
            return True
    return False


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda one: one.what)
def test_without_it_the_oracle_finds_what_is_wrong(protection: Protection) -> None:
    seed = next((seed for seed in range(protection.seeds) if is_wrong(protection, seed)), None)
    assert seed is not None, f"nothing went wrong in {protection.seeds} histories: is it needed?"
    protection.play(seed)


def test_the_page_about_the_guarantee_lists_the_protections() -> None:
    assert as_table() in GUARANTEE.read_text("utf-8"), "paste what `python -m tests.simulation protections` prints"
