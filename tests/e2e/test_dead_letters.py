"""Records that cannot become rows: set aside with the rows' own promise, found, fixed and brought back."""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.generators import Market as Trading
from lakeward.testing.generators import avro_payloads
from lakeward.testing.producing import produce, producer_of
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
    newest = site.run("history", TABLE, "--json").document["commits"][0]
    assert newest["by"] == {"kind": "replay", "name": "market-data"}
    market.good.trades(100)
    site.catch_up()
    assert site.differs(TABLE, market.all_sent).exact


def test_a_letter_is_shown_with_all_that_the_record_said(market: Market) -> None:
    site = market.site
    producer = producer_of(market.servers, {"log_level": 0})
    value = b"\0" + struct.pack(">I", 4711) + b"\xff secret \n"
    producer.produce(
        "trades", value, b"key-1", 1, timestamp=1_769_853_600_000, headers=[("trace", b"\xfe"), ("none", None)]
    )
    assert producer.flush(60) == 0
    market.good.trades(10)
    ended = site.catch_up()
    assert "secret" not in ended.err
    shown = site.run("dead-letters", "show", TABLE, "trades/1/0", "--json")
    assert shown.code == 0, shown.err
    (letter,) = shown.document
    assert base64.b64decode(letter["value"]) == value
    assert base64.b64decode(letter["key"]) == b"key-1"
    assert [(h["name"], h["value"] and base64.b64decode(h["value"])) for h in letter["headers"]] == [
        ("trace", b"\xfe"),
        ("none", None),
    ]
    assert (letter["state"], letter["code"], letter["schema_id"]) == ("waits", "unknown-schema-id", 4711)
    assert letter["timestamp"].startswith("2026-01-31 10:00:00")
    text = site.run("dead-letters", "show", TABLE, "trades/1/0").out
    assert "ff 20 73 65 63 72 65 74" in text
    assert "trace: \\xfe" in text
    for words, told in (
        ((TABLE, "trades/1/1"), "there is no dead letter"),
        ((TABLE, "trades"), "is no topic, partition"),
        (("nobody.knows", "trades/1/0"), "feeds no table nobody.knows"),
        ((), "are needed"),
    ):
        wrong = site.run("dead-letters", "show", *words)
        assert wrong.code == 2
        assert told in wrong.err


def test_a_flood_stops_the_pipeline_before_it_and_nothing_of_it_is_passed(market: Market) -> None:
    site = market.site
    site.document["dead_letters"] = {"max_rate": 0.01}
    site.document["source"]["kafka"]["poll_records"] = 100
    site.save()
    market.good.trades(2_000)
    market.bad.trades(5)
    site.catch_up()
    before = site.positions(TABLE)
    market.bad.trades(500)
    stopped = site.run("run", "--until-caught-up")
    assert stopped.code == 4
    assert "more than max_rate 0.01 lets pass" in stopped.err
    assert "unknown-schema-id" in stopped.err
    told = market.letters()
    assert told["count"] <= 15
    assert sum(site.positions(TABLE).values()) - sum(before.values()) == told["count"] - 5
    market.mend()
    site.catch_up()
    assert site.run("dead-letters", "replay").code == 0
    assert site.differs(TABLE, market.all_sent).exact
    market.verified()


def test_letters_alone_make_no_table(market: Market) -> None:
    site = market.site
    site.document["tables"][0]["topics"] = ["others"]
    site.save()
    Feed(market.servers, "others", 1, market.schema_id + 1, seed=3).trades(5)
    ended = site.run("run", "--until-caught-up")
    assert ended.code == 4
    assert "none of the 5 records that were read can become its first row" in ended.err
    assert not site.catalog().table_exists(LETTERS)
    market.registry.register("others-value", TRADE)
    site.catch_up()
    assert site.held(TABLE).num_rows == 0
    assert market.letters()["count"] == 5


