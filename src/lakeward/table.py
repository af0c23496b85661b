"""Writing without a stream: an ACID writer for programs that have records of their own."""

from __future__ import annotations

import os
import random
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakeward.assembly import Assembly
from lakeward.clock import SystemClock
from lakeward.config import Config, from_mapping, load
from lakeward.decoding.avro_arrow import arrow_schema
from lakeward.decoding.avro_schema import parse
from lakeward.errors import ConfigurationError, OperatorError, SchemaMismatchError
from lakeward.outcomes import Batch, CommitReceipt
from lakeward.positions import Account
from lakeward.sinks.iceberg.target import IcebergTarget

Records = Any
"""An iterable of mappings, an Arrow table, batch or reader, or anything that exports an Arrow stream (polars)."""


def open_table(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config, name: str, *, schema: pa.Schema | None = None
) -> TableWriter:
    """Open a table of a configuration for appending.

    Args:
        config: a file, the same as a mapping, or a `Config`.
        name: the table's name; its entry under ``tables`` gives partitions and sort order, where there is one.
        schema: columns to create the table with; without it the first records decide. Ignored where it exists.

    Raises:
        ConfigurationError: the configuration has mistakes. UnreachableError: the catalog does not answer.
    """
    assembly = Assembly(_config(config), SystemClock(), random.Random())  # noqa: S311 - jitter and ids
    table = next((table for table in assembly.config.tables if table.table == name), None)
    if table is None:
        known = ", ".join(table.table for table in assembly.config.tables)
        raise ConfigurationError(f"{name} is not a table of this configuration", f"It names {known}.")
    target = assembly.target(table, name)
    return TableWriter(target, target.schema() or schema)


def schema_from_avro(path: str | os.PathLike[str]) -> pa.Schema:
    """The Arrow schema that records of an Avro schema file have, field docs included.

    Raises:
        SchemaMismatchError: the schema has a construct that is not available.
    """
    return arrow_schema(parse(Path(path).read_text(encoding="utf-8"), str(path)))


class TableWriter:
    """Appends to one table. May be used from several threads; appends are made one after the other."""

    def __init__(self, target: IcebergTarget, schema: pa.Schema | None) -> None:
        self._target = target
        self._schema = schema
        self._handle = uuid.uuid4().hex
        self._number = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The table's name."""
        return self._target.name

    def append(self, records: Records) -> CommitReceipt:
        """Append all of ``records`` in one commit, or none of them; returns once that is proved.

        A response that is lost is looked up, never guessed: the call returns when the outcome is known, however long
        the catalog is away (PROTOCOL C8, C9).

        Args:
            records: mappings (column to value), Arrow data, or a polars frame. Values must fit the table's types
                exactly: nothing is rounded, cut or guessed; datetimes need a zone where the column has one.

        Raises:
            SchemaMismatchError: a record does not fit; nothing was written.
            StorageError, UnreachableError, PermissionDeniedError, TableChangedError: nothing was committed.
        """
        rows = _rows(records, self._schema)
        with self._lock:
            self._number += 1
            batch = Batch(
                id=uuid.uuid4().hex,
                parts=(rows,),
                claim={},
                upto={},
                sources={},
                account=Account(),
                writer=(self._handle, self._number),
            )
            if self._schema is None:
                self._target.create(rows.schema)
                self._schema = self._target.schema()
            outcome = self._target.commit(self._target.stage(batch))
        if isinstance(outcome, CommitReceipt):
            return outcome
        raise OperatorError(
            f"{self.name} refused append {self._number}: {outcome.reason}", "Open the table again and compare."
        )


def _config(config: str | os.PathLike[str] | Mapping[str, Any] | Config) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return from_mapping(config)
    return load(Path(config), os.environ)


def _rows(records: Records, schema: pa.Schema | None) -> pa.Table:
    if isinstance(records, pa.Table):
        return records
    if hasattr(records, "__arrow_c_stream__") or hasattr(records, "__arrow_c_array__"):
        return pa.table(records)
    if isinstance(records, Mapping) or not isinstance(records, Iterable):
        raise SchemaMismatchError(
            f"records of type {type(records).__name__} cannot be appended",
            "Pass a list of mappings, an Arrow table, or a polars frame.",
        )
    return _from_mappings(list(records), schema)


def _from_mappings(records: Sequence[Mapping[str, Any]], schema: pa.Schema | None) -> pa.Table:
    columns = schema.names if schema is not None else list(dict.fromkeys(name for record in records for name in record))
    known = set(columns)
    for index, record in enumerate(records):
        if unknown := record.keys() - known:
            raise SchemaMismatchError(
                f"record {index} has a column that the table does not have: {min(unknown)}",
                f"The table has {', '.join(columns)}.",
            )
    arrays = []
    for name in columns:
        values = [record.get(name) for record in records]
        wanted = schema.field(name).type if schema is not None else None
        _require_zones(name, values, wanted)
        arrays.append(_column(name, values, wanted))
    return pa.table(arrays, names=columns)


def _column(name: str, values: Sequence[Any], wanted: pa.DataType | None) -> pa.Array:
    what = f"a value in column {name} does not fit {wanted}" if wanted else f"column {name} mixes types"
    way_out = "Nothing is rounded or cast. Convert it, or alter the table."
    try:
        column = pa.array(values, wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise SchemaMismatchError(what, way_out) from error
    # Arrow cuts 1.5 to 1 in an integer column without a word. Single floats are the nearest to what is given.
    if not pa.types.is_nested(column.type) and column.type not in {pa.float32(), pa.float16()}:
        for given, kept in zip(values, column.to_pylist(), strict=True):
            if given != kept and given == given:  # noqa: PLR0124 - NaN alone differs from itself
                raise SchemaMismatchError(what, way_out)
    return column


def _require_zones(name: str, values: Sequence[Any], wanted: pa.DataType | None) -> None:
    """Arrow would take a datetime without a zone for UTC, and drop the zone of one with it: both change meaning."""
    times = [value for value in values if isinstance(value, datetime)]
    zoned = sum(value.utcoffset() is not None for value in times)
    needs = pa.types.is_timestamp(wanted) and wanted.tz is not None if wanted is not None else zoned > 0
    if times and zoned != (len(times) if needs else 0):
        column, given = ("has a", "has none") if needs else ("has no", "has one")
        raise SchemaMismatchError(
            f"column {name} {column} time zone, and a datetime for it {given}",
            "Use datetimes with tzinfo (such as UTC) for columns with a zone, and naive ones for columns without.",
        )
