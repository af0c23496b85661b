"""Made-up market data of the Australian exchange: the same seed is always the same data, byte for byte.

A `Market` walks on: what it makes next continues what it made before. `trades` and `quotes` make columns; those become
dicts (for people and oracles), Avro payloads in Confluent's framing, or JSON payloads. The fields and their order are
those of the schemas ``trade.avsc`` and ``quote.avsc``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakeward.records import Blobs
from lakeward.testing.avro_payloads import Kind, Parts, encode

Longs = NDArray[np.int64]

EXCHANGE = "ASX"
SCALE = 6
OPENING_MS = 1_768_435_200_000
"""2026-01-15T00:00:00Z, eleven in the morning in Sydney."""

SYMBOLS: Sequence[tuple[str, int, float]] = (
    ("BHP", 7078, 45.21), ("CBA", 2211, 158.4), ("CSL", 3032, 271.15), ("NAB", 4120, 38.62), ("WBC", 4871, 33.08),
    ("ANZ", 1045, 29.77), ("WES", 4888, 77.9), ("MQG", 3911, 214.3), ("WOW", 4902, 31.44), ("TLS", 4519, 3.98),
    ("RIO", 4377, 121.66), ("FMG", 3318, 19.02), ("WDS", 4860, 24.71), ("TCL", 4502, 13.25), ("GMG", 3377, 34.5),
    ("ALL", 1021, 62.18), ("REA", 4358, 228.75), ("QAN", 4331, 8.41), ("STO", 4466, 6.93), ("COL", 2988, 18.79),
    ("XRO", 4980, 165.2), ("SHL", 4437, 25.36), ("ORG", 4205, 10.84), ("S32", 4399, 3.61), ("JHX", 3702, 52.07),
    ("COH", 2979, 293.4), ("BXB", 2790, 19.88), ("SUN", 4478, 19.3), ("QBE", 4335, 18.97), ("IAG", 3604, 7.72),
    ("CPU", 3009, 30.15), ("RMD", 4382, 36.4), ("PLS", 4290, 2.87), ("MIN", 3895, 34.9), ("NST", 4168, 16.02),
    ("EVN", 3270, 5.11), ("ASX", 1088, 66.6), ("AMC", 1037, 15.08), ("SCG", 4405, 3.42), ("VCX", 4790, 2.19),
)  # fmt: skip
"""Ticker, company id, opening price."""

VENUES = ("ASX", "CXA", "CHIX", "TRADEMATCH", "CENTREPOINT")
BUYERS: tuple[str | None, ...] = (None, *(f"BRK{number:04d}" for number in range(1, 41)))

TRADE_KINDS = (
    Kind.PART, Kind.LONG, Kind.DECIMAL, Kind.LONG, Kind.LONG, Kind.PART, Kind.PART, Kind.LONG, Kind.NULLABLE_LONG,
)  # fmt: skip
QUOTE_KINDS = (
    Kind.PART, Kind.LONG, Kind.DECIMAL, Kind.LONG, Kind.DECIMAL, Kind.LONG, Kind.LONG, Kind.NULLABLE_LONG,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trades:
    """``n`` trades as int64[n] columns. ``which`` indexes `SYMBOLS`; prices are in millionths; times in ms."""

    which: Longs
    exchange_ms: Longs
    price: Longs
    volume: Longs
    qualifiers: Longs
    venue: Longs
    buyer: Longs
    ingestion_ms: Longs
    sequence: Longs

    def __len__(self) -> int:
        return len(self.which)


@dataclass(frozen=True, slots=True)
class Quotes:
    """``n`` quotes as int64[n] columns, see `Trades`."""

    which: Longs
    exchange_ms: Longs
    bid: Longs
    bid_volume: Longs
    ask: Longs
    ask_volume: Longs
    ingestion_ms: Longs
    sequence: Longs

    def __len__(self) -> int:
        return len(self.which)


class Market:
    """A day on the exchange, from ``start_ms`` on, with ``gap_ms`` between two messages on average."""

    def __init__(self, seed: int = 0, start_ms: int = OPENING_MS, gap_ms: float = 2.0) -> None:
        self._chance = np.random.default_rng(seed)
        self._gap_ms = gap_ms
        self._now = float(start_ms)
        self._price = np.array([round(price * 10**SCALE) for _, _, price in SYMBOLS], np.int64)
        self._sequence: dict[type[Trades | Quotes], Longs] = {
            Trades: np.zeros(len(SYMBOLS), np.int64),
            Quotes: np.zeros(len(SYMBOLS), np.int64),
        }

    def trades(self, n: int) -> Trades:
        """The next ``n`` trades."""
        which, times, price, sequence = self._walk(n, Trades)
        chance = self._chance
        return Trades(
            which,
            times,
            price,
            chance.geometric(0.004, n).astype(np.int64),
            np.where(chance.random(n) < 0.9, 0, chance.integers(1, 64, n)).astype(np.int64),
            np.minimum(chance.geometric(0.6, n), len(VENUES)).astype(np.int64) - 1,
            np.where(chance.random(n) < 0.3, 0, chance.integers(1, len(BUYERS), n)).astype(np.int64),
            times + chance.integers(1, 40, n),
            sequence,
        )

    def quotes(self, n: int) -> Quotes:
        """The next ``n`` quotes."""
        which, times, price, sequence = self._walk(n, Quotes)
        chance = self._chance
        half = chance.integers(500, 20_000, n)
        return Quotes(
            which,
            times,
            np.maximum(price - half, 1),
            chance.geometric(0.001, n).astype(np.int64),
            price + half,
            chance.geometric(0.001, n).astype(np.int64),
            times + chance.integers(1, 40, n),
            sequence,
        )

    def _walk(self, n: int, kind: type[Trades | Quotes]) -> tuple[Longs, Longs, Longs, Longs]:
        """Symbols, rising times, a price walk and a count of its own for each symbol."""
        which = self._chance.integers(0, len(SYMBOLS), n)
        times = self._now + np.cumsum(self._chance.exponential(self._gap_ms, n))
        self._now = float(times[-1]) if n else self._now
        order = np.argsort(which, kind="stable")
        counts = np.bincount(which, minlength=len(SYMBOLS))
        first = np.cumsum(counts) - counts
        rank = np.empty(n, np.int64)
        rank[order] = np.arange(n) - np.repeat(first, counts)
        sequence = self._sequence[kind][which] + rank + 1
        self._sequence[kind] += counts
        steps = self._chance.integers(-4000, 4001, n)
        walked = np.cumsum(steps[order])
        before = np.concatenate([[0], walked])[first]
        price = np.empty(n, np.int64)
        price[order] = walked - np.repeat(before, counts)
        price = np.maximum(price + self._price[which], 10_000)
        some = counts > 0
        self._price[some] = price[order[(first + counts - 1)[some]]]
        return which.astype(np.int64), times.astype(np.int64), price, sequence


def records(columns: Trades | Quotes) -> Iterator[dict[str, Any]]:
    """The rows as dicts: aware datetimes, exact decimals."""
    for row in _rows(columns):
        symbol, company, _ = SYMBOLS[row["which"]]
        head = {
            "symbol": symbol,
            "company_id": company,
            "exchange": EXCHANGE,
            "exchange_timestamp": _moment(row["exchange_ms"]),
        }
        tail = {"ingestion_timestamp": _moment(row["ingestion_ms"]), "sequence_number": row["sequence"]}
        if isinstance(columns, Trades):
            middle = {
                "price": _price(row["price"]),
                "volume": row["volume"],
                "qualifiers": row["qualifiers"],
                "venue": VENUES[row["venue"]],
                "buyer_id": BUYERS[row["buyer"]],
            }
        else:
            middle = {
                "bid_price": _price(row["bid"]),
                "bid_volume": row["bid_volume"],
                "ask_price": _price(row["ask"]),
                "ask_volume": row["ask_volume"],
            }
        yield head | middle | tail


def trade_records(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """The first ``n`` trades of the market of ``seed``."""
    return list(records(Market(seed).trades(n)))


def quote_records(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """The first ``n`` quotes of the market of ``seed``."""
    return list(records(Market(seed).quotes(n)))


def avro_payloads(columns: Trades | Quotes, schema_id: int) -> Blobs:
    """The rows as Avro, each behind a zero byte and ``schema_id`` as four bytes."""
    framing = b"\0" + struct.pack(">I", schema_id)
    parts = Parts()
    symbols = parts.add(
        framing + Parts.text(symbol) + Parts.long(company) + Parts.text(EXCHANGE) for symbol, company, _ in SYMBOLS
    )
    if isinstance(columns, Quotes):
        c = columns
        quote = (
            symbols[c.which], c.exchange_ms, c.bid, c.bid_volume, c.ask, c.ask_volume, c.ingestion_ms, c.sequence,
        )  # fmt: skip
        return encode(QUOTE_KINDS, quote, parts)
    venues = parts.add(map(Parts.text, VENUES))
    buyers = parts.add(Parts.long(0) if buyer is None else Parts.long(1) + Parts.text(buyer) for buyer in BUYERS)
    t = columns
    trade = (
        symbols[t.which], t.exchange_ms, t.price, t.volume, t.qualifiers, venues[t.venue], buyers[t.buyer],
        t.ingestion_ms, t.sequence,
    )  # fmt: skip
    return encode(TRADE_KINDS, trade, parts)


def iso_text(milliseconds: int) -> str:
    """A time as a JSON string: ISO 8601 in UTC, with milliseconds."""
    return f'"{np.datetime64(milliseconds, "ms")}Z"'


def json_payloads(columns: Trades | Quotes, time: Callable[[int], str] = str) -> Blobs:
    """The rows as JSON: exact decimals as numbers with six digits, times as ``time`` makes them: milliseconds."""
    texts = []
    for row in _rows(columns):
        symbol, company, _ = SYMBOLS[row["which"]]
        if isinstance(columns, Trades):
            buyer = BUYERS[row["buyer"]]
            middle = (
                f'"price":{_digits(row["price"])},"volume":{row["volume"]},"qualifiers":{row["qualifiers"]},'
                f'"venue":"{VENUES[row["venue"]]}","buyer_id":{"null" if buyer is None else chr(34) + buyer + chr(34)}'
            )
        else:
            middle = (
                f'"bid_price":{_digits(row["bid"])},"bid_volume":{row["bid_volume"]},'
                f'"ask_price":{_digits(row["ask"])},"ask_volume":{row["ask_volume"]}'
            )
        texts.append(
            f'{{"symbol":"{symbol}","company_id":{company},"exchange":"{EXCHANGE}",'
            f'"exchange_timestamp":{time(row["exchange_ms"])},{middle},'
            f'"ingestion_timestamp":{time(row["ingestion_ms"])},"sequence_number":{row["sequence"]}}}'.encode()
        )
    return Blobs.of(texts)


def keys_of(columns: Trades | Quotes) -> list[bytes]:
    """Each row's message key: its symbol."""
    keys = [symbol.encode() for symbol, _, _ in SYMBOLS]
    return [keys[i] for i in columns.which.tolist()]


def homes_of(columns: Trades | Quotes, partitions: int) -> list[int]:
    """Each row's partition: a symbol always has the same, and each partition as many symbols as the others."""
    return [int(home) for home in columns.which % partitions]


def _rows(columns: Trades | Quotes) -> Iterator[Mapping[str, int]]:
    names = columns.__slots__
    for values in zip(*(getattr(columns, name).tolist() for name in names), strict=True):
        yield dict(zip(names, values, strict=True))


def _moment(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def _price(millionths: int) -> Decimal:
    return Decimal(millionths).scaleb(-SCALE)


def _digits(millionths: int) -> str:
    whole, part = divmod(millionths, 10**SCALE)
    return f"{whole}.{part:06d}"