def test_a_table_that_is_rolled_back_below_its_letters_reads_them_again(market: Market) -> None:
    site = market.site
    market.good.trades(300)
    site.catch_up()
    first = site.run("history", TABLE, "--json").document["commits"][0]["snapshot_id"]
    running = site.start("run")
    market.bad.trades(20)
    market.good.trades(100)
    running.until_committed(100)
    running.until(lambda: market.letters()["count"] == 20, "letters were set aside")
    done = site.run("rollback", TABLE, "--to", str(first), "--yes")
    assert done.code == 0, done.err
    assert "20 → 0 dead letters wait" in done.out
    running.until(
        lambda: market.letters()["count"] == 20 and market.letters()["void"] == 20, "they are set aside again"
    )
    running.kill()
    market.mend()
    last = site.run("history", TABLE, "--json").document["commits"][0]["snapshot_id"]
    assert site.run("dead-letters", "replay").code == 0
    assert site.differs(TABLE, market.all_sent).exact
    site.catalog().load_table(TABLE).manage_snapshots().rollback_to_snapshot(last).commit()
    assert market.letters()["count"] == 20, "another tool undid the replay"
    assert site.run("dead-letters", "replay", TABLE).code == 0
    assert site.differs(TABLE, market.all_sent).exact
    market.verified()


DAMAGES: Sequence[Callable[[bytes], bytes]] = (
    lambda value: value[:-3],
    lambda value: value + b"\x00",
    lambda value: b"\x01" + value[1:],
    lambda value: value[:3],
    lambda value: b"\0\xff\xff\xff\xff" + value[5:],
    lambda _: b"",
    lambda _: b'{"symbol": "BHP"}',
    lambda value: value[:5] + b"\xff" * 12 + value[5:],
)


def test_every_kind_of_damage_is_kept_byte_by_byte_over_kills(market: Market) -> None:
    site = market.site
    whole = avro_payloads(Trading(9).trades(20), market.schema_id)
    bad = [damage(whole.get(i) or b"") for i in range(len(whole)) for damage in DAMAGES]
    producer = producer_of(market.servers, {"log_level": 0})
    for start in range(0, len(bad), 80):
        running = site.start("run")
        market.good.trades(500)
        produce(producer, "trades", bad[start : start + 40], homes=[0] * 40)
        market.good.trades(500)
        produce(producer, "trades", bad[start + 40 : start + 80], homes=[1] * 40)
        running.until_event("committed", 1)
        running.kill()
    site.catch_up()
    assert site.differs(TABLE, market.good.sent).exact
    assert market.letters("--limit", "0")["count"] == len(bad)
    places = market.letters("--limit", "1000")["letters"]
    held = {
        (r["topic"], r["partition"], r["offset"]): r["value"] for r in site.scanned(LETTERS).to_pylist() if r["topic"]
    }
    assert Counter(held[p["topic"], p["partition"], p["offset"]] for p in places) == Counter(bad)
    assert site.run("dead-letters", "replay", "--json").document["tables"][0]["rows"] == 0
    assert sum(reason["letters"] for reason in market.letters()["reasons"]) == len(bad)
    market.verified()


def test_letters_of_before_a_rename_come_back_and_change_the_table_as_records_would(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("orders", 1)
    table = {"topics": ["orders"], "table": "shop.orders", "metadata_columns": {"at": "offset"}}
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [table]))
    site.document["decode"] = {"json": {"fields": {"amount": "int"}}}
    site.document["dead_letters"] = {"table": "ops.rejected", "headers": False}
    site.save()
    small = [b'{"amount": %d}' % i for i in range(20)]
    large = [b'{"amount": 3000000000}', b'{"amount": "many"}']
    produce(producer_of(broker.bootstrap_servers, {"log_level": 0}), "orders", [*small, *large], homes=[0] * 22)
    site.catch_up()
    assert site.scanned("ops.rejected").column("table").to_pylist() == ["shop.orders"] * 2

    site.document |= {"name": "renamed", "decode": {"json": {"fields": {"amount": "long"}}}}
    site.document["source"]["kafka"]["group_id"] = "renamed"
    site.save()
    adopted = site.run("run", "--until-caught-up", "--adopt", "market-data")
    assert adopted.code == 0, adopted.err
    assert site.run("dead-letters", "list").out.strip() == "No dead letters."
    done = site.run("dead-letters", "replay", "--pipeline", "market-data", "--json")
    assert done.code == 1
    assert done.document["tables"][0]["rows"] == 1
    assert sum(done.document["tables"][0]["failed"].values()) == 1
    held = site.held("shop.orders")
    assert sorted(held.column("amount").to_pylist()) == [*range(20), 3_000_000_000]
    assert sorted(held.column("at").to_pylist()) == list(range(21))
    ended = site.run("verify")
    assert ended.code == 0, ended.out
