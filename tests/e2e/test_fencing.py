"""The broker says that somebody else has our name: believed only where somebody else can have it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from confluent_kafka import KafkaError
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.testing.broker import HEARTBEAT, EmbeddedBroker
from lakeward.testing.registry import EmbeddedRegistry

FENCED = "fenced, and nobody else can have our name; joins the consumer group again"


@pytest.fixture
def feed(broker: EmbeddedBroker, registry: EmbeddedRegistry) -> Feed:
    broker.create("trades", 3)
    return Feed(broker.bootstrap_servers, "trades", 3, registry.register("trades-value", TRADE))


@pytest.fixture
def site(broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path) -> Site:
    return Site(tmp_path, command_line, configuration(broker.bootstrap_servers, registry.url, [TRADES_TABLE]))


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["one worker", "supervised"])
def test_a_worker_that_chose_its_name_comes_back_and_is_exact(
    site: Site, feed: Feed, broker: EmbeddedBroker, workers: list[str]
) -> None:
    command = site.start("run", *workers)
    feed.trades(500)
    command.until_committed(500)
    broker.fail(HEARTBEAT, [KafkaError.FENCED_INSTANCE_ID])
    feed.trades(500)
    command.until_event(FENCED)
    feed.trades(500)
    command.until_committed(1_500)
    command.signal(signal.SIGTERM)
    assert command.wait().code == 0
    difference = site.differs("market_data.trades", feed.sent)
    assert difference.exact, difference
    site.verified()


def test_a_worker_that_was_given_its_name_stops(site: Site, feed: Feed, broker: EmbeddedBroker) -> None:
    feed.trades(500)
    command = site.start("run", "--instance", "one")
    command.until_committed(500)
    broker.fail(HEARTBEAT, [KafkaError.FENCED_INSTANCE_ID])
    ended = command.wait()
    assert ended.code == 4
    assert "under the name of this one" in ended.err
