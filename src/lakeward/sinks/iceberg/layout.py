"""`partition_by` and `sort_by` as a table's partition spec and sort order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, NullOrder, SortDirection, SortField, SortOrder
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    YearTransform,
)
from pyiceberg.types import NestedField, StructType

from lakeward.errors import ConfigurationError
from lakeward.layout import Layout, PartitionTerm

_TRANSFORMS: dict[str, Callable[[], Transform[Any, Any]]] = {
    "identity": IdentityTransform,
    "year": YearTransform,
    "month": MonthTransform,
    "day": DayTransform,
    "hour": HourTransform,
}


def partition_spec(layout: Layout, schema: Schema) -> PartitionSpec:
    """The spec that `Layout.partition_by` asks for, on the field ids of ``schema``.

    Raises:
        ConfigurationError: an unknown column, a type that the transform does not take, or a name that is a column's.
    """
    fields = []
    for number, term in enumerate(layout.partition_by):
        source = _primitive(term.column, f"partition_by: {term}", schema)
        transform = _transform(term)
        if not transform.can_transform(source.field_type):
            raise ConfigurationError(
                f"partition_by: {term} does not work on {source.field_type}, the type of {term.column}",
                "Take another transform, or another column.",
            )
        if term.name in schema.column_names and not (term.transform == "identity" and term.name == term.column):
            raise ConfigurationError(
                f'partition_by: {term} would be named "{term.name}", which is a column of the table',
                f"Name it: {term} as another_name.",
            )
        fields.append(PartitionField(source.field_id, PARTITION_FIELD_ID_START + number, transform, term.name))
    return PartitionSpec(*fields)


def sort_order(layout: Layout, schema: Schema) -> SortOrder:
    """The order that `Layout.sort_by` asks for, on the field ids of ``schema``.

    Raises:
        ConfigurationError: an unknown column, or one that is not a single value.
    """
    if not layout.sort_by:
        return UNSORTED_SORT_ORDER
    fields = [
        SortField(
            _primitive(term.column, f"sort_by: {term}", schema).field_id,
            IdentityTransform(),
            SortDirection.DESC if term.descending else SortDirection.ASC,
            NullOrder.NULLS_FIRST if term.nulls_first else NullOrder.NULLS_LAST,
        )
        for term in layout.sort_by
    ]
    return SortOrder(*fields)


def _transform(term: PartitionTerm) -> Transform[Any, Any]:
    if term.argument is None:
        return _TRANSFORMS[term.transform]()
    return BucketTransform(term.argument) if term.transform == "bucket" else TruncateTransform(term.argument)


def _primitive(column: str, where: str, schema: Schema) -> NestedField:
    """The field named ``column`` (dots lead into structs), one value a row."""
    steps, fields = column.split("."), schema.fields
    found = next((field for field in fields if field.name == column), None)
    while found is None and steps:
        step = next((field for field in fields if field.name == steps[0]), None)
        if step is None:
            break
        steps, fields = steps[1:], step.field_type.fields if isinstance(step.field_type, StructType) else ()
        found = None if steps else step
    if found is None:
        raise ConfigurationError(
            f'{where}: the table has no column "{column}"', f"Its columns are {', '.join(_paths(schema))}."
        )
    if not found.field_type.is_primitive:
        raise ConfigurationError(
            f"{where}: {column} is a {found.field_type}, not a single value", "Name a column inside it, or another one."
        )
    return found


def _paths(schema: Schema) -> list[str]:
    return [name for name in schema.column_names if schema.find_type(name).is_primitive]
