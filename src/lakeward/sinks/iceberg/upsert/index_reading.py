"""The keys of rows that lie in data files: only their columns are read, a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from lakeward.errors import OperatorError, StorageError
from lakeward.keys import Hashes, hashes
from lakeward.sinks.iceberg.fitting import shape_of
from lakeward.sinks.iceberg.matching import FIELD_ID, Former, match
from lakeward.sinks.iceberg.schema import conform, project

BATCH_ROWS = 1 << 17


@dataclass(frozen=True, slots=True)
class KeyColumns:
    """The columns of ``table`` that are its key: ``schema`` has them alone, ``former`` what they were called before."""

    table: Table
    schema: Schema
    former: Former

    @staticmethod
    def of(table: Table, key: tuple[str, ...]) -> KeyColumns:
        """The columns called ``key``, now or before.

        Raises:
            OperatorError: the table lacks one of them.
        """
        shape = shape_of(table.metadata)
        fields = shape.schema.fields
        found = [match([name], fields, shape.former)[0] for name in key]
        lacking = [name for name, at in zip(key, found, strict=True) if at is None]
        if lacking:
            raise OperatorError(
                f'table {".".join(table.name())} has no column "{lacking[0]}", which is part of its key',
                "Name its key columns under `key:`, or add the column and fill it in.",
            )
        chosen = [fields[at].model_copy(update={"required": False}) for at in found if at is not None]
        return KeyColumns(table, Schema(*chosen), shape.former)

    @property
    def ids(self) -> tuple[int, ...]:
        """The field ids of the columns."""
        return tuple(one.field_id for one in self.schema.fields)

    def read(self, file: DataFile) -> Iterator[tuple[int, Hashes]]:
        """The hashes of all rows of a data file, in order, in runs: the position of each run's first row, and the run.

        Raises:
            OperatorError: a row has no key. StorageError: there are fewer or more rows than the file is said to hold.
            Exception: the file cannot be read.
        """
        with self.table.io.new_input(file.file_path).open() as stream:
            parquet = pq.ParquetFile(stream)
            if parquet.metadata.num_rows != file.record_count:
                raise StorageError(
                    f"{file.file_path} holds {parquet.metadata.num_rows} rows, and should hold {file.record_count}",
                    "The file was damaged or replaced: `lakeward verify` says more.",
                )
            paths, by_id = self._columns(parquet.schema_arrow)
            if not paths and file.record_count:
                raise self._lacking(file.record_count, file)
            position = 0
            for group in range(parquet.num_row_groups):  # one at a time: its columns are in memory as a whole
                for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=paths):
                    rows = pa.Table.from_batches([batch])
                    rows = project(rows, self.schema) if by_id else conform(rows, self.schema, self.former)
                    if nulls := max(column.null_count for column in rows.columns):
                        raise self._lacking(nulls, file)
                    yield position, hashes(rows)
                    position += len(rows)

    def _columns(self, schema: pa.Schema) -> tuple[list[str], bool]:
        """The columns of a file that hold the key, and whether the file has field ids."""
        if any(FIELD_ID in (one.metadata or {}) for one in schema):
            ids = {str(number).encode() for number in self.ids}
            return [one.name for one in schema if (one.metadata or {}).get(FIELD_ID) in ids], True
        meant = match(schema.names, self.schema.fields, self.former, several=True)
        return [name for name, at in zip(schema.names, meant, strict=True) if at is not None], False

    def _lacking(self, rows: int, file: DataFile) -> OperatorError:
        names = ", ".join(one.name for one in self.schema.fields)
        return OperatorError(
            f"table {'.'.join(self.table.name())} has rows without a key ({names}): {rows} of them in {file.file_path}",
            "Delete those rows, or fill their key columns in.",
        )
