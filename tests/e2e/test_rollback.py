"""Tables rolled back together with their streams: the commands, and pipelines that go on by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.positions import Partition
from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.registry import EmbeddedRegistry

TABLE = "market_data.trades"


class Market:
    """Trades in two partitions, and a topic of test data that does not belong into the table."""

    def __init__(self, broker: EmbeddedBroker, registry: EmbeddedRegistry, line: CommandLine, folder: Path) -> None:
        broker.create("trades", 2)
        broker.create("trades-test", 1)
        schema_id = registry.register("trades-value", TRADE)
        self.broker = broker
        self.good = Feed(broker.bootstrap_servers, "trades", 2, schema_id, seed=1)
        self.bad = Feed(broker.bootstrap_servers, "trades-test", 1, schema_id, seed=2)
        self.site = Site(folder, line, configuration(broker.bootstrap_servers, registry.url, [TRADES_TABLE]))

    def feed_from(self, *topics: str) -> None:
        self.site.document["tables"][0]["topics"] = list(topics)
        self.site.save()

    def history(self) -> dict[str, Any]:
        document: dict[str, Any] = self.site.run("history", TABLE, "--all", "--json").document
        return document

    def exact(self) -> bool:
        return self.site.differs(TABLE, self.good.sent).exact


@pytest.fixture
def market(broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path) -> Market:
    return Market(broker, registry, command_line, tmp_path)


def test_bad_data_is_rolled_back_and_the_stream_replayed_with_a_fixed_configuration(market: Market) -> None:
    site = market.site
    market.good.trades(1_000)
    site.catch_up()
    before = market.history()["commits"][0]
    market.feed_from("trades", "trades-test")
    market.bad.trades(300)
    market.good.trades(500)
    site.catch_up()
    assert not market.exact()

    market.feed_from("trades")
    shown = site.run("rollback", TABLE, "--to", str(before["snapshot_id"]))
    assert shown.code == 0
    assert "Nothing was changed" in shown.out
    assert "1,800 → 1,000" in shown.out
    assert not market.exact()

    done = site.run("rollback", TABLE, "--at", before["committed_at"], "--yes", "--json")
    assert done.code == 0, done.err
    assert done.document["done"]
    assert done.document["rows"] == {"before": 1_800, "after": 1_000}
    assert site.positions(TABLE) == {Partition("trades", n): p["to"] for n, p in enumerate(done.document["positions"])}

    site.catch_up()
    assert market.exact()
    assert site.breaks(TABLE) == []
    site.verified()
    again = site.run("rollback", TABLE, "--to", str(before["snapshot_id"]), "--json")
    assert again.document["undone"][-1]["by"]["kind"] == "rollback"
    commits = market.history()["commits"]
    states = {commit["snapshot_id"]: commit["state"] for commit in commits}
    assert commits[0]["state"] == "head"
    assert "rewound, retained" in states.values()
    assert states[before["snapshot_id"]] == "retained"
    undo = next(commit for commit in commits if commit["by"]["kind"] == "rollback")
    assert undo["parent_id"] == before["snapshot_id"]
    assert all(move["from"] > move["to"] for move in undo["positions"])


def test_a_pipeline_that_runs_while_it_is_rolled_back_reads_the_undone_again(market: Market) -> None:
    site = market.site
    market.good.trades(400)
    site.catch_up()
    first = market.history()["commits"][0]["snapshot_id"]
    running = site.start("run")
    market.good.trades(400)
    running.until_committed(400)
    done = site.run("rollback", TABLE, "--to", str(first), "--yes")
    assert done.code == 0, done.err
    running.until_committed(800)
    running.until(market.exact, "the table was exact again")
    assert site.breaks(TABLE) == []


def test_a_pipeline_that_runs_while_another_tool_rolls_back_reads_the_undone_again(market: Market) -> None:
    site = market.site
    market.good.trades(400)
    site.catch_up()
    first = market.history()["commits"][0]["snapshot_id"]
    running = site.start("run")
    market.good.trades(400)
    running.until_committed(400)
    site.catalog().load_table(TABLE).manage_snapshots().rollback_to_snapshot(first).commit()
    running.until_committed(800)
    running.until(market.exact, "the table was exact again")
    assert site.breaks(TABLE) == []
    assert not site.target(TABLE).find().rewound


def test_a_source_that_no_longer_holds_what_is_undone_refuses_the_rollback(market: Market) -> None:
    site = market.site
    market.good.trades(400)
    site.catch_up()
    first = market.history()["commits"][0]["snapshot_id"]
    market.good.trades(400)
    site.catch_up()
    market.broker.delete_records("trades", 0, site.positions(TABLE)[Partition("trades", 0)])
    refused = site.run("rollback", TABLE, "--to", str(first), "--yes")
    assert refused.code == 4
    assert "trades/0 continues at offset" in refused.err
    assert "Choose a later snapshot" in refused.err
    assert market.exact()


def test_a_rollback_to_nowhere_says_what_there_is(market: Market) -> None:
    market.good.trades(10)
    market.site.catch_up()
    for arguments, told in (
        ((), "one of --to and --at is needed"),
        (("--to", "42"), "is not among those"),
        (("--at", "2026-01-31"), "has no time zone"),
        (("--at", "yesterday"), "is no time"),
        (("--at", "2001-01-31T00:00:00Z"), "held nothing yet"),
    ):
        ended = market.site.run("rollback", TABLE, *arguments)
        assert ended.code == 2, arguments
        assert told in ended.err


def test_a_seek_is_shown_first_and_recorded_and_the_pipeline_continues_there(market: Market) -> None:
    site = market.site
    market.good.trades(400)
    site.catch_up()
    before = site.positions(TABLE)
    market.bad.trades(1)
    Feed(market.broker.bootstrap_servers, "trades", 2, None, seed=3).trades(100)  # JSON where Avro is expected
    site.document["dead_letters"] = {"max_rate": 0}
    site.save()
    stopped = site.run("run", "--until-caught-up")
    assert stopped.code == 4
    assert "records cannot be written" in stopped.err

    shown = site.run("seek", TABLE, "--to", "latest")
    assert shown.code == 0
    assert "skips" in shown.out
    assert site.positions(TABLE) == before
    done = site.run("seek", TABLE, "--to", "latest", "--yes", "--json")
    assert done.code == 0, done.err
    moves = {(m["topic"], m["partition"]): (m["from"], m["to"]) for m in done.document["positions"]}
    assert {place: start for place, (start, _) in moves.items()} == {tuple(p): at for p, at in before.items()}
    assert sum(end - start for start, end in moves.values()) == 100

    market.good.trades(200)
    site.catch_up()
    assert market.exact()
    assert site.breaks(TABLE) == []
    site.verified()
    newest = next(commit for commit in market.history()["commits"] if commit["by"]["kind"] == "seek")
    assert {(m["topic"], m["partition"]): (m["from"], m["to"]) for m in newest["positions"]} == moves
    again = site.run("seek", TABLE, "--to", "latest", "--yes")
    assert "Nothing to do" in again.out


def test_a_seek_back_under_a_running_pipeline_is_read_again_from_there(market: Market) -> None:
    site = market.site
    market.good.trades(100)
    running = site.start("run")
    running.until_committed(100)
    done = site.run("seek", TABLE, "--partition", "trades/0=0", "--partition", "trades/1=0", "--yes")
    assert done.code == 0, done.err
    running.until_committed(200)
    assert site.held(TABLE).num_rows == 200
    again = site.run("seek", TABLE, "--to", "earliest", "--yes")
    assert again.code == 0, again.err
    running.until_committed(300)
    assert site.breaks(TABLE) == []
    site.verified()


def test_a_seek_to_nowhere_says_what_there_is(market: Market) -> None:
    market.good.trades(10)
    market.site.catch_up()
    for arguments, told in (
        ((), "one of --partition and --to is needed"),
        (("--partition", "trades/0"), "is no partition and offset"),
        (("--partition", "trades/7=0"), "there is no trades/7"),
        (("--partition", "trades/0=9999"), "has no offset 9999"),
        (("--to", "tomorrow"), "is no time"),
    ):
        ended = market.site.run("seek", TABLE, *arguments)
        assert ended.code == 2, arguments
        assert told in ended.err
