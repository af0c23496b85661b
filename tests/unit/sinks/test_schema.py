"""Arrow and Iceberg schemas, and rows made to fit a table without changing what they say."""

from __future__ import annotations

import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
    TimestampNanoType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

from lakeward.errors import SchemaMismatchError
from lakeward.sinks.iceberg.evolution import iceberg_schema
from lakeward.sinks.iceberg.schema import conform

TYPES: list[tuple[pa.DataType, IcebergType]] = [
    (pa.bool_(), BooleanType()),
    (pa.int8(), IntegerType()),
    (pa.int16(), IntegerType()),
    (pa.int32(), IntegerType()),
    (pa.uint8(), IntegerType()),
    (pa.uint16(), IntegerType()),
    (pa.uint32(), LongType()),
    (pa.int64(), LongType()),
    (pa.uint64(), DecimalType(20, 0)),
    (pa.float16(), FloatType()),
    (pa.float32(), FloatType()),
    (pa.float64(), DoubleType()),
    (pa.decimal128(18, 6), DecimalType(18, 6)),
    (pa.decimal256(38, 38), DecimalType(38, 38)),
    (pa.decimal32(9, 2), DecimalType(9, 2)),
    (pa.string(), StringType()),
    (pa.large_string(), StringType()),
    (pa.string_view(), StringType()),
    (pa.dictionary(pa.int8(), pa.string()), StringType()),
    (pa.binary(), BinaryType()),
    (pa.large_binary(), BinaryType()),
    (pa.binary_view(), BinaryType()),
    (pa.binary(7), FixedType(7)),
    (pa.uuid(), UUIDType()),
    (pa.date32(), DateType()),
    (pa.date64(), DateType()),
    (pa.time32("s"), TimeType()),
    (pa.time64("us"), TimeType()),
    (pa.timestamp("s"), TimestampType()),
    (pa.timestamp("us"), TimestampType()),
    (pa.timestamp("ns"), TimestampType()),
    (pa.timestamp("ms", "UTC"), TimestamptzType()),
    (pa.timestamp("us", "Australia/Sydney"), TimestamptzType()),
]


def table(**columns: pa.Array) -> pa.Table:
    return pa.table(columns)


def one(kind: IcebergType, *, required: bool = False) -> Schema:
    return Schema(NestedField(1, "x", kind, required=required))


@pytest.mark.parametrize(("arrow", "iceberg"), TYPES, ids=str)
def test_every_arrow_type_becomes_the_narrowest_type_that_loses_nothing(arrow, iceberg):
    schema = iceberg_schema(pa.schema([pa.field("x", arrow)]))
    assert schema.find_type("x") == iceberg
    assert conform(pa.table({"x": pa.nulls(3, arrow)}), schema).column("x").null_count == 3


@pytest.mark.parametrize(
    "arrow",
    [
        pa.duration("s"),
        pa.decimal256(39, 0),
        pa.decimal128(5, -2),
        pa.month_day_nano_interval(),
        pa.sparse_union([pa.field("a", pa.int8())]),
        pa.struct([pa.field("inner", pa.duration("s"))]),
    ],
    ids=str,
)
def test_a_type_that_would_lose_something_is_refused_by_the_name_of_its_column(arrow):
    with pytest.raises(SchemaMismatchError, match=r'column "span(\.inner)?" has the Arrow type'):
        iceberg_schema(pa.schema([pa.field("span", arrow)]))


def test_ids_documentation_and_nullability_come_from_the_arrow_schema():
    inner = pa.struct([pa.field("city", pa.string(), nullable=False, metadata={"doc": "Town."})])
    schema = iceberg_schema(
        pa.schema(
            [
                pa.field("name", pa.string(), nullable=False, metadata={b"doc": b"Who."}),
                pa.field("home", inner),
                pa.field("tags", pa.list_(pa.field("item", pa.int32(), nullable=False))),
                pa.field("notes", pa.map_(pa.string(), pa.int64())),
            ]
        )
    )
    assert schema == Schema(
        NestedField(1, "name", StringType(), required=True, doc="Who."),
        NestedField(2, "home", StructType(NestedField(5, "city", StringType(), required=True, doc="Town."))),
        NestedField(3, "tags", ListType(6, IntegerType(), element_required=True)),
        NestedField(4, "notes", MapType(7, StringType(), 8, LongType(), value_required=False)),
    )


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(SchemaMismatchError, match='two columns are named "a"'):
        iceberg_schema(pa.schema([("a", pa.int32()), ("a", pa.int32())]))
    with pytest.raises(SchemaMismatchError, match='two columns are named "x"'):
        conform(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), one(LongType()))


