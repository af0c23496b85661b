"""Which of a record's columns a table gets, and under which names. Top-level columns only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from lakeward.errors import ConfigurationError
from lakeward.records import Decoded, DecodedPart, RawBatch
from lakeward.stages import Decoder


@dataclass(frozen=True, slots=True)
class ColumnSelection:
    """``include``: only these (None: all); ``exclude``: not these; ``rename``: record's name to table's name.

    A name that some records do not have selects nothing there: schemas come and go.
    """

    include: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()
    rename: Mapping[str, str] = field(default_factory=dict)

    def select(self, rows: pa.Table) -> pa.Table:
        """The columns of ``rows`` that the table gets, under its names; shares the data.

        Raises:
            ConfigurationError: two columns would have one name, or none would be left.
        """
        kept = self._kept(rows.schema)
        schema = self.schema(rows.schema)
        return pa.Table.from_arrays([rows.column(index) for index in kept], schema=schema)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema of what `select` makes of rows of ``schema``; fields keep their metadata.

        Raises:
            ConfigurationError: as `select`.
        """
        fields = [schema.field(index) for index in self._kept(schema)]
        names = [self.rename.get(one.name, one.name) for one in fields]
        if not names:
            raise ConfigurationError(
                "columns leaves no column of the records",
                f"They have: {', '.join(schema.names) or 'none'}. Correct columns.include or columns.exclude.",
            )
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ConfigurationError(
                f"columns.rename makes two columns named {double[0]}", "Rename or exclude the other one too."
            )
        return pa.schema([one.with_name(name) for one, name in zip(fields, names, strict=True)])

    def records(self, schema: pa.Schema) -> pa.Schema:
        """The columns of a table under the names that the records have: `schema` the other way round."""
        known = {new: old for old, new in self.rename.items()}
        return pa.schema([one.with_name(known.get(one.name, one.name)) for one in schema])

    def takes(self, name: str) -> bool:
        """Whether the table gets the records' column ``name``."""
        return name not in self.exclude and (self.include is None or name in self.include)

    def _kept(self, schema: pa.Schema) -> list[int]:
        return [index for index, name in enumerate(schema.names) if self.takes(name)]


class SelectingDecoder:
    """A decoder whose rows have only the columns that the table gets; a `Decoder`."""

    def __init__(self, decoder: Decoder, selection: ColumnSelection) -> None:
        self._decoder = decoder
        self._selection = selection

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`."""
        decoded = self._decoder.decode(raw)
        return replace(decoded, parts=[self._selected(part) for part in decoded.parts])

    def _selected(self, part: DecodedPart) -> DecodedPart:
        changes = None if part.changes is None else part.changes.renamed(self._selection.rename)
        return replace(part, rows=self._selection.select(part.rows), changes=changes)

    def schema(self, topic: str) -> pa.Schema | None:
        """See `Decoder.schema`."""
        schema = self._decoder.schema(topic)
        return None if schema is None else self._selection.schema(schema)
