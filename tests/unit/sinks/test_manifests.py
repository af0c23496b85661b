"""Manifests stay few, and merged ones read the same to PyIceberg and to DuckDB, which shares no code with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import duckdb_extension_avro
import duckdb_extension_iceberg
import pytest
from pyiceberg.expressions import EqualTo
from pyiceberg.manifest import ManifestContent, ManifestEntryStatus, ManifestFile
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform

from lakeward.outcomes import CommitReceipt
from lakeward.positions import Partition
from lakeward.sinks.iceberg.manifests import FANOUT, live_files
from lakeward.testing.faults import Plan, meanwhile
from lakeward.testing.lake import Lake, batch, commit, expected


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


def manifests(table: Table) -> list[ManifestFile]:
    head = table.metadata.current_snapshot()
    return head.manifests(table.io) if head is not None else []


def scanned(table: Table) -> Counter[tuple[object, ...]]:
    """What DuckDB's own Iceberg reader finds, by metadata, manifest list and manifests."""
    with duckdb.connect() as reader:
        for module, name in ((duckdb_extension_avro, "avro"), (duckdb_extension_iceberg, "iceberg")):
            folder = Path(str(module.__file__)).parent
            extension = next(folder.rglob(f"{name}.duckdb_extension"))
            reader.execute(f"LOAD '{extension}'")
        return Counter(reader.execute("SELECT * FROM iceberg_scan(?)", [table.metadata_location]).fetchall())


def test_their_number_grows_with_the_logarithm_of_the_commits(lake: Lake) -> None:
    target = lake.target()
    most = 0
    for start in range(FANOUT * 4):
        commit(target, batch(start, 1))
        most = max(most, len(manifests(lake.table())))
    assert most < FANOUT + 5
    held = manifests(lake.table())
    assert sum(map(live_files, held)) == FANOUT * 4
    assert lake.rows() == scanned(lake.table()) == expected(batch(0, FANOUT * 4))


def test_carried_files_keep_their_snapshot_and_sequence_numbers(lake: Lake) -> None:
    target = lake.target()
    numbers: dict[int, int] = {}
    for start in range(FANOUT + 1):
        receipt = commit(target, batch(start, 1))
        assert isinstance(receipt, CommitReceipt)
        numbers[receipt.snapshot_id] = receipt.sequence_number
    table = lake.table()
    merged = next(manifest for manifest in manifests(table) if live_files(manifest) == FANOUT)
    entries = merged.fetch_manifest_entry(table.io, discard_deleted=False)
    assert {entry.status for entry in entries} == {ManifestEntryStatus.EXISTING}
    assert all(
        numbers[entry.snapshot_id or 0] == entry.sequence_number == entry.file_sequence_number for entry in entries
    )
    assert merged.min_sequence_number == 1
    assert merged.sequence_number == FANOUT + 1


def test_a_restarted_worker_merges_what_it_has_to_read(lake: Lake) -> None:
    for start in range(FANOUT + 3):
        commit(lake.target(), batch(start, 1))
    assert len(manifests(lake.table())) < FANOUT
    assert lake.rows() == scanned(lake.table()) == expected(batch(0, FANOUT + 3))


def test_a_merge_that_loses_the_race_is_made_again_on_the_new_head(lake: Lake) -> None:
    plan, rival = Plan(), lake.target()
    target = lake.target(plan=plan)
    second = Partition("orders", 1)
    for start in range(FANOUT):
        commit(target, batch(start, 1))
    plan.next("commit_table", meanwhile(lambda: commit(rival, batch(0, 2, partition=second))))
    commit(target, batch(FANOUT, 1))
    assert lake.rows() == scanned(lake.table()) == expected(batch(0, FANOUT + 1), batch(0, 2, partition=second))
    assert lake.breaks() == []


def test_rows_deleted_by_others_do_not_come_back(lake: Lake) -> None:
    target = lake.target()
    for start in range(10):
        commit(target, batch(start * 2, 2))
    lake.table().delete(EqualTo("offset", 4))
    for start in range(10, 10 + FANOUT * 2):
        commit(target, batch(start * 2, 2))
    rows = expected(batch(0, 4), batch(5, 20 + FANOUT * 4 - 5))
    assert lake.rows() == scanned(lake.table()) == rows


def test_manifests_of_another_spec_are_carried_untouched(lake: Lake) -> None:
    target = lake.target()
    for start in range(5):
        commit(target, batch(start, 1))
    before = {manifest.manifest_path for manifest in manifests(lake.table())}
    lake.table().update_spec().add_field("partition", IdentityTransform(), "part").commit()
    for start in range(5, 5 + FANOUT * 2):
        commit(lake.target(), batch(start, 1))
    after = manifests(lake.table())
    assert before <= {manifest.manifest_path for manifest in after}
    assert len(after) < FANOUT + 7
    assert {manifest.content for manifest in after} == {ManifestContent.DATA}
    assert lake.rows() == scanned(lake.table()) == expected(batch(0, 5 + FANOUT * 2))
