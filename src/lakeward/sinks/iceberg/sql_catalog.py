"""PyIceberg's SQL catalog, without reading the same metadata file again and again.

A metadata file never changes, and its name is in the catalog's database: while that is still the one we know, there is
nothing to read. What a table has become with our own commit is known already. So a commit reads no metadata file at
all, however long the table's history in it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.io import FileIO
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import TableRequirement, TableUpdate

from lakeward.sinks.iceberg.store import Stores


class RememberingSqlCatalog(SqlCatalog):
    """The newest metadata of each table it has seen is kept; any thread may use it."""

    def __init__(self, name: str, **properties: str) -> None:
        super().__init__(name, **properties)
        self._stores = Stores()
        self._known: dict[tuple[str, ...], tuple[str, TableMetadata]] = {}

    def _load_file_io(self, properties: Mapping[str, Any] | None = None, location: str | None = None) -> FileIO:
        return self._stores.of({**self.properties, **(properties or {})}, location)

    def _convert_orm_to_iceberg(self, orm_table: IcebergTables) -> Table:
        identifier = (*self.identifier_to_tuple(orm_table.table_namespace), orm_table.table_name)
        known = self._known.get(identifier)
        if known is None or known[0] != orm_table.metadata_location:
            table = super()._convert_orm_to_iceberg(orm_table)
            self._known[identifier] = table.metadata_location, table.metadata
            return table
        location, metadata = known
        return Table(identifier, metadata, location, self._load_file_io(metadata.properties, location), self)

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """See `Catalog.commit_table`."""
        answer = super().commit_table(table, requirements, updates)
        self._known[table.name()] = answer.metadata_location, answer.metadata
        return answer
