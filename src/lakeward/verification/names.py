"""Rows under the names that a table's columns have now, whatever their writers called them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyiceberg.table import Table
from pyiceberg.table.name_mapping import MappedField
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType


class CurrentNames:
    """What the columns of ``table`` are called, and what its name mapping says that they were called before."""

    def __init__(self, table: Table) -> None:
        self._schema = table.schema()
        mapping = table.name_mapping()
        self._former: dict[int, list[str]] = {}
        self._read(list(mapping or []))

    def given(self, rows: pa.Table) -> pa.Table:
        """``rows`` with their columns, at any depth, renamed; shares the data."""
        fields = self._renamed([rows.schema.field(i) for i in range(len(rows.schema))], self._schema.fields)
        schema = pa.schema(fields)
        if schema == rows.schema:
            return rows
        return pa.Table.from_batches([pa.record_batch(_Relabelled(b, schema)) for b in rows.to_batches()], schema)

    def _read(self, fields: Sequence[MappedField]) -> None:
        for field in fields:
            if field.field_id is not None:
                self._former[field.field_id] = field.names
            self._read(field.fields)

    def _renamed(self, given: Sequence[pa.Field], known: Sequence[NestedField]) -> list[pa.Field]:
        own = {one.name for one in given}
        by_name: Mapping[str, NestedField] = {field.name: field for field in known}
        renamed = []
        for one in given:
            field = by_name.get(one.name)
            if field is None:
                meant = [f for f in known if one.name in self._former.get(f.field_id, ()) and f.name not in own]
                field = meant[0] if len(meant) == 1 else None
            kind = one.type if field is None else self._type(one.type, field.field_type)
            renamed.append(pa.field(one.name if field is None else field.name, kind, one.nullable))
        return renamed

    def _type(self, arrow: pa.DataType, kind: IcebergType) -> pa.DataType:
        if isinstance(kind, StructType) and pa.types.is_struct(arrow):
            return pa.struct(self._renamed([arrow.field(i) for i in range(arrow.num_fields)], kind.fields))
        if isinstance(kind, ListType) and (pa.types.is_list(arrow) or pa.types.is_large_list(arrow)):
            inner = arrow.value_field
            inner = inner.with_type(self._type(inner.type, kind.element_type))
            return pa.list_(inner) if pa.types.is_list(arrow) else pa.large_list(inner)
        if isinstance(kind, MapType) and pa.types.is_map(arrow):
            item = arrow.item_field
            return pa.map_(arrow.key_field, item.with_type(self._type(item.type, kind.value_type)))
        return arrow


@dataclass(frozen=True)
class _Relabelled:
    """The data of a batch under another schema of the same layout, by Arrow's own interface for exchanging data."""

    batch: pa.RecordBatch
    schema: pa.Schema

    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]:
        return self.schema.__arrow_c_schema__(), self.batch.__arrow_c_array__(requested_schema)[1]
