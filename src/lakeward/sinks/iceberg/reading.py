"""Rows of data files, as the table has its columns now.

PyIceberg's own reader is not used: it takes a null list, or map, of structs for an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from lakeward.sinks.iceberg.fitting import shape_of
from lakeward.sinks.iceberg.matching import FIELD_ID, Former
from lakeward.sinks.iceberg.schema import conform, project

_READERS = 4
"""Files read at once: a store's answers are waited for side by side."""
_WHOLE_BYTES = 4 << 20


def read_files(table: Table, files: Sequence[DataFile]) -> list[pa.Table]:
    """The rows of each of ``files`` (Parquet, nothing deleted from them); columns that a file lacks are null.

    Raises:
        SchemaMismatchError: a file holds what the table's schema cannot.
    """
    with ThreadPoolExecutor(_READERS, "reading") as pool:
        return list(pool.map(lambda file: _read(table, file), files))


def as_stored(rows: pa.Table, schema: Schema, former: Former) -> pa.Table:
    """``rows`` of a data file in the columns of ``schema``: by field id, by name where the file has no ids.

    Raises:
        SchemaMismatchError: they hold what ``schema`` cannot.
    """
    if any(FIELD_ID in (field.metadata or {}) for field in rows.schema):
        return project(rows, schema)
    return conform(rows, schema, former)  # a file that was imported


def _read(table: Table, file: DataFile) -> pa.Table:
    with table.io.new_input(file.file_path).open() as stream:
        # A store is asked for all of a small file at once, and for the columns of a large one side by side.
        whole = pa.BufferReader(stream.read()) if file.file_size_in_bytes <= _WHOLE_BYTES else stream
        rows = pq.ParquetFile(whole, pre_buffer=True).read()
    return as_stored(rows, table.schema(), shape_of(table.metadata).former)
