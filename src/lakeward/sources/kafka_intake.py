"""Messages out of librdkafka, as columns: what the native and the plain way have in common, and the plain way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from confluent_kafka import Consumer, KafkaError, Message

from lakeward.positions import Partition
from lakeward.records import Blobs, RawBatch

END = KafkaError._PARTITION_EOF  # noqa: SLF001  librdkafka's own codes are spelled so
"""The code of the event that everything of a partition has been handed over, up to its offset."""


@dataclass(frozen=True, slots=True)
class Event:
    """What came between the messages of a partition: its end, or an error. ``partition`` is None for the client's."""

    partition: Partition | None
    code: int
    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What was there: batches of one topic each, and events. Nothing of an earlier seek or assignment is among it."""

    batches: Sequence[RawBatch] = ()
    events: Sequence[Event] = ()


class Intake(Protocol):
    """One way of taking messages from a consumer. Rebalance callbacks run inside `take` and nowhere else."""

    def attach(self, partition: Partition) -> None:
        """Called in the assignment callback, before the partition is assigned."""

    def take(self, timeout: float, limit: int) -> Taken:
        """Up to ``limit`` messages, waiting ``timeout`` seconds for the first."""

    def serve(self, timeout: float) -> Sequence[Event] | None:
        """Run callbacks for ``timeout`` seconds at most, and leave messages where they are; None: it cannot."""

    def close(self) -> None:
        """Let go of everything that belongs to the consumer."""


class PlainIntake:
    """By `Consumer.consume`, a Python object a message. Works wherever confluent-kafka does."""

    def __init__(self, consumer: Consumer, *, headers: bool) -> None:
        self._consumer = consumer
        self._headers = headers

    def attach(self, partition: Partition) -> None:
        """See `Intake.attach`; nothing to do."""

    def take(self, timeout: float, limit: int) -> Taken:
        """See `Intake.take`."""
        messages = self._consumer.consume(limit, 0)
        if not messages and timeout > 0:
            messages = self._consumer.consume(1, timeout)
            messages += self._consumer.consume(limit, 0)
        return columns_of(messages, headers=self._headers)

    def serve(self, timeout: float) -> None:
        """See `Intake.serve`: callbacks and messages come through one call."""

    def close(self) -> None:
        """See `Intake.close`; nothing to do."""


def columns_of(messages: Iterable[Message], *, headers: bool) -> Taken:
    """Messages as columns, one batch a topic, and events."""
    by_topic: dict[str, list[Message]] = {}
    events: list[Event] = []
    for message in messages:
        if message.error() is None:
            by_topic.setdefault(_name(message), []).append(message)
        else:
            events.append(event_of(message))
    return Taken([_batch(topic, of_topic, headers=headers) for topic, of_topic in by_topic.items()], events)


def event_of(message: Message) -> Event:
    """The event that a message with an error stands for."""
    error, topic, partition = message.error(), message.topic(), message.partition()
    if error is None:
        raise ValueError("a message without an error is not an event")
    place = Partition(topic, partition) if topic is not None and partition is not None and partition >= 0 else None
    return Event(place, error.code(), message.offset() or 0, error.str())


def _name(message: Message) -> str:
    return message.topic() or ""


def _batch(topic: str, messages: Sequence[Message], *, headers: bool) -> RawBatch:
    count = len(messages)
    return RawBatch(
        topic,
        np.fromiter((m.partition() for m in messages), np.int32, count),
        np.fromiter((m.offset() for m in messages), np.int64, count),
        np.fromiter((_timestamp(m) for m in messages), np.int64, count),
        Blobs.of([m.key() for m in messages]),
        Blobs.of([m.value() for m in messages]),
        [cast("list[tuple[str, bytes | None]]", m.headers() or []) for m in messages] if headers else None,
    )


def _timestamp(message: Message) -> int:
    kind, milliseconds = message.timestamp()
    return int(milliseconds) if kind else -1
