"""PROTOCOL M3: files that nothing refers to, and only those."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lakeward.errors import ConfigurationError, OperatorError
from lakeward.gaps import GapCounts, Gaps, Kept
from lakeward.outcomes import CommitReceipt
from lakeward.sinks.iceberg.compacting import at_once
from lakeward.sinks.iceberg.orphans import LEAST_AGE_MS
from lakeward.testing.lake import ORDERS, Lake, batch, commit, expected

DAY_S = 86_400


@pytest.fixture(params=["pyarrow", "fsspec"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lake]:
    kinds = {"pyarrow": "pyiceberg.io.pyarrow.PyArrowFileIO", "fsspec": "pyiceberg.io.fsspec.FsspecFileIO"}
    properties = {
        "type": "sql",
        "uri": f"sqlite:///{tmp_path}/catalog.db",
        "warehouse": f"file://{tmp_path}",
        "py-io-impl": kinds[request.param],
    }
    with Lake(properties) as opened:
        yield opened


def folder(lake: Lake) -> Path:
    return Path(lake.table().location().removeprefix("file://"))


def age(path: Path, days: float) -> None:
    when = path.stat().st_mtime - days * DAY_S
    os.utime(path, (when, when))


def everything_is_old(lake: Lake) -> None:
    for path in folder(lake).rglob("*"):
        if path.is_file():
            age(path, 3)


def run(lake: Lake, commits: int = 60) -> None:
    target = lake.target(rewriter=at_once)
    for offset in range(commits):
        lake.clock.ms += 250
        step = Gaps(GapCounts(), {ORDERS: Kept(f"gaps-{offset}", 0)})
        if offset:
            target.keep(f"gaps-{offset}", b"state")
        assert isinstance(commit(target, replace(batch(offset, 1), gaps=step if offset else None)), CommitReceipt)


def test_what_a_dead_writer_left_is_found_and_deleted_and_the_table_stays_whole(lake: Lake) -> None:
    run(lake)
    target = lake.target()
    target.stage(batch(1_000, 5))  # and then the writer died
    everything_is_old(lake)
    before = {path for path in folder(lake).rglob("*") if path.is_file()}
    orphans = target.find_orphans(LEAST_AGE_MS)
    assert {path for path in folder(lake).rglob("*") if path.is_file()} == before
    target.delete_orphans(orphans)
    gone = before - {path for path in folder(lake).rglob("*") if path.is_file()}
    assert [path.name for path in gone if "1000-1005" in path.name]
    assert target.find_orphans(LEAST_AGE_MS).files == ()
    assert lake.rows() == expected(*(batch(offset, 1) for offset in range(60)))
    assert lake.breaks() == []
    for snapshot in lake.table().metadata.snapshots:
        assert len(lake.table().scan(snapshot_id=snapshot.snapshot_id).to_arrow()) > 0
    newest = target.find().entry
    assert newest is not None
    assert newest.gaps is not None
    assert target.kept(newest.gaps.states[ORDERS].name) == b"state"
    assert len(target.history()) > 60  # the archive is still there


def test_young_files_are_never_touched(lake: Lake) -> None:
    run(lake, 3)
    target = lake.target()
    target.stage(batch(1_000, 5))
    orphans = target.find_orphans(LEAST_AGE_MS)
    assert orphans.files == ()
    assert orphans.young == 1


def test_an_age_that_could_hit_a_commit_under_way_is_refused(lake: Lake) -> None:
    run(lake, 1)
    with pytest.raises(ConfigurationError, match="younger than 24 hours"):
        lake.target().find_orphans(LEAST_AGE_MS - 1)


def test_a_table_whose_files_others_use_keeps_them(lake: Lake) -> None:
    run(lake, 2)
    target = lake.target()
    target.stage(batch(1_000, 5))
    everything_is_old(lake)
    lake.table().transaction().set_properties({"gc.enabled": "false"}).commit_transaction()
    with pytest.raises(OperatorError, match=r"gc\.enabled=false"):
        target.delete_orphans(target.find_orphans(LEAST_AGE_MS))
    assert list(folder(lake).rglob("*1000-1005*"))


def test_what_is_committed_after_the_listing_is_not_taken_for_an_orphan(lake: Lake) -> None:
    run(lake, 2)
    rival = lake.target()
    staged = rival.stage(batch(2, 5))
    everything_is_old(lake)
    orphans = lake.target().find_orphans(LEAST_AGE_MS)
    assert [file for file in orphans.files if "2-7" in file.path]
    assert isinstance(rival.commit(staged), CommitReceipt)
    assert not lake.target().find_orphans(LEAST_AGE_MS).files
