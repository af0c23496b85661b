"""Kills, replays at the same time and a stream that goes on: rows and dead letters stay the messages."""

from __future__ import annotations

import signal

import pytest
from tests.e2e.conftest import broker, registry
from tests.e2e.test_dead_letters import LETTERS, TABLE, Market, market

__all__ = ["broker", "market", "registry"]

pytestmark = pytest.mark.soak


def test_kills_and_replays_beside_a_stream_with_one_bad_record_in_twenty(market: Market) -> None:
    site = market.site
    for _ in range(4):
        running = site.start("run")
        market.good.trades(190)
        market.bad.trades(10)
        running.until_event("dead letters")
        running.kill()
    market.mend()
    running = site.start("run")
    replays = [site.start("dead-letters", "replay") for _ in range(2)]
    market.good.trades(200)
    assert [replay.wait().code for replay in replays] == [0, 0]
    running.until(lambda: site.held(TABLE).num_rows >= 960, "all was written")
    running.signal(signal.SIGTERM)
    assert running.wait().code == 0
    assert site.run("dead-letters", "replay").code == 0
    assert site.differs(TABLE, market.all_sent).exact
    market.verified()
    counted = site.run("query", f"SELECT count(*) AS n FROM {LETTERS} WHERE kind = 'letter'", "--json")
    assert counted.document[0]["n"] >= market.letters("--replayed")["count"]
