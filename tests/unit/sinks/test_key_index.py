"""PROTOCOL C2e, R5: the index of keys says what the head holds, whoever made it so."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFileContent
from pyiceberg.table import Table
from pyiceberg.transforms import BucketTransform, IdentityTransform
from pyiceberg.types import LongType
from tests.property.row_deltas import (
    ORDERS,
    alive,
    check,
    commit,
    delete_files,
    deleting,
    keys_of,
    laid,
    row_delta,
    rows,
    set_head,
    where,
)

from lakeward.errors import OperatorError, StorageError, UnreachableError
from lakeward.keys import hashes
from lakeward.sinks.iceberg.schema import conform
from lakeward.sinks.iceberg.upsert import index_rows
from lakeward.sinks.iceberg.upsert.index import Arrived, KeyIndex


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=str(tmp_path))
    opened.create_namespace("shop")
    yield opened
    opened.close()


@pytest.fixture
def table(catalog: Catalog) -> Table:
    return catalog.create_table("shop.orders", ORDERS, properties={"format-version": "2"})


def built(table: Table, *key: str, **settings: Any) -> KeyIndex:
    index = KeyIndex(key or ("id",), **settings)
    index.advance(table)
    return index


def test_an_empty_table_holds_no_key(table: Table) -> None:
    index = built(table)
    assert where(index, [(1,)]) == {}
    assert index.at is None
    index.advance(table)
    table.append(rows(1, 2))
    index.advance(table)
    check(index, table)


def test_an_index_is_not_asked_before_it_is_brought_to_a_head() -> None:
    with pytest.raises(ValueError, match="before it was brought to a head"):
        KeyIndex(("id",)).find(keys_of(1))


def test_an_index_from_nothing_knows_every_row_that_is_not_deleted(table: Table) -> None:
    table.append(rows(*range(50)))
    table.append(rows(*range(50, 90)))
    path = next(iter(alive(table, (2,))[1]))
    row_delta(table, [], [deleting(table, {path: [0, 3, 39, 77]}, told=True)])
    check(built(table), table)


def test_our_own_commits_are_followed_without_reading_anything(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.append(rows(*range(30)))
    index = built(table)
    for turn in range(12):
        commit(index, table, [turn, turn + 5, 40 + turn], [turn + 20])
        check(index, table)
    monkeypatch.setattr(type(table.io), "new_input", None)  # what cannot be read was not read
    index.advance(table)


def test_a_file_of_which_our_commit_deletes_all_rows_is_gone(table: Table) -> None:
    table.append(rows(1, 2))
    table.append(rows(3))
    index = built(table)
    commit(index, table, [2, 1])
    assert len(alive(table, (2,))[1]) == 2
    check(index, table)
    commit(index, table, [], [1, 2, 3])
    check(index, table)


def test_a_rivals_commits_are_followed(table: Table) -> None:
    table.append(rows(*range(30)))
    index, rivals = built(table), built(table)
    for turn in range(6):
        commit(rivals, table, [turn, 50 + turn], [turn + 9])
        if turn % 2:
            index.advance(table)
            check(index, table)
            commit(index, table, [turn + 100, turn], [50 + turn])
            check(index, table)


def test_what_landed_below_a_rivals_commit_is_found_by_comparing(table: Table) -> None:
    table.append(rows(*range(10)))
    index, rivals = built(table), built(table)
    commit(rivals, table, [3, 30])
    commit(rivals, table, [4, 31])
    index.landed(table, [], [(0, np.array([5]))])  # not what the head did: somebody else has been there
    index.advance(table)
    check(index, table)


@pytest.mark.parametrize("told", [True, False])
def test_foreign_delete_files_count_all_of_them(table: Table, *, told: bool) -> None:
    table.append(rows(*range(20)))
    table.append(rows(*range(20, 40)))
    one, other = alive(table, (2,))[1]
    index = built(table)
    row_delta(table, [], [deleting(table, {one: [1, 2]}, told=told), deleting(table, {one: [2, 3], other: [0]})])
    index.advance(table)
    check(index, table)
    row_delta(table, [laid(table, rows(2, 22))[0].file], [deleting(table, {other: [2], one: [17]}, told=told)])
    check(built(table), table)
    index.advance(table)
    check(index, table)


def test_deleted_rows_live_again_when_their_delete_file_goes(table: Table) -> None:
    table.append(rows(*range(20)))
    (path,) = alive(table, (2,))[1]
    row_delta(table, [], [deleting(table, {path: [1, 2]}, told=True), deleting(table, {path: [2, 3]})])
    index = built(table)
    for file in delete_files(table):
        row_delta(table, dropped=[file.file_path])
        index.advance(table)
        check(index, table)


def test_a_delete_file_says_nothing_of_files_that_came_later(table: Table) -> None:
    table.append(rows(1, 2, 3))
    late = laid(table, rows(4, 5, 6))[0].file
    row_delta(table, [], [deleting(table, {late.file_path: [0, 1]}), deleting(table, {late.file_path: [2]}, told=True)])
    index = built(table)
    row_delta(table, [late])
    index.advance(table)
    check(index, table)
    assert len(where(index, [(4,), (5,), (6,)])) == 3


def test_a_delete_file_of_several_files_says_nothing_of_other_partitions(catalog: Catalog) -> None:
    table = catalog.create_table("shop.parts", ORDERS, properties={"format-version": "2"})
    with table.update_spec() as change:
        change.add_field("part", IdentityTransform(), "part")
    first, second = laid(table, rows(1, 2, part=1)), laid(table, rows(3, 4, part=2))
    row_delta(table, [first[0].file, second[0].file])
    there = {first[0].file.file_path: [0], second[0].file.file_path: [0]}
    row_delta(table, [], [deleting(table, there, like=first[0].file)])
    index = built(table)
    assert set(where(index, [(1,), (2,), (3,), (4,)])) == {(2,), (3,), (4,)}


def test_foreign_rewrites_are_followed(table: Table) -> None:
    table.append(rows(*range(30)))
    table.append(rows(*range(30, 60)))
    index = built(table)
    commit(index, table, [3, 33], [4, 34])
    table.delete("id > 50 or id = 7")  # copies what stays to new files
    index.advance(table)
    check(index, table)
    table.overwrite(rows(*range(10, 25)))
    index.advance(table)
    check(index, table)
    commit(index, table, [10, 11, 12])
    check(index, table)


def test_a_head_that_goes_back_takes_the_index_with_it(table: Table) -> None:
    table.append(rows(*range(20)))
    index = built(table)
    heads = []
    for turn in range(5):
        heads.append(table.metadata.current_snapshot_id)
        commit(index, table, [turn, turn + 30], [turn + 10])
    last = table.metadata.current_snapshot_id
    for head in (*reversed(heads), heads[3], last, heads[0], last):
        set_head(table, head)
        index.advance(table)
        check(index, table)
    commit(index, table, [0, 1, 2], [10, 30])
    check(index, table)


def test_an_index_at_an_expired_head_is_brought_forward(table: Table) -> None:
    table.append(rows(*range(20)))
    index, rivals = built(table), built(table)
    commit(rivals, table, [1, 2, 50], [3])
    commit(rivals, table, [1, 51], [4])
    head = table.metadata.current_snapshot_id
    for snapshot in [one.snapshot_id for one in table.metadata.snapshots if one.snapshot_id != head]:
        table.maintenance.expire_snapshots().by_id(snapshot).commit()
    index.advance(table.refresh())
    check(index, table)


def test_a_renamed_key_is_read_from_files_by_its_id(table: Table) -> None:
    table.append(rows(*range(20)))
    index = built(table)
    with table.update_schema() as change:
        change.rename_column("id", "number")
        change.rename_column("v", "id")
    row_delta(table, [laid(table, rows(20, 21).rename_columns(["id", "number", "part"]))[0].file])
    index.key = ("number",)
    index.advance(table)
    check(index, table)
    check(built(table, "number"), table)


def test_another_column_of_the_keys_name_is_another_key(table: Table) -> None:
    table.append(rows(1, 2, 3))
    index = built(table, "part", "id")
    with table.update_schema(allow_incompatible_changes=True) as change:
        change.delete_column("part")
    with table.update_schema() as change:
        change.add_column("part", LongType())
    with pytest.raises(OperatorError, match="rows without a key"):
        index.advance(table)


def test_keys_of_a_widened_column_are_the_same_keys(catalog: Catalog) -> None:
    schema = pa.schema([("v", pa.string()), ("id", pa.int32())])
    table = catalog.create_table("shop.narrow", schema, properties={"format-version": "2"})
    table.append(pa.table({"v": ["a", "b"], "id": [1, 2]}, schema))
    index = built(table)
    with table.update_schema() as change:
        change.update_column("id", LongType())
    table.append(pa.table({"v": ["c"], "id": [2**40]}))
    index.advance(table)
    check(index, table, others=[1, 2, 3, 2**40])
    check(built(table), table)


def test_files_of_another_partition_spec_are_read_too(table: Table) -> None:
    table.append(rows(*range(20)))
    index = built(table)
    with table.update_spec() as change:
        change.add_field("id", BucketTransform(3), "bucket")
    commit(index, table, [*range(15, 40)], [1])
    check(index, table)
    commit(index, table, [3, 16, 25], [2, 17, 26])
    check(index, table)
    check(built(table), table)


def test_keys_of_several_columns_and_types(catalog: Catalog) -> None:
    schema = pa.schema(
        [("v", pa.float64()), ("t", pa.string()), ("d", pa.decimal128(12, 2)), ("at", pa.timestamp("us"))]
    )
    table = catalog.create_table("shop.wide", schema, properties={"format-version": "2"})
    made = [{"v": 0.5, "t": f"t{n % 4}", "d": n // 4, "at": n % 2} for n in range(40)]
    table.append(pa.Table.from_pylist(made, schema))
    check(built(table, "d", "at", "t"), table, key=(3, 4, 2))


MOMENT = dt.datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.bool_(), [True, False]),
        (pa.int32(), [-1, 0, 2**31 - 1]),
        (pa.float32(), [0.1, -0.0, float("nan")]),
        (pa.float64(), [0.1, -0.0, float("inf")]),
        (pa.decimal128(4, 2), [Decimal("1.25"), Decimal("-99.99")]),
        (pa.decimal128(18, 0), [Decimal(10**17), Decimal(-1)]),
        (pa.decimal128(38, 10), [Decimal("1e27"), Decimal("-0.0000000001")]),
        (pa.date32(), [MOMENT.date(), dt.date(1, 1, 1)]),
        (pa.time64("us"), [MOMENT.time(), dt.time(0)]),
        (pa.timestamp("us"), [MOMENT.replace(tzinfo=None), -(2**62)]),
        (pa.timestamp("us", "UTC"), [MOMENT]),
        (pa.string(), ["", "é", "a" * 1000]),
        (pa.binary(), [b"", b"\0", b"\xff" * 20]),
        (pa.binary(5), [b"12345", bytes(5)]),
        (pa.uuid(), [bytes(range(16)), b"\xff" * 16]),
    ],
)
def test_a_key_of_any_type_is_found_in_files_by_the_hash_of_the_row_that_was_written(
    catalog: Catalog, kind: pa.DataType, values: list[Any]
) -> None:
    table = catalog.create_table("shop.kinds", pa.schema([("k", kind)]), properties={"format-version": "2"})
    written = conform(pa.table({"k": pa.array(values, kind)}), table.schema())
    row_delta(table, [one.file for one in laid(table, written)])
    numbers, positions = built(table, "k").find(hashes(written))
    assert numbers.tolist() == [0] * len(values)
    assert positions.tolist() == list(range(len(values)))


def test_imported_files_without_field_ids_are_read_by_name(table: Table, tmp_path: Path) -> None:
    table.append(rows(1, 2))
    pq.write_table(rows(3, 4), tmp_path / "imported.parquet")
    table.add_files([str(tmp_path / "imported.parquet")])
    index = built(table)
    assert set(where(index, [(n,) for n in range(6)])) == {(1,), (2,), (3,), (4,)}


def test_another_table_of_the_name_is_read_anew(table: Table, catalog: Catalog) -> None:
    table.append(rows(1, 2))
    index = built(table)
    catalog.drop_table("shop.orders")
    other = catalog.create_table("shop.orders", ORDERS, properties={"format-version": "2"})
    other.append(rows(7))
    index.advance(other)
    check(index, other)


def test_two_rows_of_one_key_are_never_chosen_from(table: Table) -> None:
    table.append(rows(1, 2, 3))
    index = built(table)
    table.append(rows(2, 3, 4))
    with pytest.raises(OperatorError) as caught:
        index.advance(table)
    assert "shop.orders, 2 rows" in caught.value.what
    assert 'SELECT "id", count(*) FROM shop.orders GROUP BY "id" HAVING count(*) > 1' in caught.value.way_out
    table.delete("id in (2, 3)")
    index.advance(table)
    check(index, table)


def test_two_rows_of_one_key_are_seen_also_where_keys_lie_on_disk(table: Table, tmp_path: Path) -> None:
    table.append(rows(1, 2, 3))
    table.append(rows(3, 4))
    with pytest.raises(OperatorError, match=r"shop\.orders, 1 rows"):
        built(table, limit=0, folder=tmp_path)


def test_a_row_without_a_key_stops_the_table(table: Table) -> None:
    table.append(rows(1, 2))
    table.append(pa.table({"v": ["a", "b"], "id": pa.array([None, 5], pa.int64()), "part": [0, 0]}, ORDERS))
    with pytest.raises(OperatorError, match=r"rows without a key \(id\): 1 of them"):
        built(table)


def test_files_that_lack_the_key_stop_the_table(table: Table) -> None:
    table.append(rows(1, 2))
    with table.update_schema() as change:
        change.add_column("number", LongType())
    with pytest.raises(OperatorError, match=r"rows without a key \(number\): 2 of them"):
        built(table, "number")


def test_a_key_that_the_table_lacks_is_told(table: Table) -> None:
    with pytest.raises(OperatorError, match='has no column "number"'):
        built(table, "number")


def test_equality_deletes_stop_the_table(table: Table) -> None:
    table.append(rows(1, 2))
    file = deleting(table, {"x": [1]})
    file[0] = DataFileContent.EQUALITY_DELETES
    row_delta(table, [], [file])
    with pytest.raises(OperatorError, match="has equality deletes"):
        built(table)


def test_a_file_that_is_listed_twice_stops_the_table(table: Table) -> None:
    file = laid(table, rows(1, 2))[0].file
    row_delta(table, [file])
    row_delta(table, [file])
    with pytest.raises(OperatorError, match="twice"):
        built(table)


def test_a_file_of_other_rows_than_it_should_hold_stops_the_table(table: Table) -> None:
    table.append(rows(1, 2))
    (path,) = alive(table, (2,))[1]
    pq.write_table(rows(1, 2, 3), path.removeprefix("file://"))
    with pytest.raises(StorageError, match="holds 3 rows, and should hold 2"):
        built(table)


def test_an_index_that_could_not_be_read_is_read_again(table: Table) -> None:
    table.append(rows(1, 2))
    index = built(table)
    table.append(rows(3, 4))
    lost = next(
        Path(path.removeprefix("file://"))
        for _, (path, _) in alive(table, (2,))[0].items()
        if path != index.file(0).file_path
    )
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(UnreachableError):
        index.advance(table)
    assert index.at is None
    with pytest.raises(ValueError, match="before it was brought to a head"):
        index.find(keys_of(1))
    lost.write_bytes(content)
    index.advance(table)
    check(index, table)


@pytest.mark.parametrize("which", [0, 1])
def test_deletes_of_which_half_were_read_are_forgotten_with_their_head(table: Table, which: int) -> None:
    table.append(rows(*range(10)))
    table.append(rows(*range(10, 20)))
    head = table.metadata.current_snapshot_id
    index = built(table)
    row_delta(table, [], [deleting(table, {path: [3]}, told=True) for path in alive(table, (2,))[1]])
    Path(delete_files(table)[which].file_path.removeprefix("file://")).unlink()
    with pytest.raises(UnreachableError):
        index.advance(table)
    set_head(table, head)
    index.advance(table)
    check(index, table)


def test_a_truncated_table_holds_what_came_with_the_truncation(table: Table) -> None:
    table.append(rows(*range(20)))
    index = built(table)
    came = laid(table, rows(3, 40))
    row_delta(table, [one.file for one in came], dropped=list(alive(table, (2,))[1]))
    index.emptied(table)
    index.landed(table, [Arrived(came[0].file, keys_of(3, 40))], [])
    check(index, table)
    index.advance(table)
    commit(index, table, [40, 41], [3])
    check(index, table)


def test_what_does_not_fit_into_memory_lies_in_files_that_nobody_sees(table: Table, tmp_path: Path) -> None:
    folder = tmp_path / "spilled"
    folder.mkdir()
    table.append(rows(*range(150)))
    index = built(table, limit=0, folder=folder)
    assert index.in_files > 0
    assert index.in_memory < 1000
    assert list(folder.iterdir()) == []
    for turn in range(3):
        commit(index, table, [turn, 150 + turn], [10 + turn])
        check(index, table)
    index.forget()
    assert index.in_files == 0


def test_numbers_of_rows_that_are_gone_are_used_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_rows, "_SPARE", 0)
    table.append(rows(*range(40)))
    index = built(table)
    for turn in range(10):
        commit(index, table, range(turn, turn + 20), [turn + 100])
        if turn % 5 == 4:
            table.overwrite(table.scan().to_arrow())
            index.advance(table)
        check(index, table)
        assert not index._rows.sparse
    assert max(index._rows) < 6  # of 13 files that there have been
