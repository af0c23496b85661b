"""How a table is changed in the commit of the first rows that need it (PROTOCOL C2g)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import (
    AddSchemaUpdate,
    AssertLastAssignedFieldId,
    SetCurrentSchemaUpdate,
    SetPropertiesUpdate,
    TableRequirement,
    TableUpdate,
)

from lakeward.admission import Path, null_rows
from lakeward.errors import UnfitRowsError
from lakeward.sinks.iceberg.evolution import Growth, Shape, aliases_of, children, grow
from lakeward.sinks.iceberg.naming import PROPERTY, former_names, name_mapping, names_in


@dataclass(frozen=True, slots=True)
class Evolution:
    """What a commit changes of a table beside its rows.

    ``metadata``: the table's, as it will be, for whoever writes files and manifests of that commit.
    ``requirements`` and ``updates`` go before those of the snapshot.
    """

    metadata: TableMetadata
    requirements: tuple[TableRequirement, ...] = ()
    updates: tuple[TableUpdate, ...] = ()

    def applied_to(self, table: Table) -> Table:
        """``table`` as it will be."""
        return Table(table.name(), self.metadata, table.metadata_location, table.io, table.catalog, table.config)


def shape_of(metadata: TableMetadata) -> Shape:
    """The columns of a table as they are now.

    Raises:
        SchemaMismatchError: the names that they had before cannot be read.
    """
    schema = metadata.schema()
    former = former_names(names_in(metadata), schema)
    return Shape(schema, former, metadata.last_column_id, tuple(metadata.partition_specs))


def grown(shape: Shape, parts: Sequence[pa.Table]) -> Growth:
    """The shape that takes all rows of ``parts``.

    Schemas that tell former names are looked at first: a column that an older writer has is then known for what it is.

    Raises:
        UnfitRowsError: there is none.
    """
    groups: dict[bytes, list[pa.Table]] = {}
    for part in [part for part in parts if part.num_rows] or parts:
        groups.setdefault(part.schema.serialize().to_pybytes(), []).append(part)
    arrived = list(groups.values())
    telling = sorted(arrived, key=lambda group: -_names_told(group[0].schema))
    try:
        return _grown_in_order(shape, telling)
    except UnfitRowsError:  # in the order in which they were admitted, one by one, they fitted
        return _grown_in_order(shape, arrived)


def _grown_in_order(shape: Shape, groups: Iterable[Sequence[pa.Table]]) -> Growth:
    """``groups``: parts of one schema each."""
    changes: list[str] = []
    for group in groups:

        def leaves_null(path: Path, parts: Sequence[pa.Table] = group) -> bool:
            return any(null_rows(part, path).any() for part in parts)

        growth = grow(shape, group[0].schema, leaves_null)
        shape = growth.shape
        changes += growth.changes
    return Growth(shape, tuple(changes))


def _names_told(fields: Iterable[pa.Field]) -> int:
    """How many former names the fields tell, at any depth."""
    return sum(len(aliases_of(one)) + _names_told(children(one.type)) for one in fields)


def evolution(metadata: TableMetadata, growth: Growth) -> Evolution:
    """The change that makes the table of ``metadata`` what ``growth`` says."""
    updates: list[TableUpdate] = []
    requirements: list[TableRequirement] = []
    after, shape = metadata, growth.shape
    if growth.changes and shape.schema != metadata.schema():
        known = next((one for one in metadata.schemas if one == shape.schema), None)
        if known is None:
            number = 1 + max(one.schema_id for one in metadata.schemas)
            new = shape.schema.model_copy(update={"schema_id": number})
            requirements.append(
                AssertLastAssignedFieldId.model_validate({"last-assigned-field-id": metadata.last_column_id})
            )
            # -1: the one just added, whatever id the catalog gives it.
            updates += [AddSchemaUpdate.model_validate({"schema": new}), SetCurrentSchemaUpdate()]
            after = metadata.model_copy(
                update={
                    "schemas": [*metadata.schemas, new],
                    "current_schema_id": number,
                    "last_column_id": shape.last_id,
                }
            )
        else:  # a table that other tools have changed and changed back
            updates.append(SetCurrentSchemaUpdate.model_validate({"schema-id": known.schema_id}))
            after = metadata.model_copy(update={"current_schema_id": known.schema_id})
    before = names_in(metadata)
    if before is None or updates or shape.former != former_names(before, metadata.schema()):
        updates.append(SetPropertiesUpdate(updates={PROPERTY: name_mapping(after.schema(), shape.former, before)}))
    return Evolution(after, tuple(requirements), tuple(updates))
