"""`lakeward consume`: one topic into one table, in one line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from tests.e2e.rig import TRADE, CommandLine, Feed

from lakeward.config import CATALOG_NAME
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.oracle import compare, held
from lakeward.testing.registry import EmbeddedRegistry


def test_the_second_call_continues_where_the_first_stopped(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("market.trades.raw", 3)
    schema_id = registry.register("market.trades.raw-value", TRADE)
    feed = Feed(broker.bootstrap_servers, "market.trades.raw", 3, schema_id)
    feed.trades(2_500)
    line = (
        *("consume", "--topic", "market.trades.raw", "--max-messages", "1000"),
        *("--brokers", broker.bootstrap_servers, "--registry", registry.url),
        *("--table", "market_data.trades", "--warehouse", "./lake", "--batch-size", "1000", "--json"),
    )

    def rows() -> pa.Table:
        properties = {
            "name": CATALOG_NAME,
            "type": "sql",
            "uri": f"sqlite:///{tmp_path}/lake/catalog.db",
            "warehouse": f"{tmp_path}/lake",
        }
        return held(open_catalog(properties).load_table("market_data.trades"), properties)

    for count in (1_000, 2_000):
        ended = command_line.run(*line, cwd=tmp_path)
        assert ended.code == 0, ended.err[-3000:]
        assert ended.document["messages"] == 1_000
        assert ended.document["tables"][0]["rows"] == count
        difference = compare(feed.sent, rows())
        assert difference.extra.num_rows == 0
        assert difference.missing.num_rows == 2_500 - count


def test_without_a_table_it_is_named_after_the_topic(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("web.clicks", 1)
    feed = Feed(broker.bootstrap_servers, "web.clicks", 1, None)
    feed.trades(10)
    ended = command_line.run(
        *("consume", "--topic", "web.clicks", "--brokers", broker.bootstrap_servers, "--decode", "json"),
        "--until-caught-up",
        cwd=tmp_path,
    )
    assert ended.code == 0, ended.err[-3000:]
    assert "streams.web_clicks: 10 rows in 1 commit, 10 in the table" in ended.out
    assert (tmp_path / "warehouse" / "catalog.db").exists()
