"""DuckDB over the tables, read-only: the query engine, and the independent reader that `verify` counts with."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
from pyiceberg.table import Table

from lakeward.errors import ConfigurationError, UnreachableError

_EXTENSIONS = ("avro", "httpfs", "iceberg")
_READ_ONLY = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


class Engine:
    """One DuckDB in memory, with a view for each table; what it reads is the snapshot at the time it was added."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._connection = duckdb.connect()
        for name in _EXTENSIONS:
            self._connection.execute(f"LOAD '{_extension(name)}'")
        self._connection.execute("SET TimeZone = 'UTC'")
        self._allow_store(properties)

    def add(self, table: Table) -> None:
        """Make ``table`` known under its own name.

        Raises:
            UnreachableError: its metadata cannot be read.
        """
        schema, name = _names(table)
        self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        scan = f"SELECT * FROM {_scan(table)})"  # noqa: S608 - quoted
        try:
            self._connection.execute(f"CREATE VIEW {schema}.{name} AS {scan}")
        except duckdb.Error as error:
            raise _explained(error) from error

    def count(self, table: Table, snapshot_id: int) -> int:
        """How many rows ``table`` held at a snapshot that it still knows.

        Raises:
            UnreachableError: its files cannot be read.
        """
        scan = f"SELECT count(*) FROM {_scan(table)}, snapshot_from_id => {snapshot_id})"  # noqa: S608 - quoted, a number
        return int(self.rows(scan)[1][0][0])

    def workspace(self, folder: Path, memory: str) -> duckdb.DuckDBPyConnection:
        """A second connection that may write, but only into the database ``work`` in ``folder``, where it also spills.

        ``memory`` bounds what DuckDB takes, such as ``1GB``. Both connections know the same tables.
        """
        place = str(folder).replace("'", "''")
        self._connection.execute(f"SET memory_limit = '{memory}'")
        self._connection.execute(f"SET temp_directory = '{place}/spill'")
        self._connection.execute("SET preserve_insertion_order = false")  # it would hold back whole columns
        self._connection.execute(f"ATTACH '{place}/work.duckdb' AS work")
        return self._connection.cursor()

    def query(self, sql: str) -> duckdb.DuckDBPyRelation:
        """Run one statement that only reads.

        Raises:
            ConfigurationError: it is not SQL, not one statement, or it would write.
        """
        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in _READ_ONLY:
                raise ConfigurationError("only one statement that reads is possible here", "Write one SELECT.")
            relation = self._connection.sql(sql)
        except duckdb.Error as error:
            raise _explained(error) from error
        return relation

    def rows(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The column names and rows of one statement.

        Raises:
            ConfigurationError: as `query`. UnreachableError: the object store does not answer.
        """
        try:
            relation = self.query(sql)
            table = relation.to_arrow_table()  # DuckDB's own fetch needs pytz for times with a zone
        except duckdb.Error as error:
            raise _explained(error) from error
        return table.column_names, list(zip(*map(_values, table.columns), strict=True))

    def _allow_store(self, properties: Mapping[str, Any]) -> None:
        endpoint = urlsplit(str(properties.get("s3.endpoint", "")))
        settings = {
            "KEY_ID": properties.get("s3.access-key-id"),
            "SECRET": properties.get("s3.secret-access-key"),
            "SESSION_TOKEN": properties.get("s3.session-token"),
            "REGION": properties.get("s3.region") or "us-east-1",
            "ENDPOINT": endpoint.netloc or None,
            "URL_STYLE": "path" if endpoint.netloc else None,
            "USE_SSL": "false" if endpoint.scheme == "http" else None,
        }
        if settings["KEY_ID"] or settings["ENDPOINT"]:
            given = ", ".join(f"{k} '{str(v).replace(chr(39), chr(39) * 2)}'" for k, v in settings.items() if v)
            self._connection.execute(f"CREATE SECRET store (TYPE s3, {given})")


def _scan(table: Table) -> str:
    """The call that reads ``table``, without its last parenthesis."""
    location = table.metadata_location.removeprefix("file://").replace("'", "''")
    return f"iceberg_scan('{location}'"


def quoted(table: Table) -> str:
    """The name under which an engine knows ``table``, for SQL."""
    return ".".join(_names(table))


def _names(table: Table) -> tuple[str, str]:
    """Schema and name, quoted."""
    *namespace, name = (part.replace('"', '""') for part in table.name())
    return f'"{".".join(namespace)}"', f'"{name}"'


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values; whole numbers as `int`: DuckDB's sums and counts of them are decimals to Arrow."""
    values: list[Any] = column.to_pylist()
    if pa.types.is_decimal(column.type) and column.type.scale == 0:
        return [None if value is None else int(value) for value in values]
    return values


def _explained(error: duckdb.Error) -> ConfigurationError | UnreachableError:
    text = str(error).strip().splitlines()[0]
    if isinstance(error, (duckdb.IOException, duckdb.HTTPException)):
        return UnreachableError(f"the tables cannot be read: {text}", "Check the object store: `lakeward check`.")
    return ConfigurationError(f"the query cannot be run: {text}", "`lakeward status` lists the tables.")


def _extension(name: str) -> Path:
    """The extension that came with the Python package: nothing is downloaded."""
    module = importlib.import_module(f"duckdb_extension_{name}")
    folder = Path(str(module.__file__)).parent / "extensions"
    return next(folder.glob(f"v{duckdb.__version__}/{name}.duckdb_extension"))
