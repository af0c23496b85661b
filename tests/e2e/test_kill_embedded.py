"""kill -9, thirty times, with a producer that keeps producing: nothing lost, nothing doubled, nothing changed."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.killing import kill_again_and_again
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.registry import EmbeddedRegistry


def test_a_writer_that_is_killed_thirty_times_loses_and_doubles_nothing(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("trades", 3)
    feed = Feed(broker.bootstrap_servers, "trades", 3, registry.register("trades-value", TRADE))
    feed.trades(100)
    document = configuration(broker.bootstrap_servers, registry.url, [TRADES_TABLE])
    # A group of its own for each run, or each would wait until the one before is given up. No position is read there.
    document["source"]["kafka"]["group_id"] = "${GROUP:-last}"
    site = Site(tmp_path, command_line, document)
    kill_again_and_again(site, feed, "market_data.trades", kills=30)
    assert len(site.history("market_data.trades")) >= 20