def test_columns_come_in_the_tables_order_with_field_ids_and_missing_ones_as_nulls():
    schema = Schema(
        NestedField(4, "a", IntegerType()), NestedField(9, "b", StringType()), NestedField(2, "c", DateType())
    )
    rows = conform(table(b=pa.array(["x", None]), a=pa.array([1, 2], pa.int32())), schema)
    assert rows.to_pylist() == [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": None, "c": None}]
    assert [field.metadata[b"PARQUET:field_id"] for field in rows.schema] == [b"4", b"9", b"2"]


def test_buffers_are_shared_where_types_agree():
    source = table(x=pa.array(["a", "b"]))
    rows = conform(source, one(StringType()))
    addresses = [[buffer.address for buffer in t["x"].chunk(0).buffers()[1:]] for t in (source, rows)]
    assert addresses[0] == addresses[1]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([-1, 2**31 - 1], pa.int32()), LongType()),
        (pa.array([2**32 - 1], pa.uint32()), LongType()),
        (pa.array([0.1], pa.float32()), DoubleType()),
        (pa.array([Decimal("-999.99")], pa.decimal128(5, 2)), DecimalType(38, 2)),
        (pa.array([2**64 - 1], pa.uint64()), DecimalType(20, 0)),
        (pa.array(["é"]).dictionary_encode(), StringType()),
        (pa.array([b"x" * 16], pa.binary(16)), UUIDType()),
        (pa.array([None], pa.null()), StringType()),
    ],
    ids=str,
)
def test_widening_keeps_every_value(values, kind):
    got = conform(table(x=values), one(kind))["x"]
    assert [getattr(value, "bytes", value) for value in got.to_pylist()] == values.to_pylist()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1], pa.int64()), IntegerType()),
        (pa.array([1.0]), FloatType()),
        (pa.array([1]), DoubleType()),
        (pa.array([1.0]), LongType()),
        (pa.array(["1"]), LongType()),
        (pa.array([1]), StringType()),
        (pa.array([1]), DecimalType(20, 0)),
        (pa.array([Decimal("1.10")], pa.decimal128(5, 2)), DecimalType(5, 1)),
        (pa.array([Decimal("1.1")], pa.decimal128(5, 1)), DecimalType(5, 2)),
        (pa.array([Decimal("1.1")], pa.decimal128(9, 1)), DecimalType(5, 1)),
        (pa.array(["a"]), BinaryType()),
        (pa.array([b"a"]), StringType()),
        (pa.array([b"abc"], pa.binary(3)), FixedType(4)),
        (pa.array([1], pa.timestamp("us")), TimestamptzType()),
        (pa.array([1], pa.timestamp("us", "UTC")), TimestampType()),
        (pa.array([1], pa.timestamp("us")), DateType()),
        (pa.array([True]), IntegerType()),
        (pa.array([[1]]), LongType()),
        (pa.array([1]), ListType(2, LongType())),
        (pa.array([{"a": 1}]), LongType()),
    ],
    ids=str,
)
def test_narrowing_and_changes_of_meaning_are_refused(values, kind):
    with pytest.raises(SchemaMismatchError, match=r'column "x" holds .* the table stores'):
        conform(table(x=values), one(kind))


@pytest.mark.parametrize(
    ("count", "unit", "micros"), [(-1, "ms", -1000), (7, "s", 7_000_000), (-3000, "ns", -3), (5, "us", 5)]
)
def test_times_become_microseconds_of_the_same_instant(count, unit, micros):
    source = pa.array([count, None], pa.timestamp(unit, "Australia/Sydney"))
    assert conform(table(x=source), one(TimestamptzType()))["x"].cast(pa.int64()).to_pylist() == [micros, None]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1_001_777], pa.timestamp("ns")), TimestampType()),
        (pa.array([1_001_777], pa.time64("ns")), TimeType()),
        (pa.array([1_001_777], pa.int64()).view(pa.date64()), DateType()),
        (pa.array([2**62 + 1_001_777], pa.timestamp("s")), TimestampType()),
    ],
    ids=["nanoseconds", "nanoseconds of day", "part of a day", "beyond microseconds"],
)
def test_a_time_that_is_not_exact_is_refused_without_telling_its_value(values, kind):
    with pytest.raises(SchemaMismatchError, match='column "x"') as caught:
        conform(table(x=values), one(kind))
    assert "1777" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_an_unknown_column_is_named_with_the_way_out():
    with pytest.raises(SchemaMismatchError, match=r'"extra".*\(it has x\)\n.*Add the column') as caught:
        conform(table(x=pa.array([1]), extra=pa.array([2])), one(LongType()))
    assert caught.value.exit_code == 4


def test_a_required_column_needs_a_value_in_every_row():
    schema = one(LongType(), required=True)
    assert conform(table(x=pa.array([1])), schema).schema.field("x").nullable is False
    with pytest.raises(SchemaMismatchError, match='requires "x", but 1 of 2'):
        conform(table(x=pa.array([1, None])), schema)
    with pytest.raises(SchemaMismatchError, match='requires "x", but 1 of 1'):
        conform(table(x=pa.array([None], pa.null())), schema)
    with pytest.raises(SchemaMismatchError, match='requires "x", but the records do not have it'):
        conform(table(y=pa.array([1, 2])), Schema(*schema.fields, NestedField(2, "y", LongType())))


