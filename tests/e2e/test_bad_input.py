"""What goes wrong outside is told in a sentence with a way out: an exit code, no traceback, nothing half written."""

from __future__ import annotations

import resource
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Ended, Feed, Site, configuration

from lakeward.positions import Partition
from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import produce, producer_of
from lakeward.testing.registry import EmbeddedRegistry

TABLE = "market_data.trades"


@pytest.fixture
def feed(broker: EmbeddedBroker, registry: EmbeddedRegistry) -> Feed:
    broker.create("trades", 2)
    return Feed(broker.bootstrap_servers, "trades", 2, registry.register("trades-value", TRADE))


@pytest.fixture
def site(broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path) -> Site:
    document = configuration(broker.bootstrap_servers, registry.url, [TRADES_TABLE])
    document["source"]["kafka"]["group_id"] = "${GROUP:-first}"
    return Site(tmp_path, command_line, document)


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port on which nothing listens, kept from clients while it is needed."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def told(ended: Ended, code: int, *words: str) -> None:
    """It ended with ``code``, said all of ``words`` and a way out, and showed no traceback."""
    assert ended.code == code, ended.err[-3000:]
    assert "Traceback" not in ended.err
    error = ended.err[ended.err.rindex("error: ") :]
    for word in words:
        assert word in error
    assert "\n  " in error, "there is no way out"


def test_a_wrong_broker_port_is_named(site: Site, nobody: int) -> None:
    site.document["source"]["kafka"]["bootstrap_servers"] = f"127.0.0.1:{nobody}"
    site.save()
    told(site.run("run"), 3, f"127.0.0.1:{nobody}", "does not answer", "bootstrap_servers")


def test_an_unknown_topic_ends_a_bounded_run(site: Site, broker: EmbeddedBroker) -> None:
    told(site.run("run", "--until-caught-up"), 2, "topic trades does not exist", "create it")
    told(site.run("run", "--max-messages", "1"), 2, "topic trades does not exist", "create it")


def test_an_unknown_topic_is_waited_for_by_a_run_without_end(
    site: Site, broker: EmbeddedBroker, registry: EmbeddedRegistry
) -> None:
    command = site.start("run")
    command.until_event("topic does not exist yet; waiting for it")
    broker.create("trades", 2)
    feed = Feed(broker.bootstrap_servers, "trades", 2, registry.register("trades-value", TRADE))
    feed.trades(100)
    command.until_committed(100)
    command.kill()
    assert site.differs(TABLE, feed.sent).exact


def test_a_registry_that_is_down_is_waited_for(site: Site, feed: Feed, nobody: int) -> None:
    feed.trades(300)
    site.document["schema_registry"]["url"] = f"http://127.0.0.1:{nobody}"
    site.save()
    command = site.start("run")
    command.until_event("registry_unavailable", 2)
    assert command.events("registry_unavailable")[0]["url"] == f"http://127.0.0.1:{nobody}"
    with EmbeddedRegistry(nobody) as there:
        there.register("trades-value", TRADE)
        command.until_committed(300)
    command.kill()
    assert site.differs(TABLE, feed.sent).exact


def test_an_unknown_schema_id_is_named_with_its_record(site: Site, feed: Feed, broker: EmbeddedBroker) -> None:
    feed.trades(50)
    poison = b"\0" + struct.pack(">I", 4711) + b"\x02"
    produce(producer_of(broker.bootstrap_servers, {"log_level": 0}), "trades", [poison], homes=[0])
    site.document["dead_letters"] = {"max_rate": 0}
    site.save()
    ended = site.run("run", "--until-caught-up")
    told(ended, 4, TABLE, "topic trades, partition 0, offset ", "schema id 4711", "[unknown-schema-id]")


def test_a_poison_record_is_named_and_what_came_before_it_is_kept(
    site: Site, feed: Feed, broker: EmbeddedBroker, registry: EmbeddedRegistry
) -> None:
    feed.trades(200)
    site.catch_up()
    schema_id = registry.register("trades-value", TRADE)
    end = site.positions(TABLE)[Partition("trades", 1)]
    poison = b"\0" + struct.pack(">I", schema_id) + b"secret value"
    produce(producer_of(broker.bootstrap_servers, {"log_level": 0}), "trades", [poison], homes=[1])
    site.document["dead_letters"] = {"max_rate": 0}
    site.save()
    for _ in range(2):  # the second start finds it again
        ended = site.run("run", "--until-caught-up", env={"GROUP": "second"})
        told(ended, 4, TABLE, f"topic trades, partition 1, offset {end}", f"schema id {schema_id}", "max_rate")
        assert "secret" not in ended.err
    assert site.differs(TABLE, feed.sent).exact


