"""The demo's companies: a keyed topic, in which the last value of a key counts and a tombstone deletes it."""

from __future__ import annotations

import io
import json
import random
import struct
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Producer

from lakeward.testing.generators import SYMBOLS
from lakeward.testing.producing import produce

FIRST_DAY = date(2026, 1, 15)
UNLISTED = 10_000
"""Ids from here on are of companies that come and go; the others stay."""
COMING, DELISTED = 500, 0.25
"""So many ids come and go; of the changes to them, such a share deletes."""
_COLUMNS = pa.schema(
    [
        ("company_id", pa.int32()),
        ("symbol", pa.string()),
        ("company_name", pa.string()),
        ("isin", pa.string()),
        ("start_date", pa.date32()),
        ("end_date", pa.date32()),
    ]
)


class Companies:
    """Sends random changes of companies, and remembers what each came to.

    Args:
        producer: see `lakeward.testing.producing.producer_of`.
        topic: where to; one partition.
        schema_id: under which ``schema`` is registered.
        schema: the Avro schema of a company.
    """

    def __init__(self, producer: Producer, topic: str, schema_id: int, schema: str) -> None:
        self._producer = producer
        self._topic = topic
        self._header = b"\0" + struct.pack(">I", schema_id)
        self._schema = fastavro.parse_schema(json.loads(schema))
        self._chance = random.Random(1)  # noqa: S311 - a market, not a secret
        self._rows: dict[int, dict[str, Any]] = {}
        self._told = 0

    def send(self, count: int) -> int:
        """Send ``count`` changes, and wait until the broker has them; return how many were sent.

        Raises:
            UnreachableError: the broker does not take them.
        """
        changes = [self._next() for _ in range(count)]
        keys = [str(number).encode() for number, _ in changes]
        return produce(self._producer, self._topic, [value for _, value in changes], keys, [0] * count)

    def save(self, path: Path) -> None:
        """Write what all changes came to as a Parquet file."""
        rows = [self._rows[number] for number in sorted(self._rows)]
        pq.write_table(pa.Table.from_pylist(rows, _COLUMNS), path, compression="lz4")

    def _next(self) -> tuple[int, bytes | None]:
        """A company's id, and its value; None where it is delisted."""
        at, self._told = self._told, self._told + 1
        if at < len(SYMBOLS):
            symbol, number, _ = SYMBOLS[at]
        else:
            number = UNLISTED + self._chance.randrange(COMING)
            symbol = f"X{number}"
            if number in self._rows and self._chance.random() < DELISTED:
                del self._rows[number]
                return number, None
        row = {
            "company_id": number,
            "symbol": symbol,
            "company_name": f"{symbol} {self._chance.choice(('Group', 'Holdings', 'Limited', 'Resources'))}",
            "isin": f"AU{number:010}",
            "start_date": FIRST_DAY - timedelta(days=self._chance.randrange(9_000)),
            "end_date": None,
        }
        self._rows[number] = row
        payload = io.BytesIO()
        payload.write(self._header)
        fastavro.schemaless_writer(payload, self._schema, row)
        return number, payload.getvalue()
