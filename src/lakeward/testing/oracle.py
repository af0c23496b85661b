"""The independent oracle: is what a table holds exactly what was sent, value by value?

DuckDB reads the current snapshot through its own Iceberg reader and compares multisets of rows; nothing of it is
shared with the writer. All of it works on columns, so that millions of rows take seconds::

    difference = compare(sent, held(table, catalog_properties))
    assert difference.exact, difference
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyiceberg.table import Table

from lakeward.engine import Engine
from lakeward.testing import generators
from lakeward.testing.generators import BUYERS, EXCHANGE, SCALE, SYMBOLS, VENUES, Quotes, Trades

PRICE = pa.decimal128(18, SCALE)
MOMENT = pa.timestamp("us", "UTC")


@dataclass(frozen=True, slots=True)
class Difference:
    """What a comparison found. A row whose value was changed is one that is missing and one that is extra.

    ``missing``: rows sent and not held; ``extra``: rows held and not sent, each as often as it is. ``columns``:
    sentences about columns whose name or type differs; then no rows were compared.
    """

    sent: int
    held: int
    missing: pa.Table
    extra: pa.Table
    columns: Sequence[str] = ()

    @property
    def exact(self) -> bool:
        """Whether both are the same multiset of rows."""
        return not self.columns and self.missing.num_rows == 0 and self.extra.num_rows == 0

    def __str__(self) -> str:
        rows = f"{self.missing.num_rows:,} missing, {self.extra.num_rows:,} extra"
        return f"{self.sent:,} sent, {self.held:,} held: {'; '.join(self.columns) or rows}"


def held(table: Table, properties: Mapping[str, Any]) -> pa.Table:
    """Every row of the table's current snapshot, read by DuckDB.

    Args:
        table: as the catalog has it now.
        properties: the catalog's, for the keys of its object store.

    Raises:
        UnreachableError: the object store does not answer.
    """
    engine = Engine(properties)
    engine.add(table)
    *namespace, name = table.name()
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (".".join(namespace), name))
    return engine.query(f"SELECT * FROM {quoted}").to_arrow_table()  # noqa: S608 - a quoted identifier


def compare(sent: pa.Table, found: pa.Table) -> Difference:
    """Compare two multisets of rows, by the names of their columns, whatever the order of rows and columns."""
    none = sent.slice(0, 0)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("sent", sent)
        connection.register("found", found)
        columns = _columns(connection)
        if columns:
            return Difference(sent.num_rows, found.num_rows, none, none, columns)
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in sent.column_names)
        missing = f"SELECT {names} FROM sent EXCEPT ALL SELECT {names} FROM found"  # noqa: S608 - quoted
        extra = f"SELECT {names} FROM found EXCEPT ALL SELECT {names} FROM sent"  # noqa: S608 - quoted
        return Difference(
            sent.num_rows,
            found.num_rows,
            connection.sql(missing).to_arrow_table(),
            connection.sql(extra).to_arrow_table(),
        )


def _columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """What differs between the columns of both: values of different types must not be cast to look equal."""
    sent, found = (
        {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {view}").fetchall()}
        for view in ("sent", "found")
    )
    wrong = [f"column {name} was sent and is not there" for name in sent.keys() - found.keys()]
    wrong += [f"column {name} is there and was not sent" for name in found.keys() - sent.keys()]
    both = sent.keys() & found.keys()
    wrong += [f"column {n} was sent as {sent[n]} and is {found[n]}" for n in both if sent[n] != found[n]]
    return sorted(wrong)


def rows_of(columns: Trades | Quotes) -> pa.Table:
    """Generated market data as the table must hold it: exact decimals, times in UTC."""
    count = len(columns)
    which = columns.which
    head = {
        "symbol": _chosen([symbol for symbol, _, _ in SYMBOLS], which),
        "company_id": pa.array(np.array([company for _, company, _ in SYMBOLS], np.int32)[which]),
        "exchange": _chosen([EXCHANGE], np.zeros(count, np.int64)),
        "exchange_timestamp": _moments(columns.exchange_ms),
    }
    tail = {"ingestion_timestamp": _moments(columns.ingestion_ms), "sequence_number": pa.array(columns.sequence)}
    if isinstance(columns, generators.Quotes):
        quote = {
            "bid_price": _prices(columns.bid),
            "bid_volume": pa.array(columns.bid_volume),
            "ask_price": _prices(columns.ask),
            "ask_volume": pa.array(columns.ask_volume),
        }
        return pa.table(head | quote | tail)
    trade = {
        "price": _prices(columns.price),
        "volume": pa.array(columns.volume),
        "qualifiers": pa.array(columns.qualifiers.astype(np.int32)),
        "venue": _chosen(list(VENUES), columns.venue),
        "buyer_id": _chosen(list(BUYERS), columns.buyer),
    }
    return pa.table(head | trade | tail)


def _chosen(values: Sequence[str | None], which: NDArray[np.int64]) -> pa.Array:
    return pa.array(values, pa.string()).take(pa.array(which))


def _moments(milliseconds: NDArray[np.int64]) -> pa.Array:
    return pa.array(milliseconds * 1000).cast(MOMENT)


def _prices(millionths: NDArray[np.int64]) -> pa.Array:
    """The numbers as they are, their point moved: a decimal's 128 bits are the number and its sign."""
    wide = np.column_stack([millionths, millionths >> 63])
    return pa.Array.from_buffers(PRICE, len(millionths), [None, pa.py_buffer(np.ascontiguousarray(wide))])
