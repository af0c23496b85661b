"""Writing without a stream: what goes in, what is refused, and what the receipt says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from lakeward import CommitReceipt, TableWriter, open_table
from lakeward.errors import ConfigurationError, SchemaMismatchError
from lakeward.testing.generators import quote_records, trade_records
from lakeward.testing.waiting import joined

EXAMPLE = Path(__file__).parents[2] / "examples" / "market_data" / "write.py"
SCHEMA = pa.schema([("id", pa.int64()), ("price", pa.decimal128(18, 6)), ("at", pa.timestamp("us", "UTC"))])
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def config(folder: Path, **table: Any) -> dict[str, Any]:
    return {
        "name": "writer",
        "source": {"kafka": {"bootstrap_servers": "localhost:9092"}},
        "decode": "json",
        "sink": {"iceberg": {"warehouse": str(folder)}},
        "tables": [{"topics": ["t"], "table": "ns.t", **table}],
    }


@pytest.fixture
def table(tmp_path: Path) -> TableWriter:
    return open_table(config(tmp_path), "ns.t", schema=SCHEMA)


def rows(folder: Path) -> list[tuple[Any, ...]]:
    files = f"{folder}/**/*.parquet"
    sql = f'SELECT id, price, epoch_us("at") FROM read_parquet($${files}$$) ORDER BY id'
    return duckdb.sql(sql).fetchall()


def test_a_receipt_says_what_was_added_and_the_totals_before_and_after(table: TableWriter) -> None:
    first = table.append([{"id": 1, "price": Decimal("1.5"), "at": NOON}])
    second = table.append([{"id": 2}, {"id": 3}])
    assert isinstance(second, CommitReceipt)
    assert (first.rows, first.files, first.before.rows, first.after.rows) == (1, 1, 0, 1)
    assert (second.rows, second.before.rows, second.after.rows) == (2, 1, 3)
    assert second.sequence_number == first.sequence_number + 1
    assert second.snapshot_id != first.snapshot_id
    assert second.bytes > 0
    assert second.after.bytes == first.after.bytes + second.bytes


def test_mappings_arrow_and_polars_end_up_as_the_same_rows(table: TableWriter, tmp_path: Path) -> None:
    record = {"id": 1, "price": Decimal("-0.000001"), "at": NOON}
    arrow = pa.Table.from_pylist([{**record, "id": 2}], schema=SCHEMA)
    table.append([record])
    table.append(arrow)
    table.append(pl.from_arrow(arrow).with_columns(id=pl.lit(3, pl.Int64)))
    table.append(arrow.set_column(0, "id", pa.array([4])).to_batches()[0])
    micros = int(NOON.timestamp()) * 1_000_000
    assert rows(tmp_path) == [(i, Decimal("-0.000001"), micros) for i in (1, 2, 3, 4)]


def test_a_datetime_of_another_zone_keeps_its_moment(table: TableWriter, tmp_path: Path) -> None:
    table.append([{"id": 1, "at": NOON.astimezone(timezone(timedelta(hours=11)))}])
    assert rows(tmp_path)[0][2] == int(NOON.timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"id": 1, "pryce": 2}, "pryce"),
        ({"id": "one"}, "column id"),
        ({"id": 1, "price": Decimal("1.0000001")}, "column price"),
        ({"id": 1, "price": Decimal("1000000000000.5")}, "column price"),
        ({"id": 1, "at": datetime(2026, 1, 2)}, "time zone"),  # noqa: DTZ001 - the point of it
        ({"id": 1 << 63}, "column id"),
        ({"id": 1.5}, "column id"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_and_none_of_its_append_is_written(
    table: TableWriter, tmp_path: Path, record: dict[str, Any], says: str
) -> None:
    with pytest.raises(SchemaMismatchError, match=says):
        table.append([{"id": 7}, record])
    assert not list(tmp_path.glob("**/*.parquet"))
    assert table.append([{"id": 8}]).after.rows == 1


def test_something_that_is_no_record_is_refused(table: TableWriter) -> None:
    with pytest.raises(SchemaMismatchError, match="list of mappings"):
        table.append({"id": 1})


def test_an_empty_append_is_a_commit_without_rows(table: TableWriter) -> None:
    table.append([{"id": 1}])
    receipt = table.append([])
    assert (receipt.rows, receipt.after.rows) == (0, 1)


def test_without_a_schema_the_first_records_decide(tmp_path: Path) -> None:
    table = open_table(config(tmp_path), "ns.t")
    table.append([{"id": 1, "name": "a"}])
    with pytest.raises(SchemaMismatchError, match="column name"):
        table.append([{"id": 2, "name": 3}])
    assert table.append([{"id": 2}]).after.rows == 2


def test_two_writers_and_several_threads_lose_nothing(tmp_path: Path) -> None:
    open_table(config(tmp_path), "ns.t", schema=SCHEMA).append([{"id": -1}])
    writers = [open_table(config(tmp_path), "ns.t") for _ in range(2)]

    def write(writer: Any, n: int) -> None:
        for i in range(5):
            writer.append([{"id": n * 100 + i}])

    threads = [
        threading.Thread(target=write, args=(writer, n), daemon=True) for n, writer in enumerate([*writers, *writers])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        joined(thread, "a writer")
    assert [row[0] for row in rows(tmp_path)] == [-1, *(n * 100 + i for n in range(4) for i in range(5))]


def test_a_table_that_the_configuration_does_not_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ns\.other is not a table"):
        open_table(config(tmp_path), "ns.other")


def test_importing_lakeward_alone_imports_no_arrow() -> None:
    code = (
        "import lakeward, lakeward.cli, sys; sys.exit(any(m in sys.modules for m in ('pyarrow', 'pyiceberg', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_writes_trades_and_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    spec = importlib.util.spec_from_file_location("write_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.chdir(tmp_path)
    example.main()
    assert "market_data.trades: 1 row in 1 file" in capsys.readouterr().out
    writer = example.MarketDataWriter()
    receipt = writer.write_trades(trade_records(500, seed=3))
    assert (receipt.rows, receipt.before.rows, receipt.after.rows) == (500, 1, 501)
    assert writer.write_quotes(quote_records(300, seed=3)).after.rows == 301
    sent = trade_records(500, seed=3)
    files = f"{tmp_path}/warehouse/market_data/trades/**/*.parquet"
    total = duckdb.sql(f"SELECT sum(price * volume)::VARCHAR, count(*) FROM read_parquet('{files}')").fetchone()
    assert total is not None
    assert Decimal(total[0]) == sum((r["price"] * r["volume"] for r in sent), Decimal(4567))
