"""What bad records cost: a decoder alone, trades in memory, none bad, one in a million, in a thousand, in a hundred.

``python -m benchmarks.poison [--kinds avro,json] [--messages N]``. CPU time of the whole process, all threads; the best
of several runs. Bad records are damaged in turn as things go wrong in life: cut short, a flipped bit, bytes behind the
end, of another format, empty.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import requests

from benchmarks.topics import JSON_FIELDS, SCHEMA
from lakeward.cli.output import print_table
from lakeward.clock import SystemClock
from lakeward.decoding.avro import AvroDecoder
from lakeward.decoding.json import JsonDecoder
from lakeward.decoding.registry import RegistryClient
from lakeward.records import Blobs, Decoded, RawBatch
from lakeward.stages import Decoder
from lakeward.testing.generators import Market, avro_payloads, iso_text, json_payloads
from lakeward.testing.registry import EmbeddedRegistry

KINDS = ("avro", "json")
RATES = (0.0, 1e-6, 1e-3, 1e-2)
BATCH = 100_000
"""Messages in one batch, as a source hands them over."""


@contextmanager
def decoding(kind: str, messages: int) -> Iterator[tuple[Decoder, Blobs]]:
    """A decoder and so many good messages for it."""
    trades = Market(seed=1).trades(messages)
    if kind == "json":
        yield JsonDecoder(JSON_FIELDS), json_payloads(trades, iso_text)
        return
    with EmbeddedRegistry() as registry, requests.Session() as session:
        schema_id = registry.register("trades-value", SCHEMA.read_text())
        client = RegistryClient(registry.url, None, SystemClock(), session)
        yield AvroDecoder(client, None), avro_payloads(trades, schema_id)


def poisoned(good: Blobs, bad: int) -> Blobs:
    """The same messages with so many of them damaged, spread evenly."""
    if not bad:
        return good
    places = np.linspace(0, len(good) - 1, bad).astype(np.int64)
    damaged = Blobs.of([_damaged(good.get(int(place)) or b"", number) for number, place in enumerate(places)])
    start, length = good.start.copy(), good.length.copy()
    start[places] = damaged.start + len(good.data)
    length[places] = damaged.length
    return Blobs(np.concatenate([good.data, damaged.data]), start, length)


class Damage:
    """Damages a share of a stream that comes in pieces. ``bad``: how many messages so far."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._messages = 0
        self.bad = 0

    def __call__(self, good: Blobs) -> Blobs:
        """The next piece."""
        self._messages += len(good)
        before, self.bad = self.bad, int(self._messages * self._rate)
        return poisoned(good, self.bad - before)


def _damaged(payload: bytes, number: int) -> bytes:
    match number % 5:
        case 0:
            return payload[: len(payload) * 2 // 3]
        case 1:  # in the header of Avro, in the first key of JSON
            return payload[:1] + bytes([payload[1] ^ 0x80]) + payload[2:]
        case 2:
            return payload + b"}\0"
        case 3:
            return b'<?xml version="1.0"?>' + payload
        case _:
            return b""


def measure(decoder: Decoder, values: Blobs, repeat: int) -> tuple[float, int]:
    """Nanoseconds of CPU a message, the best of ``repeat`` runs, and how many messages were rejected."""
    batches = [_batch(values, low) for low in range(0, len(values), BATCH)]
    best, rejects = float("inf"), 0
    for _ in range(repeat):
        began = time.process_time_ns()
        decoded: list[Decoded] = [decoder.decode(batch) for batch in batches]
        best = min(best, (time.process_time_ns() - began) / len(values))
        rejects = sum(len(one.rejects) for one in decoded)
    return best, rejects


def _batch(values: Blobs, low: int) -> RawBatch:
    chosen = slice(low, low + BATCH)
    part = Blobs(values.data, values.start[chosen], values.length[chosen])
    numbers = np.arange(len(part), dtype=np.int64)
    return RawBatch("trades", np.zeros(len(part), np.int32), numbers, numbers, Blobs.of([None] * len(part)), part)


def figures(kind: str, messages: int, repeat: int = 5) -> dict[str, float]:
    """Nanoseconds of CPU a message by the share of bad ones, as text."""
    found: dict[str, float] = {}
    with decoding(kind, messages) as (decoder, good):
        measure(decoder, good, 1)  # compiles
        for rate in RATES:
            bad = int(len(good) * rate)
            found[f"{rate:g}"], rejects = measure(decoder, poisoned(good, bad), repeat)
            if rejects != bad:
                raise SystemExit(f"{kind}: {bad} messages were bad, {rejects} were rejected")
    return found


def print_poison(what: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """A line a kind, a column a share of bad records; ``what``: of what these are nanoseconds a message."""
    head = (f"{what}, NS A MESSAGE", *(f"{rate:g} BAD" for rate in RATES))
    print_table(head, [(kind, *(f"{value:,.0f}" for value in by_rate.values())) for kind, by_rate in found.items()])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.poison", description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS), help="avro, json or both")
    parser.add_argument("--messages", type=int, default=1_000_000, help="messages decoded in each run")
    chosen = parser.parse_args(arguments)
    print_poison("DECODER", {kind: figures(kind, chosen.messages) for kind in chosen.kinds.split(",")})


if __name__ == "__main__":
    main()