LEG = StructType(NestedField(7, "venue", StringType()), NestedField(8, "at", TimestampType()))
ORDER = StructType(
    NestedField(3, "id", LongType(), required=True),
    NestedField(4, "note", StringType()),
    NestedField(5, "legs", ListType(6, LEG, element_required=False)),
)
NESTED = Schema(
    NestedField(1, "order", ORDER),
    NestedField(2, "tags", MapType(9, StringType(), 10, LongType(), value_required=False)),
)
ARROW = pa.schema(
    [
        ("tags", pa.map_(pa.string(), pa.int32())),
        (
            "order",
            pa.struct(
                [
                    ("legs", pa.list_(pa.struct([("at", pa.timestamp("ms")), ("venue", pa.string())]))),
                    ("id", pa.int32()),
                ]
            ),
        ),
    ]
)
RECORDS = [
    {
        "tags": [("a", 1), ("b", None)],
        "order": {"legs": [{"at": 1, "venue": "ASX"}, None, {"at": None, "venue": ""}], "id": 1},
    },
    {"tags": None, "order": None},
    {"tags": [], "order": {"legs": [], "id": 2}},
    {"tags": [("ü", -1)], "order": {"legs": None, "id": 3}},
]


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("large", [False, True])
def test_nested_rows_keep_their_values_nulls_and_emptiness(start, large):
    rows = pa.Table.from_pylist(RECORDS, ARROW).slice(start)
    got = conform(rows, NESTED, large=large)
    got.validate(full=True)
    want = rows.to_pylist()
    for row in want:
        if row["order"]:
            row["order"]["note"] = None
    assert got.select(["tags", "order"]).to_pylist() == want
    order = got.schema.field("order")
    assert order.type.field("legs").metadata[b"PARQUET:field_id"] == b"5"
    assert order.type.field("legs").type.value_field.metadata[b"PARQUET:field_id"] == b"6"
    assert order.type.field("legs").type.value_type.field("at").metadata[b"PARQUET:field_id"] == b"8"
    assert got.schema.field("tags").type.item_field.metadata[b"PARQUET:field_id"] == b"10"


@pytest.mark.parametrize(
    "kind",
    [pa.large_list, pa.list_view, pa.large_list_view, lambda t: pa.list_(t, 2)],
    ids=["large", "view", "large-view", "fixed"],
)
def test_every_kind_of_list_is_a_list(kind):
    values = pa.array([[1, 2], None, [3, None]], kind(pa.int32())).slice(1)
    schema = one(ListType(2, LongType(), element_required=False))
    assert conform(table(x=values), schema)["x"].to_pylist() == [None, [3, None]]


def test_a_required_field_may_be_missing_only_under_a_null_struct():
    kind = pa.struct([("id", pa.int64())])
    schema = one(StructType(NestedField(2, "id", LongType(), required=True)))
    fine = pa.array([{"id": 1}, None], kind)
    assert conform(table(x=fine), schema)["x"].to_pylist() == [{"id": 1}, None]
    with pytest.raises(SchemaMismatchError, match=r'requires "x\.id", but 1 of 2'):
        conform(table(x=pa.array([{"id": 1}, None, {"id": None}], kind)), schema)


def test_an_unknown_field_inside_a_struct_is_named_by_its_path():
    schema = one(StructType(NestedField(2, "id", LongType())))
    with pytest.raises(SchemaMismatchError, match=r'"x\.colour", which the struct "x" does not have'):
        conform(table(x=pa.array([{"id": 1, "colour": 2}])), schema)


def test_uuids_keep_their_sixteen_bytes():
    values = [uuid.UUID(int=2**127 + 5), None]
    source = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([values[0].bytes, None], pa.binary(16)))
    assert conform(table(x=source), one(UUIDType()))["x"].to_pylist() == values


def test_polars_and_numpy_style_columns_need_no_care():
    rows = table(
        a=pa.array(["x"], pa.string_view()),
        b=pa.array(np.array([1.5], np.float16)),
        c=pa.array(["x"]).dictionary_encode(),
    )
    got = conform(rows, iceberg_schema(rows.schema))
    assert got.to_pylist() == [{"a": "x", "b": 1.5, "c": "x"}]
    assert got.schema.field("a").type == got.schema.field("c").type == pa.large_string()


def test_a_table_type_that_cannot_be_written_says_so():
    with pytest.raises(SchemaMismatchError, match="timestamp_ns, which lakeward cannot write"):
        conform(table(x=pa.array([1], pa.timestamp("ns"))), one(TimestampNanoType()))
