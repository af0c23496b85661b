"""What the SQL catalog remembers of a table is what is in its metadata file."""

from __future__ import annotations

from pathlib import Path

from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.types import StringType

from lakeward.sinks.iceberg.compacting import at_once
from lakeward.testing.lake import Lake, batch, commit


def opened(folder: Path) -> Lake:
    return Lake({"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": str(folder)})


def in_the_file(table: Table) -> object:
    return FromInputFile.table_metadata(table.io.new_input(table.metadata_location))


def test_what_is_remembered_after_commits_compaction_expiry_and_new_columns_is_what_the_file_says(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as lake:
        target = lake.target(rewriter=at_once)
        for number in range(60):
            commit(target, batch(number, 1))
            assert lake.table().metadata == in_the_file(lake.table())
        with lake.table().update_schema() as update:
            update.add_column("note", StringType())
        assert lake.table().metadata == in_the_file(lake.table())
        commit(target, batch(60, 1))
        assert lake.table().metadata == in_the_file(lake.table())


def test_another_writers_commit_is_seen_at_once(tmp_path: Path) -> None:
    with opened(tmp_path) as lake, opened(tmp_path) as rival:
        commit(lake.target(), batch(0, 1))
        commit(rival.target(), batch(1, 1))
        assert len(lake.table().metadata.snapshots) == 2
        assert lake.table().metadata == rival.table().metadata


def test_files_of_tables_with_the_same_settings_go_through_one_client(tmp_path: Path) -> None:
    with opened(tmp_path) as lake:
        commit(lake.target(), batch(0, 1))
        first = lake.table().io
        commit(lake.target(), batch(1, 1))
        assert lake.table().io is first
