"""A fault at every single call to catalog and store of a run of the whole pipeline: the table is exact in the end."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FIRST = (0, 12)
"""Messages a partition before and after: the run that creates namespace and table."""
LETTERED, BROUGHT_BACK = (6, 12), (12, 12)
"""The same with records that cannot become rows; and the run that brings them back."""
LATER = (66, 84)
"""A run on a table with some history, so that each commit also expires a snapshot and deletes files."""


def run(kind: str, messages: tuple[int, int]) -> Any:
    seed = secrets.randbits(32)
    print(f"replay: python {Path(__file__).with_name('dying.py')} {kind} {messages[0]} {messages[1]} {seed}")  # noqa: T201
    command = [sys.executable, str(Path(__file__).with_name("dying.py")), kind, *map(str, messages), str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("messages", [FIRST, LATER], ids=["first", "later"])
def test_death_before_every_call(messages: tuple[int, int]) -> None:
    found = run("die", messages)
    assert found["problems"] == []
    # Each run but the last died, at a call of every kind that there is.
    deaths = found["ends"].pop("137")
    assert found["ends"] == {"0": 1}
    assert deaths > 15
    expected = {FIRST: {"create_namespace", "create_table"}, LATER: {"read", "delete"}}[messages]
    assert set(found["operations"]) >= {"load_table", "write", "commit_table"} | expected


def test_death_before_every_call_while_letters_are_set_aside() -> None:
    found = run("die:letters", LETTERED)
    assert found["problems"] == []
    assert found["ends"].pop("137") > 10
    assert found["ends"] == {"0": 1}


@pytest.mark.parametrize("kind", ["die", "lose", "twice"])
def test_a_fault_at_every_call_while_letters_are_brought_back(kind: str) -> None:
    found = run(f"{kind}:replay", BROUGHT_BACK)
    assert found["problems"] == []
    assert sum(found["operations"].values()) >= 2


def test_answers_that_are_lost_while_letters_are_set_aside() -> None:
    found = run("lose:letters", LETTERED)
    assert found["problems"] == []
    assert set(found["ends"]) <= {"0", "3"}


def test_death_with_a_file_half_written() -> None:
    found = run("die-after", LATER)
    assert found["problems"] == []
    assert found["ends"]["137"] > 8
    assert set(found["operations"]) == {"write"}


# What `tests/simulation` plays thousands of times at random is left to the long tests here.
@pytest.mark.parametrize(
    ("kind", "messages", "least"),
    [
        pytest.param("fail", LATER, 30, id="no answer, nothing done", marks=pytest.mark.soak),
        pytest.param("lose", FIRST, 4, id="done, the answer lost, first run"),
        pytest.param("lose", LATER, 5, id="done, the answer lost"),
        pytest.param("refuse", LATER, 5, id="refused", marks=pytest.mark.soak),
        pytest.param("twice", LATER, 5, id="delivered twice", marks=pytest.mark.soak),
    ],
)
def test_servers_that_misbehave_at_every_call(kind: str, messages: tuple[int, int], least: int) -> None:
    found = run(kind, messages)
    assert found["problems"] == []
    assert sum(found["operations"].values()) >= least
    # Without a death the run itself gets over it; only at the very start an unreachable catalog is an error.
    assert found["ends"].get("3", 0) <= 1
    assert set(found["ends"]) <= {"0", "3"}
