"""Batches as data files: what is in them, what is known of them, how they are laid out."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from lakeward.errors import ConfigurationError, SchemaMismatchError
from lakeward.layout import Layout
from lakeward.sinks.iceberg.evolution import iceberg_schema
from lakeward.sinks.iceberg.layout import partition_spec, sort_order
from lakeward.sinks.iceberg.staging import Stager, discard

UTC = dt.UTC
TRADES = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("price", pa.decimal128(18, 6)),
        pa.field("number", pa.int64()),
    ]
)
Make = Callable[..., Table]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    catalog = SqlCatalog("lake", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/lake")
    catalog.create_namespace("db")

    def table(schema: pa.Schema, by: tuple[str, ...] = (), sort: tuple[str, ...] = (), **properties: str) -> Table:
        columns, layout = iceberg_schema(schema), Layout.parse(by, sort)
        return catalog.create_table(
            f"db.t{len(catalog.list_tables('db'))}",
            columns,
            partition_spec=partition_spec(layout, columns),
            sort_order=sort_order(layout, columns),
            properties={name.replace("_", "-"): value for name, value in properties.items()},
        )

    yield table
    catalog.close()


def trades(*rows: tuple[Any, ...]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(TRADES.names, row, strict=True)) for row in rows], TRADES)


def trade(symbol: str, day: int, number: int | None) -> tuple[Any, ...]:
    return (symbol, dt.datetime(1970, 1, 1, 12, tzinfo=UTC) + dt.timedelta(days=day), Decimal("1.000001"), number)


def local(file: DataFile) -> str:
    return file.file_path.removeprefix("file://")


def read(files: list[DataFile]) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.ParquetFile(local(file)).read() for file in files]).to_pylist()


def test_every_part_is_in_the_files_whatever_its_arrow_schema(make):
    table = make(TRADES)
    other = pa.table({"number": pa.array([3], pa.int32()), "symbol": pa.array(["C"], pa.large_string())})
    files = Stager(table).stage([trades(trade("A", 0, 1)), TRADES.empty_table(), other, trades(trade("B", 1, 2))], "c1")
    assert [(row["symbol"], row["number"]) for row in read(files)] == [("A", 1), ("C", 3), ("B", 2)]
    assert sum(file.record_count for file in files) == 3


def test_no_rows_make_no_files(make):
    assert Stager(make(TRADES)).stage([], "c1") == []
    assert Stager(make(TRADES)).stage([TRADES.empty_table()], "c1") == []


def test_files_carry_the_commit_id_and_lie_in_their_partitions_folder(make):
    table = make(TRADES, by=("day(at)", "symbol as who"))
    files = Stager(table).stage([trades(trade("A/B", 0, 1), trade("ü", -1, 2))], "c-7")
    names = {unquote_plus(file.file_path.removeprefix(f"{table.location()}/data/")) for file in files}
    assert names == {
        "at_day=1970-01-01/who=A/B/c-7-00000-000.parquet",
        "at_day=1969-12-31/who=ü/c-7-00001-000.parquet",
    }
    assert {(file.partition[0], file.partition[1]) for file in files} == {(0, "A/B"), (-1, "ü")}
    assert {file.spec_id for file in files} == {table.spec().spec_id}


def test_a_table_can_be_partitioned_twice_by_one_column(make):
    files = Stager(make(TRADES, by=("symbol", "bucket(4, symbol)"))).stage([trades(trade("A", 0, 1))], "c1")
    assert [tuple(file.partition[i] for i in (0, 1)) for file in files] == [("A", 2)]


def test_committed_by_pyiceberg_the_files_read_back_as_the_rows(make):
    table = make(TRADES, by=("day(at)", "bucket(3, symbol)"), sort=("number",))
    rows = trades(*(trade(f"S{number % 5}", number % 3 - 1, number) for number in range(50)))
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        for file in Stager(table).stage([rows], "c1"):
            append.append_data_file(file)
    assert sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["number"]) == rows.to_pylist()
    some = table.scan("symbol = 'S1' and at < '1970-01-01T00:00:00+00:00'").to_arrow()
    assert sorted(some["number"].to_pylist()) == [n for n in range(50) if n % 5 == 1 and n % 3 == 0]


def test_rows_are_sorted_inside_each_file_and_the_order_is_recorded(make):
    table = make(TRADES, by=("day(at)",), sort=("number desc nulls first", "symbol"))
    numbers = [3, None, 1, 2, 2, None]
    rows = trades(*(trade("ZAZBAB"[i], i % 2, number) for i, number in enumerate(numbers)))
    files = Stager(table).stage([rows], "c1")
    assert [[(row["number"], row["symbol"]) for row in read([file])] for file in files] == [
        [(3, "Z"), (2, "A"), (1, "Z")],
        [(None, "A"), (None, "B"), (2, "B")],
    ]
    assert {file.sort_order_id for file in files} == {table.sort_order().order_id} == {1}
    recorded = pq.ParquetFile(local(files[0])).metadata.row_group(0).sorting_columns
    assert list(recorded) == [
        pq.SortingColumn(3, descending=True, nulls_first=True),
        pq.SortingColumn(0, nulls_first=True),
    ]


def test_an_unsorted_table_keeps_the_order_of_arrival_and_claims_none(make):
    files = Stager(make(TRADES)).stage([trades(*(trade("A", 0, number) for number in (3, 1, 2)))], "c1")
    assert [row["number"] for row in read(files)] == [3, 1, 2]
    assert files[0].sort_order_id is None
    assert not pq.ParquetFile(local(files[0])).metadata.row_group(0).sorting_columns


WIDE = pa.schema(
    [
        ("flag", pa.bool_()),
        ("small", pa.int32()),
        ("big", pa.int64()),
        ("single", pa.float32()),
        ("double", pa.float64()),
        ("cents", pa.decimal128(9, 2)),
        ("price", pa.decimal128(18, 6)),
        ("huge", pa.decimal128(38, 10)),
        ("text", pa.string()),
        ("blob", pa.binary()),
        ("fixed", pa.binary(3)),
        ("day", pa.date32()),
        ("clock", pa.time64("us")),
        ("local", pa.timestamp("us")),
        ("instant", pa.timestamp("us", "UTC")),
        ("nested", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])),
        ("list", pa.list_(pa.decimal128(18, 6))),
    ]
)
FIRST: dict[str, Any] = {
    "flag": False,
    "small": -(2**31),
    "big": -(2**63),
    "single": -1.5,
    "double": -5e-324,
    "cents": Decimal("-9999999.99"),
    "price": Decimal("-999999999999.999999"),
    "huge": Decimal("-9999999999999999999999999999.9999999999"),
    "text": "",
    "blob": b"",
    "fixed": b"\0\0\0",
    "day": dt.date(1, 1, 1),
    "clock": dt.time(0),
    "local": dt.datetime(1, 1, 1),  # noqa: DTZ001 -- a timestamp without zone
    "instant": dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
    "nested": {"a": None, "b": ["", None, "日本"]},
    "list": [Decimal("0.000001"), None],
}
LAST: dict[str, Any] = {
    "flag": True,
    "small": 2**31 - 1,
    "big": 2**63 - 1,
    "single": 3.25,
    "double": 1.7976931348623157e308,
    "cents": Decimal("9999999.99"),
    "price": Decimal("999999999999.999999"),
    "huge": Decimal("9999999999999999999999999999.9999999999"),
    "text": "😀 Füße, longer than sixteen characters",
    "blob": bytes(range(256)),
    "fixed": b"\xff\xff\xff",
    "day": dt.date(9999, 12, 31),
    "clock": dt.time(23, 59, 59, 999_999),
    "local": dt.datetime(9999, 12, 31, 23, 59, 59, 999_999),  # noqa: DTZ001
    "instant": dt.datetime(2026, 6, 30, 1, 2, 3, 4, UTC),
    "nested": {"a": 2**63 - 1, "b": []},
    "list": [],
}
NONE = dict.fromkeys(WIDE.names)


def test_edge_values_read_back_equal_by_readers_that_share_no_code(make):
    files = Stager(make(WIDE)).stage([pa.Table.from_pylist([FIRST, NONE, LAST], WIDE)], "c1")
    assert read(files) == [FIRST, NONE, LAST]
    path = local(files[0])
    with duckdb.connect() as engine:
        columns = "* replace (epoch_us(instant) as instant)"
        found = engine.execute(f"select {columns} from read_parquet(?, file_row_number => true)", [path]).fetchall()
        names = [column[0] for column in engine.description]
        types = dict(engine.execute("select name, logical_type from parquet_schema(?)", [path]).fetchall())
    rows = [dict(zip(names, row, strict=True)) for row in sorted(found, key=lambda row: row[-1])]
    for row in rows:
        assert row.pop("file_row_number") >= 0
        row["instant"] = row["instant"] and dt.datetime.fromtimestamp(0, UTC) + dt.timedelta(
            microseconds=row["instant"]
        )
    assert rows == [FIRST, NONE, LAST]
    assert "isAdjustedToUTC=1" in types["instant"]
    assert "isAdjustedToUTC=0" in types["local"]
    frame = pl.read_parquet(path, use_pyarrow=False).drop("local", "day")
    assert frame.to_dicts() == [{n: row[n] for n in frame.columns} for row in (FIRST, NONE, LAST)]


def test_the_parquet_types_are_those_that_java_readers_expect(make):
    files = Stager(make(WIDE)).stage([pa.Table.from_pylist([FIRST], WIDE)], "c1")
    file = pq.ParquetFile(local(files[0]))
    physical = {file.schema.column(i).path: file.schema.column(i).physical_type for i in range(len(file.schema))}
    wanted = {"cents": "INT32", "price": "INT64", "huge": "FIXED_LEN_BYTE_ARRAY", "instant": "INT64", "clock": "INT64"}
    assert wanted.items() <= physical.items()
    assert {"nested.b.list.element", "list.list.element"} <= physical.keys()
    assert b"ARROW:schema" not in (file.metadata.metadata or {})
    assert [field.metadata[b"PARQUET:field_id"] for field in file.schema_arrow] == [
        str(number).encode() for number in range(1, len(WIDE) + 1)
    ]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.metadata.row_group(0).column(0).has_offset_index


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"write.metadata.metrics.default": "counts"},
        {"write.metadata.metrics.default": "full", "write.metadata.metrics.column.price": "none"},
        {"write.metadata.metrics.column.text": "truncate(2)"},
    ],
    ids=["default", "counts", "full", "truncate"],
)
def test_statistics_are_those_that_pyiceberg_reads_from_the_file(make, properties):
    table = make(WIDE, **properties)
    (file,) = Stager(table).stage([pa.Table.from_pylist([LAST, NONE, FIRST], WIDE)], "c1")
    theirs = parquet_file_to_data_file(table.io, table.metadata, file.file_path)
    for name in (
        "record_count",
        "file_size_in_bytes",
        "column_sizes",
        "value_counts",
        "null_value_counts",
        "nan_value_counts",
        "lower_bounds",
        "upper_bounds",
        "split_offsets",
        "content",
        "file_format",
    ):
        assert getattr(file, name) == getattr(theirs, name), name


def test_bounds_that_python_has_no_date_for_are_left_out_and_the_others_kept(make):
    far = pa.table({"at": pa.array([2**61], pa.int64()).cast(pa.timestamp("us")), "n": pa.array([5])})
    (file,) = Stager(make(far.schema, by=("day(at)",))).stage([far], "c1")
    assert file.lower_bounds.keys() == {2}
    assert file.null_value_counts == {1: 0, 2: 0}
    assert file.partition[0] == 2**61 // 86_400_000_000
    assert f"at_day={2**61 // 86_400_000_000}/" in file.file_path


def test_files_are_closed_at_the_target_size(make):
    rows = pa.table({"n": pa.array([(n * 2654435761) % 2**61 for n in range(200_000)])})
    table = make(rows.schema, sort=("n",), **{"write.target-file-size-bytes": str(256 * 1024)})
    files = Stager(table).stage([rows], "c1")
    assert len(files) > 3
    assert [file.file_path[-11:-8] for file in files] == [f"{n:03d}" for n in range(len(files))]
    assert all(file.file_size_in_bytes < 640 * 1024 for file in files)
    assert [row["n"] for row in read(files)] == sorted(rows["n"].to_pylist())


def test_row_groups_keep_to_the_tables_limits(make):
    rows = pa.table({"n": pa.array(range(1000))})
    by_rows = make(rows.schema, **{"write.parquet.row-group-limit": "300"})
    by_bytes = make(rows.schema, **{"write.parquet.row-group-size-bytes": "4000"})
    sizes = []
    for table in (by_rows, by_bytes):
        (file,) = Stager(table).stage([rows], "c1")
        metadata = pq.ParquetFile(local(file)).metadata
        sizes.append([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
        assert len(file.split_offsets) == metadata.num_row_groups
    assert sizes == [[300, 300, 300, 100], [500, 500]]


def test_uuids_have_no_bounds_because_java_readers_order_them_otherwise(make):
    values = [uuid.UUID(int=2**127 + 1), None, uuid.UUID(int=5)]
    stored = pa.array([value and value.bytes for value in values], pa.binary(16))
    rows = pa.table({"id": pa.ExtensionArray.from_storage(pa.uuid(), stored)})
    (file,) = Stager(make(rows.schema)).stage([rows], "c1")
    assert (file.lower_bounds, file.upper_bounds, file.value_counts) == ({}, {}, {1: 3})
    assert pq.ParquetFile(local(file)).metadata.row_group(0).column(0).statistics is None
    with duckdb.connect() as engine:
        assert engine.execute("select id from read_parquet(?)", [local(file)]).fetchall() == [(v,) for v in values]


def test_only_repetitive_columns_get_a_dictionary(make):
    rows = pa.table({"unique": pa.array(range(20_000)), "same": pa.array(["ASX", None, "CXA", "ASX"] * 5000)})
    (file,) = Stager(make(rows.schema)).stage([rows], "c1")
    group = pq.ParquetFile(local(file)).metadata.row_group(0)
    assert [group.column(i).has_dictionary_page for i in range(2)] == [False, True]


def test_bloom_filters_and_codecs_are_as_the_table_asks(make):
    rows = pa.table({"who": pa.array([f"w{n}" for n in range(100)]), "n": pa.array(range(100))})
    asked = {"write.parquet.bloom-filter-enabled.column.who": "true", "write.parquet.compression-codec": "gzip"}
    (file,) = Stager(make(rows.schema, **asked)).stage([rows], "c1")
    group = pq.ParquetFile(local(file)).metadata.row_group(0)
    assert group.column(0).compression == "GZIP"
    with duckdb.connect() as engine:
        found = engine.execute("select bloom_filter_length from parquet_metadata(?)", [local(file)]).fetchall()
    assert [length is not None for (length,) in found] == [True, False]


@pytest.mark.parametrize(
    "properties",
    [
        {"write.target-file-size-bytes": "lots"},
        {"write.parquet.row-group-limit": "0"},
        {"write.metadata.metrics.default": "some"},
    ],
    ids=str,
)
def test_a_table_property_that_cannot_be_read_is_named(make, properties):
    with pytest.raises(ConfigurationError, match="a property of the table is wrong"):
        Stager(make(TRADES, **properties)).stage([trades(trade("A", 0, 1))], "c1")


def test_rows_that_do_not_fit_leave_no_file(make, tmp_path):
    table = make(TRADES)
    with pytest.raises(SchemaMismatchError, match='"colour"'):
        Stager(table).stage([trades(trade("A", 0, 1)), pa.table({"colour": pa.array(["red"])})], "c1")
    assert not list(tmp_path.rglob("*.parquet"))


def test_discarded_files_are_gone_and_a_second_time_does_nothing(make, tmp_path):
    table = make(TRADES, by=("symbol",))
    files = Stager(table).stage([trades(trade("A", 0, 1), trade("B", 0, 2))], "c1")
    kept = Stager(table).stage([trades(trade("A", 0, 3))], "c2")
    discard(table.io, files)
    discard(table.io, files)
    assert [str(path) for path in tmp_path.rglob("*.parquet")] == [local(kept[0])]


def test_a_stager_is_bound_to_the_table_as_it_was_loaded(make):
    table = make(TRADES, by=("symbol",))
    stager = Stager(table)
    with table.update_schema() as update:
        update.add_column("venue", iceberg_schema(pa.schema([("v", pa.string())])).find_type("v"))
    assert stager.binding.uuid == table.metadata.table_uuid
    assert stager.binding.schema.schema_id != table.schema().schema_id
    (file,) = stager.stage([trades(trade("A", 0, 1))], "c1")
    assert pq.ParquetFile(local(file)).schema_arrow.names == TRADES.names
