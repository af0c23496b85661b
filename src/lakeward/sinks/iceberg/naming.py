"""The names that columns had before, kept in the table itself, in Iceberg's own property for names.

`schema.name-mapping.default` is the standard place: other tools keep it up to date when they rename a column, and
read it only for files without field ids, which lakeward never writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pydantic import ValidationError
from pyiceberg.schema import Schema
from pyiceberg.table import TableProperties
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.name_mapping import MappedField, NameMapping
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType

from lakeward.errors import SchemaMismatchError
from lakeward.sinks.iceberg.matching import Former

PROPERTY = TableProperties.DEFAULT_NAME_MAPPING


def names_in(metadata: TableMetadata) -> NameMapping | None:
    """The table's mapping; None where it has none.

    Raises:
        SchemaMismatchError: it cannot be read.
    """
    try:
        return metadata.name_mapping()
    except (ValidationError, ValueError):
        raise SchemaMismatchError(
            f"the table property {PROPERTY} cannot be read, which tells what columns were called before",
            "Set it again, or remove it: then columns go by their current names alone.",
        ) from None


def former_names(mapping: NameMapping | None, schema: Schema) -> dict[int, tuple[str, ...]]:
    """What ``mapping`` says of the fields of ``schema``, less what they are called now."""
    held = {} if mapping is None else {one.field_id: one.names for one in _walk(mapping)}
    former: dict[int, tuple[str, ...]] = {}
    for fields in _structs(schema.as_struct()):
        current = {field.name for field in fields}
        for field in fields:
            names = tuple(name for name in held.get(field.field_id, ()) if name not in current)
            if names:
                former[field.field_id] = names
    return former


def name_mapping(schema: Schema, former: Former, before: NameMapping | None) -> str:
    """The property's text for ``schema``. What ``before`` says of fields that are gone is kept, for older files."""
    return NameMapping(_merged(schema.fields, former, list(before or []))).model_dump_json()


def _merged(fields: Iterable[NestedField], former: Former, before: Sequence[MappedField]) -> list[MappedField]:
    known = {one.field_id: one for one in before}
    merged = []
    for field in fields:
        inside = known[field.field_id].fields if field.field_id in known else []
        names = [*former.get(field.field_id, ()), field.name]
        merged.append(_mapped(field, names, _inside(field.field_type, former, inside)))
    taken = {name for one in merged for name in one.names}
    present = {one.field_id for one in merged}
    for one in before:
        names = [name for name in one.names if name not in taken]
        if one.field_id not in present and names:
            merged.append(one.model_copy(update={"names": names}))
    return merged


def _mapped(field: NestedField, names: list[str], fields: list[MappedField]) -> MappedField:
    return MappedField.model_validate({"field-id": field.field_id, "names": names, "fields": fields})


def _inside(kind: IcebergType, former: Former, before: Sequence[MappedField]) -> list[MappedField]:
    if isinstance(kind, StructType):
        return _merged(kind.fields, former, before)
    if isinstance(kind, ListType):
        return _merged([kind.element_field], former, before)
    if isinstance(kind, MapType):
        return _merged([kind.key_field, kind.value_field], former, before)
    return []


def _walk(fields: Iterable[MappedField]) -> Iterator[MappedField]:
    for one in fields:
        yield one
        yield from _walk(one.fields)


def _structs(kind: IcebergType) -> Iterator[Sequence[NestedField]]:
    """The fields of every struct in ``kind``, struct by struct."""
    if isinstance(kind, StructType):
        yield kind.fields
        for field in kind.fields:
            yield from _structs(field.field_type)
    elif isinstance(kind, ListType):
        yield from _structs(kind.element_type)
    elif isinstance(kind, MapType):
        yield from _structs(kind.key_type)
        yield from _structs(kind.value_type)
