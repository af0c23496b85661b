"""Data files of older schemas, read as the table has its columns now."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import ManifestEntry

from lakeward.outcomes import CommitReceipt
from lakeward.sinks.iceberg.compaction import Job, rewrite
from lakeward.sinks.iceberg.reading import read_files
from lakeward.testing.lake import Lake, batch, commit


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


def write(lake: Lake, start: int, *fields: pa.Field, rows: list[dict[str, Any]]) -> None:
    part = pa.Table.from_pylist(rows, pa.schema(list(fields)))
    outcome = commit(lake.target(), replace(batch(start, len(rows)), parts=[part]))
    assert isinstance(outcome, CommitReceipt)


def was(name: str, kind: pa.DataType, *aliases: str) -> pa.Field:
    return pa.field(name, kind, True, {b"lakeward.aliases": json.dumps(aliases).encode()})


def entries(lake: Lake) -> list[ManifestEntry]:
    table = lake.table()
    snapshot = table.current_snapshot()
    assert snapshot is not None
    found = [e for m in snapshot.manifests(table.io) for e in m.fetch_manifest_entry(table.io)]
    return sorted(found, key=lambda entry: entry.sequence_number or 0)


def test_files_of_every_schema_are_read_as_the_last_has_them_and_stay_so_when_they_are_rewritten(lake: Lake) -> None:
    item = pa.struct([("a", pa.int32()), pa.field("b", pa.string())])
    write(
        lake,
        0,
        pa.field("n", pa.int64()),
        pa.field("l", pa.list_(item)),
        pa.field("m", pa.map_(pa.string(), item)),
        pa.field("gone", pa.struct([("x", pa.int8())])),
        rows=[
            {"n": 0, "l": None, "m": None, "gone": {"x": 1}},
            {"n": 1, "l": [], "m": [], "gone": None},
            {"n": 2, "l": [None, {"a": 1, "b": "b"}], "m": [("k", None), ("j", {"a": 2, "b": None})], "gone": None},
        ],
    )
    with lake.table().update_schema() as update:
        update.delete_column("gone")
        update.delete_column(("l", "element", "b"))
    later = pa.struct([was("c", pa.int64(), "a")])
    inner = pa.struct([pa.field("required", pa.int8(), nullable=False)])
    fields = [pa.field("n", pa.int64()), pa.field("l", pa.list_(later)), pa.field("s", inner), pa.field("u", pa.uuid())]
    known = uuid.UUID(int=7)
    write(lake, 3, *fields, rows=[{"n": 3, "l": [{"c": 2**40}], "s": {"required": 1}, "u": known}])
    table = lake.table()
    wanted = [
        {"n": 0, "l": None, "m": None, "s": None, "u": None},
        {"n": 1, "l": [], "m": [], "s": None, "u": None},
        {
            "n": 2,
            "l": [None, {"c": 1}],
            "m": [("k", None), ("j", {"a": 2, "b": None})],
            "s": None,
            "u": None,
        },
        {"n": 3, "l": [{"c": 2**40}], "m": None, "s": {"required": 1}, "u": known},
    ]
    files = [entry.data_file for entry in entries(lake)]
    assert [row for part in read_files(table, files) for row in part.to_pylist()] == wanted
    (made,) = rewrite(table, Job(tuple(entries(lake))), "again").files
    assert [row for part in read_files(table, [made]) for row in part.to_pylist()] == wanted


def test_values_of_all_types_are_read_as_they_were_written(lake: Lake) -> None:
    row = {
        "bool": True,
        "int": 1,
        "long": 2**40,
        "float": 0.5,
        "double": 1 / 3,
        "decimal": Decimal("1.20"),
        "date": date(2026, 1, 31),
        "local": datetime(2026, 1, 31, 9, 30, 0, 1),  # noqa: DTZ001 -- without a zone
        "instant": datetime(2026, 1, 31, 9, 30, 0, 1, UTC),
        "text": "text",
        "bytes": b"bytes",
        "fixed": b"12345678",
        "uuid": uuid.UUID(int=1),
    }
    kinds = [pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.decimal128(9, 2), pa.date32()]
    kinds += [pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.string(), pa.binary(), pa.binary(8), pa.uuid()]
    write(lake, 0, *map(pa.field, row, kinds), rows=[row, dict.fromkeys(row)])
    (part,) = read_files(lake.table(), [entry.data_file for entry in entries(lake)])
    assert part.to_pylist() == [row, dict.fromkeys(row)]


def test_a_file_without_field_ids_is_read_by_name(lake: Lake, tmp_path: Path) -> None:
    write(lake, 0, was("new", pa.int64(), "old"), rows=[{"new": 1}])
    imported = tmp_path / "imported.parquet"
    pq.write_table(pa.table({"new": [5]}), imported)
    lake.table().add_files([str(imported)])
    parts = read_files(lake.table(), [entry.data_file for entry in entries(lake)])
    assert [part.to_pylist() for part in parts] == [[{"new": 1}], [{"new": 5}]]
