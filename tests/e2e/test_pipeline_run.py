"""The whole pipeline without servers: what was sent is in the tables, value by value."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.rig import JSON_TRADE, QUOTE, TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.oracle import compare
from lakeward.testing.registry import EmbeddedRegistry


def test_avro_trades_and_quotes_and_json_trades_reach_three_tables_exactly(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path
) -> None:
    for topic in ("trades", "quotes", "clicks"):
        broker.create(topic, 3)
    trades = Feed(broker.bootstrap_servers, "trades", 3, registry.register("trades-value", TRADE), seed=1)
    quotes = Feed(broker.bootstrap_servers, "quotes", 3, registry.register("quotes-value", QUOTE), seed=2)
    clicks = Feed(broker.bootstrap_servers, "clicks", 3, None, seed=3)
    tables = [
        TRADES_TABLE,
        {"topics": ["quotes"], "table": "market_data.quotes", "partition_by": ["symbol"]},
        {"topics": ["clicks"], "table": "web.clicks", "decode": {"json": {"fields": JSON_TRADE}}},
    ]
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, registry.url, tables))
    for _ in range(2):
        trades.trades(3_000)
        quotes.quotes(2_000)
        clicks.trades(1_000)
        site.catch_up()
    for table, feed in (("market_data.trades", trades), ("market_data.quotes", quotes), ("web.clicks", clicks)):
        difference = site.differs(table, feed.sent)
        assert difference.exact, difference
        scanned = compare(feed.sent, site.scanned(table))
        assert scanned.exact, scanned
        assert site.breaks(table) == []
    site.verified()
    status = site.run("status", "--json").document
    assert [(table["rows"], table["lag"]) for table in status["tables"]] == [(6_000, 0), (4_000, 0), (2_000, 0)]
    counted = site.run("query", "SELECT count(*) AS n, sum(volume) AS v FROM market_data.trades", "--json").document
    assert counted == [{"n": 6_000, "v": sum(trades.sent["volume"].to_pylist())}]
