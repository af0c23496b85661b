"""`partition_by` and `sort_by` as partition specs and sort orders."""

from __future__ import annotations

import pytest
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, NullOrder, SortDirection, SortField, SortOrder
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    TruncateTransform,
    YearTransform,
)
from pyiceberg.types import (
    DecimalType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestamptzType,
)

from lakeward.errors import ConfigurationError
from lakeward.layout import Layout
from lakeward.sinks.iceberg.layout import partition_spec, sort_order

SCHEMA = Schema(
    NestedField(1, "at", TimestamptzType()),
    NestedField(2, "symbol", StringType()),
    NestedField(3, "price", DecimalType(18, 6)),
    NestedField(
        4, "venue", StructType(NestedField(6, "id", LongType()), NestedField(7, "legs", ListType(8, LongType())))
    ),
    NestedField(5, "header.source", StringType()),
)


def spec(*terms: str) -> PartitionSpec:
    return partition_spec(Layout.parse(terms, ()), SCHEMA)


def test_every_transform_finds_its_column_and_takes_the_name_that_iceberg_gives():
    assert spec(
        "year(at)", "month(at)", "day(at)", "hour(at)", "symbol", "bucket(16, symbol)", "truncate(2, price) as cents"
    ) == PartitionSpec(
        PartitionField(1, 1000, YearTransform(), "at_year"),
        PartitionField(1, 1001, MonthTransform(), "at_month"),
        PartitionField(1, 1002, DayTransform(), "at_day"),
        PartitionField(1, 1003, HourTransform(), "at_hour"),
        PartitionField(2, 1004, IdentityTransform(), "symbol"),
        PartitionField(2, 1005, BucketTransform(16), "symbol_bucket"),
        PartitionField(3, 1006, TruncateTransform(2), "cents"),
    )


def test_dots_lead_into_structs_unless_they_are_the_columns_own():
    assert [field.source_id for field in spec("venue.id", "header.source").fields] == [6, 5]


def test_nothing_asked_for_is_unpartitioned_and_unsorted():
    assert spec().is_unpartitioned()
    assert sort_order(Layout(), SCHEMA) == UNSORTED_SORT_ORDER


@pytest.mark.parametrize("term", ["colour", "day(colour)", "venue.colour", "symbol.id", "venue.legs.element"])
def test_an_unknown_column_is_answered_with_those_there_are(term):
    with pytest.raises(ConfigurationError, match=r"(?s)partition_by: .*no column.*at, symbol, price, .*venue\.id"):
        spec(term)


@pytest.mark.parametrize("term", ["day(symbol)", "hour(price)", "truncate(3, at)"])
def test_a_transform_that_does_not_take_the_columns_type_is_refused(term):
    with pytest.raises(ConfigurationError, match="does not work on"):
        spec(term)


@pytest.mark.parametrize("term", ["venue", "venue.legs"])
def test_only_single_values_make_partitions(term):
    with pytest.raises(ConfigurationError, match="not a single value"):
        spec(term)


@pytest.mark.parametrize("term", ["day(at) as symbol", "day(at) as at", "symbol as at"])
def test_a_partition_field_may_not_take_the_name_of_another_column(term):
    with pytest.raises(ConfigurationError, match="which is a column"):
        spec(term)


def test_sort_terms_keep_direction_and_place_of_nulls():
    layout = Layout.parse((), ["at", "venue.id desc", "symbol asc nulls last"])
    assert sort_order(layout, SCHEMA) == SortOrder(
        SortField(1, IdentityTransform(), SortDirection.ASC, NullOrder.NULLS_FIRST),
        SortField(6, IdentityTransform(), SortDirection.DESC, NullOrder.NULLS_LAST),
        SortField(2, IdentityTransform(), SortDirection.ASC, NullOrder.NULLS_LAST),
    )


def test_an_unknown_sort_column_is_named():
    with pytest.raises(ConfigurationError, match='sort_by: colour asc nulls first: the table has no column "colour"'):
        sort_order(Layout.parse((), ["colour"]), SCHEMA)
