"""The loop that one writes first: consume, decode each record, append 50,000 rows, commit the offsets."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import orjson
import pyarrow as pa
from confluent_kafka import Consumer
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform

from lakeward import schema_from_avro

ROWS_A_COMMIT = 50_000
ASKED_AT_ONCE = 10_000


def main() -> None:
    """Run the job given as JSON; tell rows, commits and seconds as JSON."""
    job = json.loads(sys.argv[1])
    schema = pa.schema([field.with_metadata(None) for field in schema_from_avro(job["schema"])])
    table = _table(Path(job["home"]), schema)
    decode = _avro(job["schema"]) if job["encoding"] == "avro" else _json
    group = f"baseline-{time.time_ns()}"
    settings = {"bootstrap.servers": job["servers"], "group.id": group, "auto.offset.reset": "earliest"}
    consumer = Consumer({**settings, "enable.auto.commit": False})
    consumer.subscribe([job["topic"]])
    rows: list[dict[str, Any]] = []
    written = commits = 0
    began: float | None = None
    while written < job["messages"]:
        for message in consumer.consume(ASKED_AT_ONCE, 1.0):
            if message.error():
                raise SystemExit(message.error().str())
            began = began or time.monotonic()
            rows.append(decode(message.value()))
        if len(rows) >= ROWS_A_COMMIT or written + len(rows) == job["messages"]:
            table.append(pa.Table.from_pylist(rows, schema=schema))
            consumer.commit(asynchronous=False)
            written, commits, rows = written + len(rows), commits + 1, []
    seconds = time.monotonic() - (began or 0.0)
    consumer.close()
    json.dump({"rows": written, "commits": commits, "streaming_s": seconds}, sys.stdout)


def _table(home: Path, schema: pa.Schema) -> Table:
    (home / "warehouse").mkdir()
    catalog = SqlCatalog("b", uri=f"sqlite:///{home}/catalog.db", warehouse=f"file://{home}/warehouse")
    catalog.create_namespace("market_data")
    table = catalog.create_table("market_data.trades", schema)
    at = table.schema().find_field("exchange_timestamp").field_id
    table.update_spec().add_field("exchange_timestamp", DayTransform(), "exchange_timestamp_day").commit()
    assert table.spec().fields_by_source_id(at) == [PartitionField(at, 1000, DayTransform(), "exchange_timestamp_day")]
    assert isinstance(table.spec(), PartitionSpec)
    return table


def _avro(schema: str) -> Callable[[bytes], dict[str, Any]]:
    parsed = fastavro.parse_schema(json.loads(Path(schema).read_text()))

    def decode(value: bytes) -> dict[str, Any]:
        record: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), parsed, None)
        return dict(record)

    return decode


def _json(value: bytes) -> dict[str, Any]:
    record = orjson.loads(value)
    record["price"] = Decimal(str(record["price"]))
    record["exchange_timestamp"] = datetime.fromisoformat(record["exchange_timestamp"])
    record["ingestion_timestamp"] = datetime.fromisoformat(record["ingestion_timestamp"])
    return dict(record)


if __name__ == "__main__":
    main()
