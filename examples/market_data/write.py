"""Trades and quotes from a program of your own, each call one ACID commit.

Run it in a folder of your choice: it makes a local warehouse there.

    python write.py
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from lakeward import CommitReceipt, TableWriter, open_table, schema_from_avro

SCHEMAS = Path(__file__).parent / "schemas"
CONFIG: dict[str, Any] = {
    "name": "market-data-writer",
    "source": {"kafka": {"bootstrap_servers": "localhost:9092"}},  # not asked by a program that only appends
    "decode": "avro",
    "schema_registry": {"url": "http://localhost:8081"},
    "sink": {"iceberg": {"warehouse": "./warehouse"}},
    "tables": [
        {
            "topics": [f"market.{kind}.raw"],
            "table": f"market_data.{kind}",
            "partition_by": ["day(exchange_timestamp)"],
            "sort_by": ["exchange_timestamp", "sequence_number"],
        }
        for kind in ("trades", "quotes")
    ],
}


class MarketDataWriter:
    """Both tables, opened once."""

    def __init__(self, config: Mapping[str, Any] | str | Path = CONFIG) -> None:
        self._trades = _open(config, "trades", "trade")
        self._quotes = _open(config, "quotes", "quote")

    def write_trades(self, trades: Iterable[Mapping[str, Any]]) -> CommitReceipt:
        """Append trades, all or none."""
        return self._trades.append(trades)

    def write_quotes(self, quotes: Iterable[Mapping[str, Any]]) -> CommitReceipt:
        """Append quotes, all or none."""
        return self._quotes.append(quotes)


def _open(config: Mapping[str, Any] | str | Path, table: str, schema: str) -> TableWriter:
    return open_table(config, f"market_data.{table}", schema=schema_from_avro(SCHEMAS / f"{schema}.avsc"))


def main() -> None:
    """Write one trade and one quote, and show the receipts."""
    writer = MarketDataWriter()
    now = datetime.now(UTC)
    common = {
        "symbol": "BHP",
        "company_id": 1,
        "exchange": "ASX",
        "exchange_timestamp": now,
        "ingestion_timestamp": now,
    }
    trade = {**common, "price": Decimal("45.670000"), "volume": 100, "qualifiers": 0, "venue": "XASX", "buyer_id": None}
    quote = {
        **common,
        "bid_price": Decimal("45.66"),
        "bid_volume": 500,
        "ask_price": Decimal("45.68"),
        "ask_volume": 300,
    }
    for receipt in (writer.write_trades([trade]), writer.write_quotes([quote])):
        print(
            f"{receipt.table}: {receipt.rows} row in {receipt.files} file, snapshot {receipt.snapshot_id}, "
            f"{receipt.before.rows} -> {receipt.after.rows} rows, {receipt.duration_ms} ms"
        )


if __name__ == "__main__":
    main()