@pytest.mark.parametrize("recreated", [False, True], ids=["dropped", "recreated"])
def test_a_table_that_is_replaced_under_the_writer_stops_it(site: Site, feed: Feed, *, recreated: bool) -> None:
    feed.trades(100)
    command = site.start("run")
    command.until_committed(100)
    catalog = site.catalog()
    schema = catalog.load_table(TABLE).schema()
    catalog.drop_table(TABLE)
    if recreated:
        catalog.create_table(TABLE, schema)
    feed.trades(100)
    what = "was replaced while it was written to" if recreated else "was dropped while it was written to"
    told(command.wait(), 4, f"table {TABLE} {what}", "start again")
    assert catalog.table_exists(TABLE) is recreated
    if recreated:
        assert catalog.load_table(TABLE).current_snapshot() is None


def test_a_warehouse_that_is_no_folder_is_named(site: Site, feed: Feed) -> None:
    feed.trades(10)
    (site.folder / "warehouse").write_text("in the way")
    told(site.run("run", "--until-caught-up"), 3, str(site.folder / "warehouse"), "Move it")


def test_a_file_where_a_tables_folder_should_be_is_named(site: Site, feed: Feed) -> None:
    feed.trades(10)
    (site.folder / "warehouse").mkdir()
    obstacle = site.folder / "warehouse" / "market_data"
    obstacle.write_text("in the way")
    command = site.start("run")
    command.until_event("trying again", 2)  # it may be moved while we wait
    command.signal(signal.SIGTERM)
    told(command.wait(), 3, str(obstacle), "Move it")
    obstacle.unlink()
    site.run("run", "--until-caught-up", env={"GROUP": "second"})
    assert site.differs(TABLE, feed.sent).exact


def test_a_catalog_that_is_no_database_is_named(site: Site, feed: Feed) -> None:
    (site.folder / "warehouse").mkdir()
    (site.folder / "warehouse" / "catalog.db").write_text("in the way, and long enough to be looked at" * 100)
    ended = site.run("run", "--until-caught-up")
    told(ended, 3, "catalog.db", "not a database")


def test_a_full_disk_is_waited_for_and_nothing_is_lost(site: Site, feed: Feed) -> None:
    feed.trades(100)
    site.catch_up()
    feed.trades(20_000)  # a data file of more than 100 kB
    command = site.start("run", env={"GROUP": "second"}, fsize=100_000)
    command.until_event("trying again")
    event = command.events("trying again")[0]
    assert event["what"] == f"staging for {TABLE}"
    assert "File too large" in event["error"]
    assert site.held(TABLE).num_rows == 100
    resource.prlimit(command.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    command.until_committed(20_000)
    command.kill()
    assert site.differs(TABLE, feed.sent).exact


def test_a_topic_that_was_recreated_is_refused(site: Site, feed: Feed, broker: EmbeddedBroker) -> None:
    feed.trades(100)
    site.catch_up()
    broker.delete("trades")
    broker.create("trades", 2)
    feed.trades(150)
    ended = site.run("run", "--until-caught-up", env={"GROUP": "second"})
    told(ended, 4, "topic trades is not the topic that the table was fed from", "on_lost_positions")
    assert site.held(TABLE).num_rows == 100


def test_retention_that_overtook_the_position_stops_the_table_or_is_accepted_and_recorded(
    site: Site, feed: Feed, broker: EmbeddedBroker
) -> None:
    feed.trades(100)
    site.catch_up()
    before = site.positions(TABLE)
    feed.trades(100)
    for number in (0, 1):
        broker.delete_records("trades", number, before[Partition("trades", number)] + 5)
    told(site.run("run", env={"GROUP": "second"}), 4, "trades/", "5 offsets have expired", "on_lost_positions")
    site.document["source"]["kafka"]["on_lost_positions"] = "earliest"
    site.save()
    site.run("run", "--until-caught-up", env={"GROUP": "third"})
    difference = site.differs(TABLE, feed.sent)
    assert (difference.missing.num_rows, difference.extra.num_rows) == (10, 0)
    ended = site.run("verify")
    assert ended.code == 0, ended.out
    assert "10 offsets: trades/0 " in ended.out
    # Accepted once: the next start has nothing more to give up.
    feed.trades(50)
    site.run("run", "--until-caught-up", env={"GROUP": "fourth"})
    assert site.differs(TABLE, feed.sent).missing.num_rows == 10


def test_a_configuration_with_twelve_mistakes_shows_them_all(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "lakeward.yaml").write_text(
        """\
nam: market-data
source: {kafka: {bootstrap_server: "localhost:9092", start: yesterday, on_lost_positions: ignore}}
decode: avor
sink: {iceberg: {warehouse: 5}}
flush: {interval: fast, rows: 0, bytes: 12XB}
tables:
  - topics: [trades]
    tabel: market_data.trades
    mode: insert
    partition_by: [dya(exchange_timestamp)]
log: {level: LOUD}
"""
    )
    ended = command_line.run("run", cwd=tmp_path)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    for words in ("name", "bootstrap_servers", "table", "yesterday", "avro", "day", "LOUD"):
        assert words in ended.err
    assert sum("lakeward.yaml:" in line for line in ended.err.splitlines()) >= 12
