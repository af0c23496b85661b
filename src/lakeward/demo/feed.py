"""The demo's market: trades, quotes and companies sent as Avro, with a copy of it all that no encoder has touched."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
from confluent_kafka import Producer

from lakeward.demo.companies import Companies
from lakeward.testing.generators import Market, Quotes, Trades, avro_payloads, homes_of, keys_of
from lakeward.testing.oracle import rows_of
from lakeward.testing.producing import produce

CHUNK = 25_000
"""Most trades sent between two looks at what may be sent; a tenth of all where that is less."""

BACKLOG = 400_000
"""So many messages may wait in the broker, which keeps 5 MiB a partition at most."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of message on its way: from a schema through a topic into a table."""

    kind: str
    schema: str
    topic: str
    partitions: int
    table: str
    settings: Mapping[str, object]
    """What the configuration says of the table."""

    def schema_text(self) -> str:
        """The Avro schema."""
        return files("lakeward.demo").joinpath("schemas", self.schema).read_text(encoding="utf-8")


_BY_TIME = {
    "partition_by": "[day(exchange_timestamp)]",
    "sort_by": "[exchange_timestamp, sequence_number]",
}
_BY_KEY = {
    "mode": "upsert                        # the last value of a key is its row, and a tombstone deletes it",
    "key": "[company_id]",
    "decode_key": "string",
}
TRADES = Stream("trades", "trade.avsc", "market.trades.raw", 8, "market_data.trades", _BY_TIME)
QUOTES = Stream("quotes", "quote.avsc", "market.quotes.raw", 4, "market_data.quotes", _BY_TIME)
COMPANIES = Stream("companies", "reference_data.avsc", "market.reference_data", 1, "reference_data.companies", _BY_KEY)
STREAMS = (TRADES, QUOTES, COMPANIES)


@dataclass(frozen=True, slots=True)
class Volume:
    """How many messages of each kind the market makes."""

    trades: int

    @property
    def quotes(self) -> int:
        """An eighth of the trades."""
        return max(1, self.trades // 8)

    @property
    def companies(self) -> int:
        """Changes of companies: one for fifty trades."""
        return max(60, self.trades // 50)

    @property
    def total(self) -> int:
        """All together."""
        return self.trades + self.quotes + self.companies


class Feed:
    """Sends a market of ``volume`` messages. `run` belongs to one thread; the rest may be called from any.

    Args:
        producer: see `lakeward.testing.producing.producer_of`.
        schema_ids: the id of each stream's schema, by kind.
        volume: how many messages.
        copies: where a Parquet file with what was sent is written, by kind.
    """

    def __init__(
        self, producer: Producer, schema_ids: Mapping[str, int], volume: Volume, copies: Mapping[str, Path]
    ) -> None:
        self._producer = producer
        self._ids = schema_ids
        self._volume = volume
        self._copies = copies
        self._changed = threading.Condition()
        self._allowed = 0
        self._stopped = False
        self.sent = 0

    def allow(self, count: int) -> None:
        """Let the first ``count`` messages go out."""
        with self._changed:
            self._allowed = max(self._allowed, count)
            self._changed.notify()

    def stop(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        """Send everything, as far as it is allowed, and wait for the rest.

        Raises:
            UnreachableError: the broker does not take it.
        """
        market = Market(seed=1)
        companies = Companies(self._producer, COMPANIES.topic, self._ids[COMPANIES.kind], COMPANIES.schema_text())
        trades = quotes = changes = 0
        copies = {stream.kind: _Copy(self._copies[stream.kind]) for stream in (TRADES, QUOTES)}
        try:
            while trades < self._volume.trades:
                count = min(CHUNK, self._volume.trades // 10, self._volume.trades - trades)
                trades += count
                due = self._volume.quotes * trades // self._volume.trades - quotes
                quotes += due
                changed = self._volume.companies * trades // self._volume.trades - changes
                changes += changed
                if not self._wait(trades + quotes + changes):
                    return
                self.sent += companies.send(changed)
                for stream, columns in ((TRADES, market.trades(count)), (QUOTES, market.quotes(due))):
                    if len(columns):
                        copies[stream.kind].write(columns)
                        self._send(stream, columns)
        finally:
            for copy in copies.values():
                copy.close()
            companies.save(self._copies[COMPANIES.kind])

    def _wait(self, count: int) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._allowed >= count)
            return not self._stopped

    def _send(self, stream: Stream, columns: Trades | Quotes) -> None:
        payloads = avro_payloads(columns, self._ids[stream.kind])
        homes = homes_of(columns, stream.partitions)
        self.sent += produce(self._producer, stream.topic, payloads, keys_of(columns), homes)


class _Copy:
    """A Parquet file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, columns: Trades | Quotes) -> None:
        table = rows_of(columns)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="lz4")
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
