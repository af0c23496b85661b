"""Made-up market data: deterministic, well formed, and equal in every form."""

from __future__ import annotations

import io
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import fastavro
import numpy as np
import pytest

from lakeward.testing.avro_payloads import ABSENT, Kind, Parts, encode
from lakeward.testing.generators import (
    OPENING_MS,
    SYMBOLS,
    Market,
    avro_payloads,
    homes_of,
    iso_text,
    json_payloads,
    keys_of,
    quote_records,
    records,
    trade_records,
)

SCHEMAS = Path(__file__).parents[3] / "examples" / "market_data" / "schemas"


def schema_of(kind: str) -> object:
    return fastavro.parse_schema(json.loads((SCHEMAS / f"{kind}.avsc").read_text(encoding="utf-8")))


@pytest.mark.parametrize(("kind", "make"), [("trade", Market.trades), ("quote", Market.quotes)])
def test_payloads_are_what_fastavro_writes_for_the_same_records(kind, make) -> None:
    schema, columns = schema_of(kind), make(Market(5), 500)
    payloads = avro_payloads(columns, 77)
    for i, record in enumerate(records(columns)):
        expected = io.BytesIO()
        fastavro.schemaless_writer(expected, schema, record)
        assert payloads.get(i) == b"\0\0\0\0M" + expected.getvalue()


@pytest.mark.parametrize("make", [Market.trades, Market.quotes])
def test_json_says_the_same_as_the_records(make) -> None:
    columns = make(Market(6), 300)
    payloads = json_payloads(columns)
    for i, record in enumerate(records(columns)):
        said = json.loads(payloads.get(i), parse_float=Decimal)
        for name in ("exchange_timestamp", "ingestion_timestamp"):
            record[name] = round(record[name].timestamp() * 1000)
        assert said == record


def test_json_times_can_be_iso_texts() -> None:
    columns = Market(5).trades(20)
    for i, record in enumerate(records(columns)):
        said = json.loads(json_payloads(columns, iso_text).get(i))
        assert datetime.fromisoformat(said["exchange_timestamp"]) == record["exchange_timestamp"]


def test_the_same_seed_is_the_same_data_and_another_is_not() -> None:
    assert trade_records(50, seed=1) == trade_records(50, seed=1)
    assert trade_records(50, seed=1) != trade_records(50, seed=2)
    assert quote_records(50, seed=1) == quote_records(50, seed=1)


def test_sequence_numbers_count_by_one_for_each_symbol_across_calls() -> None:
    market = Market(3)
    seen: dict[str, int] = {}
    for _ in range(3):
        for record in records(market.trades(400)):
            assert record["sequence_number"] == seen.get(record["symbol"], 0) + 1
            seen[record["symbol"]] = record["sequence_number"]
    assert len(seen) == len(SYMBOLS)


def test_times_rise_and_prices_walk_on_across_calls() -> None:
    market = Market(4)
    first, second = market.trades(2000), market.trades(2000)
    times = np.concatenate([first.exchange_ms, second.exchange_ms])
    assert times[0] >= OPENING_MS
    assert (np.diff(times) >= 0).all()
    assert (first.ingestion_ms > first.exchange_ms).all()
    for symbol in range(len(SYMBOLS)):
        prices = np.concatenate([part.price[part.which == symbol] for part in (first, second)])
        assert (np.abs(np.diff(prices)) <= 4000).all()
        assert (prices > 0).all()


def test_every_symbol_has_one_home_and_homes_are_even() -> None:
    columns = Market().trades(4000)
    homes, keys = homes_of(columns, 8), keys_of(columns)
    assert len(set(zip(keys, homes, strict=True))) == len(SYMBOLS)
    assert set(np.bincount([home for _, home in set(zip(keys, homes, strict=True))])) == {5}


@pytest.mark.parametrize(
    "number", [0, 1, -1, 63, 64, -64, -65, 127, 128, -128, -129, 32767, 32768, -32769, 2**62, 2**63 - 1, -(2**63) + 1]
)
def test_numbers_at_every_edge_are_read_back_by_fastavro(number) -> None:
    schema = fastavro.parse_schema(
        {
            "type": "record",
            "name": "r",
            "fields": [
                {"name": "a", "type": "long"},
                {"name": "b", "type": {"type": "bytes", "logicalType": "decimal", "precision": 19, "scale": 0}},
                {"name": "c", "type": ["null", "long"]},
                {"name": "d", "type": ["null", "long"]},
            ],
        }
    )
    kinds = (Kind.LONG, Kind.DECIMAL, Kind.NULLABLE_LONG, Kind.NULLABLE_LONG)
    columns = [np.array([value], np.int64) for value in (number, number, number, ABSENT)]
    parts = Parts()
    parts.add([b""])
    written = io.BytesIO(encode(kinds, columns, parts).get(0))
    assert fastavro.schemaless_reader(written, schema) == {"a": number, "b": Decimal(number), "c": number, "d": None}
    assert written.read() == b""
