"""Runs that are killed at random moments, again and again, while a producer keeps producing."""

from __future__ import annotations

import random
import secrets
import time

from tests.e2e.rig import Command, Feed, Site, Stream

MOMENTS = (("spawned", 0), ("assigned", 1), ("continues", 1), *(("committed", n) for n in (1, 1, 2, 2, 3, 4)))
"""What a run has done when it is killed a little later: an event of its log, and how many of them."""


def kill_again_and_again(site: Site, feed: Feed, table: str, kills: int, *, seed: int | None = None) -> None:
    """Kill ``kills`` runs, let the last one catch up, and compare. A failure is replayed with the seed it printed."""
    chosen = secrets.randbits(32) if seed is None else seed
    print(f"seed {chosen}")  # noqa: T201 -- pytest shows it where the test fails
    chance = random.Random(chosen)
    with Stream(feed):
        for number in range(kills):
            command = site.start("run", env={"GROUP": f"group-{number}"})
            wait_for_a_moment(command, chance)
            ended = command.kill()
            assert ended.code == -9, ended.err[-3000:]
    site.catch_up()
    difference = site.differs(table, feed.sent)
    assert difference.exact, difference
    assert site.breaks(table) == []
    site.verified()


def wait_for_a_moment(command: Command, chance: random.Random) -> None:
    """Wait until a run has done something, and a little longer."""
    event, count = chance.choice(MOMENTS)
    if count:
        command.until_event(event, count)
    time.sleep(chance.uniform(0.0, 0.25))  # somewhere between two steps: this is the random moment
