"""``lakeward history``: whose commits a table's log shows, what they moved, and what has become of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lakeward.cli import main
from lakeward.config import load
from lakeward.ledger import Loss
from lakeward.outcomes import CommitReceipt
from lakeward.positions import Account, Partition, Position
from lakeward.testing.lake import ORDERS, Lake, batch, commit

CONFIGURATION = """
name: orders
source: {kafka: {bootstrap_servers: "127.0.0.1:9"}}
decode: json
sink: {iceberg: {warehouse: ./warehouse}}
tables: [{topics: [orders], table: shop.orders}]
"""


class Shop:
    """A table below ``folder`` and the command line there."""

    def __init__(self, folder: Path, lake: Lake) -> None:
        self.folder = folder
        self.lake = lake

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["history", str(self.folder / "lakeward.yaml"), "shop.orders", *arguments])

    def commits(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run("--json", *arguments)
        assert result.exit_code == 0, result.output
        found: list[dict[str, Any]] = json.loads(result.output)["commits"]
        return found


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lakeward.yaml").write_text(CONFIGURATION, encoding="utf-8")
    properties = load(tmp_path / "lakeward.yaml", {}).catalog_properties()
    with Lake({"name": "lakeward", **properties}) as lake:
        yield Shop(tmp_path, lake)


def landed(outcome: object) -> CommitReceipt:
    assert isinstance(outcome, CommitReceipt), outcome
    return outcome


def moved(commit: dict[str, Any]) -> list[tuple[str, int, int | None, int]]:
    return [(m["topic"], m["partition"], m["from"], m["to"]) for m in commit["positions"]]


def test_a_commit_of_the_stream_shows_its_positions_and_sizes_before_and_after(shop: Shop) -> None:
    target = shop.lake.target()
    landed(commit(target, batch(0, 5)))
    second = landed(commit(target, batch(5, 3)))
    newest, oldest = shop.commits()
    assert newest["snapshot_id"] == second.snapshot_id
    assert newest["parent_id"] == oldest["snapshot_id"]
    assert newest["sequence_number"] == second.sequence_number
    assert newest["by"] == {"kind": "stream", "name": "orders"}
    assert moved(newest) == [("orders", 0, 5, 8)]
    assert newest["rows"] == {"added": 3, "removed": 0, "before": 5, "after": 8}
    assert newest["files"] == {"added": 1, "removed": 0, "before": 1, "after": 2}
    assert newest["bytes"]["after"] - newest["bytes"]["before"] == newest["bytes"]["added"] == second.bytes
    assert newest["committed_at"].endswith("Z")
    assert [commit["state"] for commit in (newest, oldest)] == ["head", "retained"]


def test_commits_of_others_are_told_apart(shop: Shop) -> None:
    ours, theirs = shop.lake.target(), shop.lake.target("quotes")
    landed(commit(ours, batch(0, 5)))
    landed(commit(theirs, batch(0, 2, partition=Partition("quotes", 0))))
    shop.lake.table().append(batch(9, 1, partition=Partition("foreign", 0)).parts[0])
    spark = {"engine-name": "spark", "engine-version": "4.0"}
    shop.lake.table().append(batch(8, 1, partition=Partition("foreign", 0)).parts[0], snapshot_properties=spark)
    append = replace(batch(0, 0, commit="append"), claim={}, upto={}, sources={}, writer=("handle", 1))
    landed(commit(ours, append))
    assert [commit["by"] for commit in shop.commits()] == [
        {"kind": "library", "name": "orders"},
        {"kind": "foreign", "name": "spark 4.0"},
        {"kind": "foreign", "name": None},
        {"kind": "stream", "name": "quotes"},
        {"kind": "stream", "name": "orders"},
    ]
    text = shop.run().output
    assert "spark 4.0" in text
    assert "another program" in text
    assert "library (orders)" in text


def test_a_rollback_names_what_it_moved_and_what_it_undid_is_rewound(shop: Shop) -> None:
    target = shop.lake.target()
    first = landed(commit(target, batch(0, 5)))
    landed(commit(target, batch(5, 5)))
    target.roll_back(target.plan_rollback(first.snapshot_id), "undo")
    undo, undone, kept = shop.commits()
    assert undo["by"] == {"kind": "rollback", "name": None}
    assert moved(undo) == [("orders", 0, 10, 5)]
    assert undo["rows"] == {"added": 0, "removed": 0, "before": 5, "after": 5}
    assert [commit["state"] for commit in (undo, undone, kept)] == ["head", "rewound, retained", "retained"]


def test_a_seek_is_told_apart_from_what_the_stream_gave_up(shop: Shop) -> None:
    target = shop.lake.target()
    landed(commit(target, batch(0, 5)))
    given_up = replace(batch(20, 3), accepted=(Loss(ORDERS, 5, 20),))
    landed(commit(target, given_up))
    moved_back = replace(batch(0, 0, commit="seek"), accepted=(Loss(ORDERS, 23, 0),), account=Account())
    assert moved_back.upto == {ORDERS: Position(0)}
    landed(commit(target, moved_back))
    seek, stream, _ = shop.commits()
    assert (seek["by"]["kind"], moved(seek)) == ("seek", [("orders", 0, 23, 0)])
    assert (stream["by"]["kind"], moved(stream)) == ("stream", [("orders", 0, 5, 23)])


def test_the_newest_are_shown_first_and_expired_ones_come_from_the_archive(shop: Shop) -> None:
    target = shop.lake.target()
    for start in range(60):
        shop.lake.clock.ms += 1_000
        landed(commit(target, batch(start, 1)))
    assert len(shop.commits()) == 20
    assert [moved(commit)[0][3] for commit in shop.commits("--limit", "3")] == [60, 59, 58]
    every = shop.commits("--all")
    assert [moved(commit)[0][3] for commit in every] == list(range(60, 0, -1))
    assert {commit["state"] for commit in every} == {"head", "retained", "archived"}
    assert "the newest 20 of 60 commits" in shop.run().output


def test_positions_of_many_partitions_are_cut_short_in_text_only(shop: Shop) -> None:
    target = shop.lake.target()
    parts = [batch(0, 1, partition=Partition("orders", number)) for number in range(5)]
    claim = {p: s for part in parts for p, s in part.claim.items()}
    upto = {p: s for part in parts for p, s in part.upto.items()}
    rows = [table for part in parts for table in part.parts]
    landed(commit(target, replace(parts[0], parts=rows, claim=claim, upto=upto, account=Account(5, 5, 0))))
    assert "orders/2 0 → 1, 2 more" in shop.run().output
    assert len(shop.commits()[0]["positions"]) == 5


def test_a_table_that_is_not_fed_and_one_that_is_not_there_are_told(shop: Shop) -> None:
    missing = shop.run()
    assert missing.exit_code == 2
    assert "table shop.orders is not there yet" in missing.output
    other = CliRunner().invoke(main, ["history", str(shop.folder / "lakeward.yaml"), "shop.order"])
    assert other.exit_code == 2
    assert 'feeds no table shop.order; did you mean "shop.orders"?' in other.output
