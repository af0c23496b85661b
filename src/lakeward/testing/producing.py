"""Sending many messages fast, and all of them or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from lakeward.errors import UnreachableError
from lakeward.records import Blobs

CHUNK = 10_000
FLUSH_S = 60.0


def producer_of(bootstrap_servers: str, properties: Mapping[str, Any] | None = None) -> Producer:
    """A producer for loads: large compressed batches, each message once and in order."""
    return Producer({
        "bootstrap.servers": bootstrap_servers,
        "enable.idempotence": True,
        "compression.type": "zstd",
        "linger.ms": 20,
        "batch.size": 1 << 20,
        "batch.num.messages": CHUNK,
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 256 << 10,
        "delivery.report.only.error": True,
        "log.connection.close": False,
        **(properties or {}),
    })


def produce(
    producer: Producer,
    topic: str,
    values: Blobs | Sequence[bytes | None],
    keys: Sequence[bytes | None] | None = None,
    homes: Sequence[int] | None = None,
) -> int:
    """Send ``values`` in order, and wait until the brokers have them.

    Args:
        producer: see `producer_of`.
        topic: where to.
        values: what; None is a tombstone.
        keys: one a value; None: no keys.
        homes: each value's partition; None leaves it to the client, by a checksum of the key.

    Returns:
        How many were sent.

    Raises:
        UnreachableError: some were not taken.
    """
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    count = len(values)
    texts = (values.get(i) for i in range(count)) if isinstance(values, Blobs) else iter(values)
    columns = {"value": texts, "key": keys, "partition": homes}
    given = {name: iter(column) for name, column in columns.items() if column is not None}
    rows = zip(*given.values(), strict=True)
    while chunk := [dict(zip(given, row, strict=True)) for row in islice(rows, CHUNK)]:
        _queue(producer, topic, chunk, delivered)
    left = producer.flush(FLUSH_S)
    if failures or left:
        reason = failures[0].str() if failures else "no answer"
        raise UnreachableError(f"{len(failures) + left} of {count} messages to {topic} were not taken: {reason}")
    return count


def _queue(producer: Producer, topic: str, chunk: list[dict[str, Any]], delivered: Any) -> None:
    while chunk:
        producer.produce_batch(topic, chunk, on_delivery=delivered)
        chunk = [message for message in chunk if message.pop("_error", None) is not None]
        producer.poll(0.05 if chunk else 0)
