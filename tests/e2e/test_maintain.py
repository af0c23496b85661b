"""``lakeward maintain`` and the compaction that runs beside the stream."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, Stream, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.registry import EmbeddedRegistry

TABLE = "market_data.trades"


def test_a_writer_that_is_killed_while_it_compacts_loses_and_doubles_nothing(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("trades", 2)
    feed = Feed(broker.bootstrap_servers, "trades", 2, registry.register("trades-value", TRADE))
    document = configuration(broker.bootstrap_servers, registry.url, [TRADES_TABLE], interval="50ms")
    document["source"]["kafka"]["group_id"] = "${GROUP:-last}"
    site = Site(tmp_path, command_line, document)
    with Stream(feed):
        for number in range(3):
            writer = site.start("run", env={"GROUP": f"g{number}"})
            writer.until_event("compacted")
            writer.kill()
    site.catch_up()
    difference = site.differs(TABLE, feed.sent)
    assert difference.exact, difference
    assert site.breaks(TABLE) == []
    by = [commit["by"]["kind"] for commit in site.run("history", TABLE, "--json").document["commits"]]
    assert set(by) == {"stream", "compaction"}
    told = site.run("verify").out
    assert "compaction" in told
    assert "rows unchanged" in told
    site.verified()


def test_maintain_merges_what_is_left_and_finds_what_a_killed_writer_staged(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("trades", 1)
    feed = Feed(broker.bootstrap_servers, "trades", 1, registry.register("trades-value", TRADE))
    document = configuration(broker.bootstrap_servers, registry.url, [TRADES_TABLE])
    document["sink"]["iceberg"]["compaction"] = False
    site = Site(tmp_path, command_line, document)
    for _ in range(3):
        feed.trades(50)
        site.catch_up()
    stray = next((tmp_path / "warehouse").rglob("*.parquet")).with_name("left-behind.parquet")
    stray.write_bytes(b"staged by a writer that died")
    os.utime(stray, (stray.stat().st_mtime - 200_000,) * 2)
    partitions = len({at.date() for at in site.held(TABLE)["exchange_timestamp"].to_pylist()})
    (told_only,) = site.run("maintain", "--dry-run", "--rewrite", "all", "--json").document["tables"]
    assert (told_only["files_merged"], told_only["partitions_found"]) == (3 * partitions, partitions)
    assert (told_only["files_rewritten"], told_only["files"]) == (3 * partitions, 3 * partitions)
    (table,) = site.run("maintain", "--json").document["tables"]
    assert table["files_merged"] == 3 * partitions
    assert table["files"] == partitions
    assert (table["orphans"], table["orphans_deleted"]) == (1, 0)
    assert stray.exists()
    told = site.run("maintain", "--delete-orphans")
    assert told.code == 0
    assert not stray.exists()
    difference = site.differs(TABLE, feed.sent)
    assert difference.exact, difference
    assert site.run("maintain", "--older-than", "1h").code == 2
    assert site.run("maintain", "--rewrite", "exchange_timestamp_day=1970-01-01").code == 2
    site.verified()


def test_partitions_are_rewritten_sorted_while_a_stream_goes_on_and_writers_die(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("trades", 1)
    feed = Feed(broker.bootstrap_servers, "trades", 1, registry.register("trades-value", TRADE))
    document = configuration(broker.bootstrap_servers, registry.url, [TRADES_TABLE], interval="50ms")
    site = Site(tmp_path, command_line, document)
    with Stream(feed):
        writer = site.start("run")
        writer.until_event("compacted")
        for kept in ("20", "5"):
            site.run("maintain", "--rewrite", "all", "--keep-snapshots", kept, "--json")
        writer.until_event("committed")
        writer.kill()
    site.catch_up()
    difference = site.differs(TABLE, feed.sent)
    assert difference.exact, difference
    assert site.breaks(TABLE) == []
    site.verified()
    (table,) = site.run("maintain", "--rewrite", "all", "--json").document["tables"]
    assert table["files"] == table["partitions_found"]
    site.verified()


def test_tables_that_are_not_there_yet_or_are_empty_have_nothing_to_maintain(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [TRADES_TABLE]))
    (table,) = site.run("maintain", "--rewrite", "all", "--json").document["tables"]
    assert table["exists"] is False
    assert "not there yet" in site.run("maintain").out
    catalog = site.catalog()
    catalog.create_namespace("market_data")
    catalog.create_table(TABLE, pa.schema([("sequence_number", pa.int64())]))
    told = site.run("maintain", "--rewrite", "all", "--delete-orphans", "--json")
    assert told.code == 0, told.err
    (table,) = told.document["tables"]
    assert (table["files"], table["files_rewritten"], table["snapshots_expired"]) == (0, 0, 0)
    back = site.run("rollback", TABLE, "--at", "2026-01-31T09:30:00Z")
    assert back.code == 2
    assert "no commit yet" in back.err
