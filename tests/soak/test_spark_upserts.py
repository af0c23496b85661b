"""Spark reads a table that follows changes, works on it, and the changes go on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from servers.iceberg_rest import IcebergRest
from servers.spark import CATALOG, Spark
from tests.property.mirroring import Mirror, as_counted, mirror

from lakeward.testing.lake import Lake

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

ALL = "map('rewrite-all', 'true')"


def by_spark(spark: Spark, name: str, folder: Path) -> Counter[Any]:
    spark.sql(f"REFRESH TABLE {name}")
    spark.export(f"SELECT * FROM {name}", folder)
    return Counter(map(as_counted, pq.ParquetDataset(folder).read().to_pylist()))


@pytest.mark.parametrize(("kind", "layout", "seed"), [("long", "none", 1), ("pair", "identity", 2), ("text", "day", 3)])
def test_spark_reads_what_changes_made_and_changes_follow_what_spark_makes(
    spark: Spark, iceberg_rest: IcebergRest, fresh_namespace: str, tmp_path: Path, kind: str, layout: str, seed: int
) -> None:
    name = f"{fresh_namespace}.orders"
    table = f"{CATALOG}.{name}"
    with Lake(iceberg_rest.pyiceberg_properties, (fresh_namespace, "orders")) as lake:
        history = mirror(lake, kind, layout, seed)
        works = [
            "DELETE FROM {} WHERE region = 'eu'",
            f"CALL {CATALOG}.system.rewrite_data_files(table => '{name}', options => {ALL})",
            f"CALL {CATALOG}.system.rewrite_manifests('{name}')",
        ]
        for number, work in enumerate(works):
            _changes(history)
            if number == 0:
                for mode in ("delete", "update", "merge"):
                    spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('write.{mode}.mode' = 'merge-on-read')")
            assert by_spark(spark, table, tmp_path / f"before-{number}") == history.counted()
            spark.sql(work.replace("{}", table))
            if "DELETE" in work:
                history.rows = {key: row for key, row in history.rows.items() if row["region"] != "eu"}
                history.done.append("delete")
            history.check()
        _changes(history)
        assert by_spark(spark, table, tmp_path / "after") == history.counted()


def _changes(history: Mirror) -> None:
    for step in ("change", "lost", "change", "change", "maintain", "change"):
        history.play(step)
