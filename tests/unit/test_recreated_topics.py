"""A topic that is deleted and created again while it is read: its records are never taken for the old one's."""

from __future__ import annotations

import pytest
from tests.unit.test_pipeline import CAUGHT_UP, World, texts, values

from lakeward.errors import PositionError, UnreachableError
from lakeward.records import Polled


def changing(world: World, after: int, identity: str | None) -> None:
    """Give the topic another id (None: take the topic away) at once after so many messages were handed over."""
    poll, handed = world.source.poll, 0

    def poll_and_change(timeout: float) -> Polled:
        nonlocal handed
        polled = poll(timeout)
        handed += sum(len(raw) for raw in polled.batches)
        if handed >= after and identity is not None:
            world.source.ids["t"] = identity
        elif handed >= after:
            world.source.identities = lambda topics: {}
        return polled

    world.source.poll = poll_and_change


def test_what_was_read_from_a_topic_that_took_anothers_place_is_not_written() -> None:
    world = World()
    world.source.ids["t"] = "first"
    world.source.append("t", 0, values(0, 30))
    world.run()
    world.source.append("t", 0, values(30, 50))
    changing(world, after=20, identity="second")
    with pytest.raises(PositionError, match=r"created again while it was read \(topic id second, it was first"):
        world.run()
    assert world.table.rows == texts(0, 30)


def test_what_was_read_from_a_topic_that_is_gone_now_is_written() -> None:
    world = World()
    world.source.ids["t"] = "first"
    world.source.append("t", 0, values(0, 30))
    changing(world, after=30, identity=None)
    world.run()
    assert world.table.rows == texts(0, 30)


def test_brokers_that_do_not_tell_the_id_are_asked_again() -> None:
    world = World()
    world.source.ids["t"] = "first"
    world.source.append("t", 0, values(0, 30))
    identities, asked = world.source.identities, []

    def away_for_a_while(topics):
        asked.append(topics)
        if 2 <= len(asked) <= 4:
            raise UnreachableError("brokers are away")
        return identities(topics)

    world.source.identities = away_for_a_while
    world.run(CAUGHT_UP)
    assert world.table.rows == texts(0, 30)
    assert len(asked) > 4
