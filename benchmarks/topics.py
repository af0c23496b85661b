"""What is read: deterministic trades in a topic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lakeward.records import Blobs
from lakeward.testing.generators import Market, avro_payloads, homes_of, iso_text, json_payloads, keys_of
from lakeward.testing.producing import produce, producer_of

FORMATS = ("avro", "json")
SCHEMA = Path(__file__).parents[1] / "examples" / "market_data" / "schemas" / "trade.avsc"
JSON_FIELDS = {
    "symbol": "string",
    "company_id": "int",
    "exchange": "string",
    "exchange_timestamp": "timestamptz",
    "price": "decimal(18,6)",
    "volume": "long",
    "qualifiers": "int",
    "venue": "string",
    "buyer_id": "string",
    "ingestion_timestamp": "timestamptz",
    "sequence_number": "long",
}
KEPT = {"retention.ms": "-1", "retention.bytes": "-1"}
"""The configuration of a topic that a run must find whole, however long it takes."""
CHUNK = 100_000


class Registry(Protocol):
    """A schema registry: the embedded one, or a real server."""

    @property
    def url(self) -> str:
        """The base address for Confluent clients."""

    def register(self, subject: str, schema: str) -> int:
        """Register a schema's text; return its id."""


def fill(
    servers: str,
    topic: str,
    encoding: str,
    messages: int,
    registry: Registry,
    damage: Callable[[Blobs], Blobs] = lambda values: values,
) -> None:
    """Send ``messages`` trades, spread over six partitions by symbol; ``damage`` makes some of them bad."""
    schema_id = registry.register(f"{topic}-value", SCHEMA.read_text()) if encoding == "avro" else 0
    market, producer = Market(seed=1), producer_of(servers)
    for start in range(0, messages, CHUNK):
        trades = market.trades(min(CHUNK, messages - start))
        values = avro_payloads(trades, schema_id) if encoding == "avro" else json_payloads(trades, iso_text)
        produce(producer, topic, damage(values), keys_of(trades), homes_of(trades, 6))
