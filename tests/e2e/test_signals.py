"""Stopping: the first signal commits what is held, the second leaves at once; nothing is lost either way."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.registry import EmbeddedRegistry


@pytest.fixture
def feed(broker: EmbeddedBroker, registry: EmbeddedRegistry) -> Feed:
    broker.create("trades", 3)
    return Feed(broker.bootstrap_servers, "trades", 3, registry.register("trades-value", TRADE))


@pytest.fixture
def site(broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path) -> Site:
    document = configuration(broker.bootstrap_servers, registry.url, [TRADES_TABLE], interval="1h")
    document["flush"]["rows"] = 500
    document["source"]["kafka"]["group_id"] = "${GROUP:-first}"
    return Site(tmp_path, command_line, document)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_the_first_signal_commits_what_is_held_and_ends_well(site: Site, feed: Feed, number: signal.Signals) -> None:
    feed.trades(1_250)
    command = site.start("run")
    command.until_committed(1_000)
    # What is left is less than a batch, and the interval is an hour: only stopping commits it.
    command.signal(number)
    ended = command.wait()
    assert ended.code == 0, ended.err[-3000:]
    assert "stopping: committing what is held" in ended.err
    held = site.held("market_data.trades").num_rows
    assert held == command.committed
    assert sum(site.positions("market_data.trades").values()) == held
    site.run("run", "--until-caught-up", env={"GROUP": "second"})
    difference = site.differs("market_data.trades", feed.sent)
    assert difference.exact, difference
    site.verified()


def test_a_second_signal_leaves_at_once_and_nothing_is_lost(site: Site, feed: Feed) -> None:
    feed.trades(500)
    site.catch_up()
    feed.trades(700)
    command = site.start("run", env={"GROUP": "second"})
    command.until_event("continues", 3)
    with sqlite3.connect(site.folder / "warehouse" / "catalog.db") as catalog:
        catalog.execute("BEGIN EXCLUSIVE")  # nobody commits while we hold this: draining cannot end
        command.signal(signal.SIGTERM)
        command.until(lambda: "once more to leave at once" in command.err.read_text(), "it said that it stops")
        command.signal(signal.SIGTERM)
        ended = command.wait(within=5)
        catalog.execute("ROLLBACK")
    catalog.close()
    assert ended.code == 128 + signal.SIGTERM
    site.run("run", "--until-caught-up", env={"GROUP": "third"})
    difference = site.differs("market_data.trades", feed.sent)
    assert difference.exact, difference
    assert site.breaks("market_data.trades") == []


def test_a_signal_before_anything_came_ends_well(site: Site, broker: EmbeddedBroker) -> None:
    broker.create("trades", 1)
    command = site.start("run")
    command.until_event("assigned")
    command.signal(signal.SIGTERM)
    ended = command.wait()
    assert ended.code == 0, ended.err[-3000:]
    assert "nothing to write" in ended.out
