"""Records that cannot become rows: set aside with the rows' own promise, found, fixed and brought back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.registry import EmbeddedRegistry

TABLE = "market_data.trades"
LETTERS = f"{TABLE}__dead_letters"


class Market:
    """Trades in two partitions, some of them framed with a schema id that the registry does not know yet."""

    def __init__(self, broker: EmbeddedBroker, registry: EmbeddedRegistry, line: CommandLine, folder: Path) -> None:
        broker.create("trades", 2)
        self.registry = registry
        self.schema_id = registry.register("trades-value", TRADE)
        servers = broker.bootstrap_servers
        self.servers = servers
        self.good = Feed(servers, "trades", 2, self.schema_id, seed=1)
        self.bad = Feed(servers, "trades", 2, self.schema_id + 1, seed=2)
        self.site = Site(folder, line, configuration(servers, registry.url, [TRADES_TABLE]))

    def mend(self) -> None:
        """Register the schema of the bad records."""
        again = json.dumps({**json.loads(TRADE), "doc": "again"})
        assert self.registry.register("trades-again-value", again) == self.schema_id + 1

    def letters(self, *arguments: str) -> Any:
        """What `dead-letters list` says of the table."""
        ended = self.site.run("dead-letters", "list", *arguments, "--json")
        assert ended.code == 0, ended.err
        return ended.document["tables"][0]

    def verified(self) -> Any:
        """The figures of `verify --against-source`, which must pass."""
        ended = self.site.run("verify", "--against-source", "--json")
        assert ended.code == 0, ended.out
        return ended.document["tables"][0]["figures"]

    @property
    def all_sent(self) -> pa.Table:
        return pa.concat_tables([self.good.sent, self.bad.sent])


@pytest.fixture
def market(broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path) -> Market:
    return Market(broker, registry, command_line, tmp_path)


def test_bad_records_cost_themselves_and_are_rows_after_the_fix_and_a_replay(market: Market) -> None:
    site = market.site
    market.good.trades(600)
    market.bad.trades(7)
    market.good.trades(400)
    site.catch_up()
    assert site.differs(TABLE, market.good.sent).exact
    told = market.letters()
    assert (told["count"], told["void"]) == (7, 0)
    assert [(r["reason"], r["letters"]) for r in told["reasons"]] == [("unknown-schema-id", 7)]
    assert {letter["schema_id"] for letter in told["letters"]} == {market.schema_id + 1}
    held = site.scanned(LETTERS)
    assert held.num_rows == 7
    assert set(held.column("kind").to_pylist()) == {"letter"}

    dry = site.run("dead-letters", "replay", "--dry-run")
    assert dry.code == 1
    assert "0 would become rows; 7 cannot be written: unknown-schema-id" in dry.out
    vain = site.run("dead-letters", "replay", TABLE, "--json")
    assert vain.code == 1
    assert vain.document["tables"][0]["failed"] == {"unknown-schema-id": 7}
    (reason,) = market.letters()["reasons"]
    assert reason["first_seen"] < reason["last_seen"]
    assert market.verified()["letters"] == {"waiting": 7, "replayed": 0, "void": 0}
    assert site.run("status", "--json").document["tables"][0]["dead_letters"] == 7

    market.mend()
    done = site.run("dead-letters", "replay")
    assert done.code == 0, done.err
    assert "7 became rows" in done.out
    assert site.differs(TABLE, market.all_sent).exact
    assert market.letters()["count"] == 0
    assert market.letters("--replayed")["count"] == 7
    again = site.run("dead-letters", "replay")
    assert (again.code, again.out.strip()) == (0, "No dead letters.")
    assert market.verified()["letters"] == {"waiting": 0, "replayed": 7, "void": 0}
    market.good.trades(100)
    site.catch_up()
    assert site.differs(TABLE, market.all_sent).exact
