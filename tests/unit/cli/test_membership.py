"""A worker's name in its group: stable over restarts, never held by two that live."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from lakeward.cli.membership import PLACES, Group, Name, Place, here, is_parent, take

pytestmark = pytest.mark.skipif(here() is None, reason="names need Linux")


@pytest.fixture
def group() -> str:
    return f"group/{secrets.token_hex(8)} ü"


@pytest.fixture
def place() -> Place:
    found = here()
    assert found is not None
    return found


def named(group: str, place: Place | None, reads: tuple[str, ...] = ("t",)) -> Name:
    name = take(Group(group, reads), place)
    assert name is not None
    return name


def test_a_name_that_was_released_is_taken_again_and_one_that_is_held_is_not(group: str, place: Place) -> None:
    first, second = named(group, place), named(group, place)
    texts = [first.text, second.text]
    assert texts[0] != texts[1]
    first.release()
    again = named(group, place)
    assert again.text == texts[0]
    again.release()
    second.release()


def test_a_worker_that_is_killed_leaves_its_name_to_its_successor(group: str, place: Place) -> None:
    code = (
        "import sys, signal; from lakeward.cli.membership import Group, take, here;\n"
        "name = take(Group(sys.argv[1], ('t',)), here());"
        "print(name.text, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, group], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            text = child.stdout.readline().strip()
            beside = named(group, place)
            assert beside.text != text
        finally:
            child.kill()
    successor = named(group, place)
    assert successor.text == text
    successor.release()
    beside.release()


def test_a_name_that_a_supervisor_holds_is_its_childrens_while_it_lives() -> None:
    code = "import sys; from lakeward.cli.membership import is_parent; print([is_parent(int(a)) for a in sys.argv[1:]])"
    asked = [str(os.getpid()), str(os.getppid())]
    told = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, check=True)
    assert told.stdout == "[True, False]\n"
    assert not is_parent(None)


def test_names_are_ones_that_brokers_take(group: str, place: Place) -> None:
    name = named(group * 40, Place(place.host + "ä" * 300, place.scope))
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name.text)
    name.release()


def test_other_groups_other_places_and_other_topics_have_other_names(group: str, place: Place) -> None:
    names = [
        named(group, place),
        named(group + "2", place),
        named(group, Place(place.host, "another boot/1")),
        named(group, Place("elsewhere", place.scope)),
        named(group, place, ("t", "u")),  # the broker would give it the topics of the one before
    ]
    assert len({name.text for name in names}) == 5
    for name in names:
        name.release()


def test_where_no_name_can_be_had_there_is_none(group: str, place: Place, tmp_path: Path) -> None:
    assert here(tmp_path) is None
    assert take(Group(group, ("t",)), None) is None
    held = [named(group, place) for _ in range(PLACES)]
    assert take(Group(group, ("t",)), place) is None
    for name in held:
        name.release()
