"""Sending many messages fast, and all of them or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, repeat
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from lakeward.errors import UnreachableError
from lakeward.records import Blobs

CHUNK = 10_000
QUEUED = 500_000
"""So many messages may wait in the producer before more are added."""

FLUSH_S = 60.0
ANYWHERE = -1
"""The partition that leaves the choice to the client."""


def producer_of(bootstrap_servers: str, properties: Mapping[str, Any] | None = None) -> Producer:
    """A producer for loads: large compressed batches, each message once and in order."""
    return Producer(
        {
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
        }
    )


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
    rows = zip(texts, keys or repeat(None), homes or repeat(ANYWHERE), strict=False)
    while chunk := list(islice(rows, CHUNK)):
        while len(producer) > QUEUED:
            producer.poll(0.01)
        by_home: dict[int, list[dict[str, Any]]] = {}
        for value, key, home in chunk:
            by_home.setdefault(home, []).append({"value": value, "key": key})
        for home, messages in by_home.items():  # the binding takes no partition of a single message
            if producer.produce_batch(topic, messages, home, on_delivery=delivered) != len(messages):
                raise UnreachableError(f"the producer does not queue messages to {topic}: {_first_error(messages)}")
        producer.poll(0)
    left = producer.flush(FLUSH_S)
    if failures or left:
        reason = failures[0].str() if failures else "no answer"
        raise UnreachableError(f"{len(failures) + left} of {count} messages to {topic} were not taken: {reason}")
    return count


def _first_error(messages: Sequence[Mapping[str, Any]]) -> str:
    return next((str(message["_error"]) for message in messages if "_error" in message), "")
