"""Records that cannot become rows: set aside with the rows' own promise, found, fixed and brought back."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import produce, producer_of
from lakeward.testing.registry import EmbeddedRegistry

TABLE = "market_data.trades"
LETTERS = f"{TABLE}__dead_letters"


@pytest.fixture
def feed(broker: EmbeddedBroker, registry: EmbeddedRegistry) -> Feed:
    broker.create("trades", 2)
    return Feed(broker.bootstrap_servers, "trades", 2, registry.register("trades-value", TRADE))


@pytest.fixture
def site(broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path) -> Site:
    return Site(tmp_path, command_line, configuration(broker.bootstrap_servers, registry.url, [TRADES_TABLE]))


def poison(broker: EmbeddedBroker, count: int, schema_id: int = 4711) -> None:
    values = [b"\0" + struct.pack(">I", schema_id) + b"secret %d" % i for i in range(count)]
    produce(
        producer_of(broker.bootstrap_servers, {"log_level": 0}), "trades", values, homes=[i % 2 for i in range(count)]
    )


def test_a_bad_record_costs_itself_and_nothing_else(site: Site, feed: Feed, broker: EmbeddedBroker) -> None:
    feed.trades(500)
    poison(broker, 3)
    feed.trades(500)
    ended = site.catch_up()
    assert "secret" not in ended.err
    assert site.differs(TABLE, feed.sent).exact
    held = site.scanned(LETTERS).to_pylist()
    assert sorted(row["value"][5:] for row in held) == [b"secret 0", b"secret 1", b"secret 2"]
    assert {(row["kind"], row["code"], row["schema_id"]) for row in held} == {("letter", "unknown-schema-id", 4711)}
