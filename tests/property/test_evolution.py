"""Random schemas that change at random, their writers interleaved; oracle: dicts, told from the columns' identities."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.manifest import ManifestEntry
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import IcebergType, ListType, MapType, StructType
from tests.property.evolving import Column, History, Items, Row, Struct

from lakeward.engine import Engine
from lakeward.outcomes import Batch, CommitReceipt
from lakeward.positions import Partition
from lakeward.sinks.iceberg.compaction import Job, rewrite
from lakeward.sinks.iceberg.reading import read_files
from lakeward.testing.lake import Lake, batch

Numbers = dict[int, int]
"""Field id to `Column.number`."""


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


def rows_batch(worker: int, start: int, parts: list[Any]) -> Batch:
    return replace(batch(start, sum(map(len, parts)), partition=Partition("orders", worker)), parts=parts)


def identities(kind: IcebergType, columns: list[Column]) -> Numbers:
    """Which of ``columns`` each field is: every name that a column ever had is its own."""
    found: Numbers = {}
    by_name = {name: column for column in columns for name in column.names}
    if isinstance(kind, StructType):
        for field in kind.fields:
            column = by_name[field.name]
            found[field.field_id] = column.number
            found |= identities(field.field_type, inner([c.kind for c in columns if c.number == column.number]))
    elif isinstance(kind, (ListType, MapType)):
        found |= identities(kind.element_type if isinstance(kind, ListType) else kind.value_type, columns)
    return found


def inner(kinds: list[Any]) -> list[Column]:
    """All columns inside, of all versions."""
    found: list[Column] = []
    for kind in kinds:
        if isinstance(kind, Struct):
            found += kind.columns
        elif isinstance(kind, Items):
            found += inner([kind.item])
    return found


def expected(row: Row, schema: Schema, numbers: Numbers) -> dict[str, Any]:
    return {f.name: told(row.get(numbers[f.field_id]), f.field_type, numbers) for f in schema.fields}


def told(value: Any, kind: IcebergType, numbers: Numbers) -> Any:
    if value is None:
        return None
    if isinstance(kind, StructType):
        return {f.name: told(value.get(numbers[f.field_id]), f.field_type, numbers) for f in kind.fields}
    if isinstance(kind, ListType):
        return [told(one, kind.element_type, numbers) for one in value]
    if isinstance(kind, MapType):
        return {key: told(one, kind.value_type, numbers) for key, one in value.items()}
    return value


def plain(value: Any, kind: IcebergType) -> Any:
    """What a reader gives, maps as dicts."""
    if value is None:
        return None
    if isinstance(kind, StructType):
        return {f.name: plain(value[f.name], f.field_type) for f in kind.fields}
    if isinstance(kind, ListType):
        return [plain(one, kind.element_type) for one in value]
    if isinstance(kind, MapType):
        return {key: plain(one, kind.value_type) for key, one in dict(value).items()}
    return value


def read(rows: list[dict[str, Any]], schema: Schema) -> list[dict[str, Any]]:
    return sorted(({f.name: plain(row[f.name], f.field_type) for f in schema.fields} for row in rows), key=key_of)


def blurred(value: Any, kind: IcebergType) -> Any:
    """Null lists and maps of structs as empty ones: PyIceberg reads them so where a file has the column."""
    match value, kind:
        case None, ListType(element_type=StructType()):
            return []
        case None, MapType(value_type=StructType()):
            return {}
        case None, _:
            return None
        case _, StructType():
            return {f.name: blurred(value[f.name], f.field_type) for f in kind.fields}
        case _, ListType():
            return [blurred(one, kind.element_type) for one in value]
        case _, MapType():
            return {key: blurred(one, kind.value_type) for key, one in value.items()}
        case _:
            return value


def key_of(row: dict[str, Any]) -> int:
    key: int = row["n"]
    return key


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_order_of_writers_each_snapshot_says_what_was_written(lake: Lake, seed: int) -> None:
    chance = random.Random(seed)
    history = History(chance)
    workers = [lake.target(), lake.target()]
    written: list[Row] = []
    reached = [0, 0]
    held: list[tuple[int, list[Row]]] = []
    for turn in range(12):
        if turn:
            history.evolve()
        worker = chance.randrange(2)  # each knows the table as it left it
        if chance.random() < 0.2:
            workers[worker] = lake.target()  # a restart forgets everything but the table
        target, parts = workers[worker], []
        newest = len(history.versions) - 1
        for version in [newest, *(chance.randint(0, newest) for _ in range(3))]:
            rows = history.rows(version, range(len(written), len(written) + chance.randint(1, 4)))
            written += rows
            parts.append(history.table(version, rows))
        chance.shuffle(parts)
        made = rows_batch(worker, reached[worker], parts)
        receipt = target.commit(target.stage(made))
        assert isinstance(receipt, CommitReceipt)
        reached[worker] += made.account.rows
        held.append((receipt.snapshot_id, list(written)))
    table = lake.table()
    everything = [column for version in history.versions for column in version]
    numbers = identities(table.schema().as_struct(), everything)
    assert len(set(numbers.values())) == len(numbers), "a column is there twice"
    engine = Engine({})
    engine.add(table)
    for snapshot_id, rows in held:
        snapshot = table.snapshot_by_id(snapshot_id)
        assert snapshot is not None
        assert snapshot.schema_id is not None
        schema = table.schemas()[snapshot.schema_id]
        want = [expected(row, schema, numbers) for row in rows]
        scanned = table.scan(snapshot_id=snapshot_id).to_arrow().to_pylist()
        struct = schema.as_struct()
        assert [blurred(row, struct) for row in read(scanned, schema)] == [blurred(row, struct) for row in want]
        location = table.metadata_location.removeprefix("file://")
        sql = f"SELECT * FROM iceberg_scan('{location}', snapshot_from_id = {snapshot_id})"
        names, values = engine.rows(sql)
        assert read([dict(zip(names, row, strict=True)) for row in values], schema) == want
    made = rewrite(table, Job(tuple(live(table))), "rewritten").files
    rewritten = [row for part in read_files(table, made) for row in part.to_pylist()]
    assert read(rewritten, table.schema()) == [expected(row, table.schema(), numbers) for row in written]


def live(table: Table) -> list[ManifestEntry]:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return [entry for manifest in snapshot.manifests(table.io) for entry in manifest.fetch_manifest_entry(table.io)]
