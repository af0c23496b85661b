"""Spark reads tables that have evolved, at every snapshot, and evolves them under the writer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers.iceberg_rest import IcebergRest
from servers.spark import CATALOG, Spark
from tests.property.evolving import History, Row
from tests.property.test_evolution import expected, identities, read

from lakeward.outcomes import CommitReceipt
from lakeward.testing.lake import Lake, batch, commit

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture
def lake(iceberg_rest: IcebergRest, fresh_namespace: str) -> Iterator[Lake]:
    with Lake(iceberg_rest.pyiceberg_properties, (fresh_namespace, "orders")) as opened:
        yield opened


def by_spark(spark: Spark, lake: Lake, folder: Path, version: int | None = None) -> list[dict[str, Any]]:
    name = f"{CATALOG}.{'.'.join(lake.name)}"
    spark.sql(f"REFRESH TABLE {name}")
    at = "" if version is None else f" VERSION AS OF {version}"
    spark.export(f"SELECT * FROM {name}{at}", folder)
    rows: list[dict[str, Any]] = pq.ParquetDataset(folder).read().to_pylist()
    return rows


def zoneless(value: Any) -> Any:
    """Times without their zone: what Spark exports has none."""
    match value:
        case dict():
            return {key: zoneless(one) for key, one in value.items()}
        case list():
            return [zoneless(one) for one in value]
        case datetime():
            return value.replace(tzinfo=None)
        case _:
            return value


@pytest.mark.parametrize("seed", range(3))
def test_spark_reads_every_snapshot_of_a_table_that_evolves(
    lake: Lake, spark: Spark, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    history, target = History(chance), lake.target()
    written: list[Row] = []
    held: list[tuple[int, int]] = []
    for turn in range(8):
        if turn:
            history.evolve()
        start, parts = len(written), []
        newest = len(history.versions) - 1
        for version in [newest, chance.randint(0, newest)]:
            rows = history.rows(version, range(len(written), len(written) + 3))
            written += rows
            parts.append(history.table(version, rows))
        receipt = commit(target, replace(batch(start, len(written) - start), parts=parts))
        assert isinstance(receipt, CommitReceipt)
        held.append((receipt.snapshot_id, len(written)))
    table = lake.table()
    everything = [column for version in history.versions for column in version]
    ours = identities(table.schema().as_struct(), everything)
    for snapshot_id, count in held:
        snapshot = table.snapshot_by_id(snapshot_id)
        assert snapshot is not None
        assert snapshot.schema_id is not None
        schema = table.schemas()[snapshot.schema_id]
        want = [expected(row, schema, ours) for row in written[:count]]
        rows = read(by_spark(spark, lake, tmp_path / str(snapshot_id), snapshot_id), schema)
        assert zoneless(rows) == zoneless(want)


def test_spark_changes_columns_under_the_writer(lake: Lake, spark: Spark, tmp_path: Path) -> None:
    target, name = lake.target(), f"{CATALOG}.{'.'.join(lake.name)}"

    def write(start: int, **columns: Any) -> None:
        part = pa.table({"n": [start], **columns})
        assert isinstance(commit(target, replace(batch(start, 1), parts=[part])), CommitReceipt)

    one = pa.array([1], pa.int32())
    write(0, x=one, y=one, z=one)
    spark.sql(f"REFRESH TABLE {name}")
    spark.sql(f"ALTER TABLE {name} RENAME COLUMN x TO renamed")
    write(1, x=one, y=one, z=one)
    spark.sql(f"ALTER TABLE {name} ALTER COLUMN y TYPE bigint")
    write(2, x=one, y=one, z=one)
    spark.sql(f"ALTER TABLE {name} DROP COLUMN z")
    write(3, x=one, y=pa.array([2**40]), z=pa.array(["another"]))
    spark.sql(f"ALTER TABLE {name} ADD COLUMN theirs string FIRST")
    write(4, x=one, new=one)
    columns = ("theirs", "n", "renamed", "y", "z", "new")
    assert sorted(by_spark(spark, lake, tmp_path / "read"), key=lambda row: int(row["n"])) == [
        dict(zip(columns, row, strict=True))
        for row in [
            (None, 0, 1, 1, None, None),
            (None, 1, 1, 1, None, None),
            (None, 2, 1, 1, None, None),
            (None, 3, 1, 2**40, "another", None),
            (None, 4, 1, None, None, 1),
        ]
    ]
    assert lake.breaks() == []
