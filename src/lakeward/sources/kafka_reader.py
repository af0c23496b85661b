"""Reads stretches of topics once more, outside any consumer group: for audits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from lakeward.clock import Clock
from lakeward.errors import OperatorError, PermissionDeniedError, UnreachableError
from lakeward.positions import Bounds, Partition, Span
from lakeward.records import RawBatch
from lakeward.sources.kafka_catalogue import Catalogue
from lakeward.sources.kafka_client import (
    REQUEST_S,
    KafkaSettings,
    Trouble,
    close,
    connect,
    consumer_of,
    is_denied,
    properties_of,
)
from lakeward.sources.kafka_gather import native_intake
from lakeward.sources.kafka_intake import END, Event, Intake, PlainIntake

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CLIENT_ID = "lakeward-reader"
IDLE_S = 30.0
"""So long without a message, and the brokers count as away; in seconds."""
WAIT_S = 0.5
OUT_OF_RANGE = KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001  librdkafka's own codes are spelled so


@dataclass(slots=True)
class Stretch:
    """One partition's way through a reading: ``at`` is the next offset to hand over, ``end`` the first not wanted."""

    at: int
    end: int


class KafkaReader:
    """One consumer that joins no group, read_committed; a context, entered when the brokers answer.

    Entering raises UnreachableError where none does, PermissionDeniedError where one refuses us.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    def __enter__(self) -> Self:
        self._properties = properties_of(self._settings, CLIENT_ID)
        self._trouble = Trouble(self._settings.bootstrap_servers)
        self._consumer = consumer_of({**self._properties, "error_cb": self._trouble.heard, "log_level": 0})
        self._catalogue = Catalogue(self._consumer, self._properties)
        try:
            connect(self._consumer, self._trouble, self._clock)
        except BaseException:
            close(self._consumer)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close(self._consumer)

    def partitions(self, topics: Iterable[str]) -> Mapping[Partition, Bounds]:
        """See `lakeward.stages.Source.partitions`."""
        return self._catalogue.partitions(topics)

    def identities(self, topics: Iterable[str]) -> Mapping[str, str | None]:
        """See `lakeward.stages.Source.identities`."""
        return self._catalogue.identities(topics)

    def compacted(self, topics: Iterable[str]) -> Mapping[str, bool | None]:
        """Whether records of each topic may vanish below newer ones of the same key; None where nobody says."""
        asked = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
        keep = ("bootstrap.", "client.", "security.", "sasl.", "ssl.", "socket.")
        kept = {key: value for key, value in self._properties.items() if key.startswith(keep)}
        admin = AdminClient({**kept, "log_level": 0})
        told: dict[str, bool | None] = {}
        for resource, answer in admin.describe_configs(asked, request_timeout=REQUEST_S).items():
            try:
                told[resource.name] = "compact" in str(answer.result()["cleanup.policy"].value)
            except (KafkaException, KeyError) as failure:
                log.debug("topic settings not told", topic=resource.name, reason=str(failure))
                told[resource.name] = None
        return told

    def read(self, spans: Mapping[Partition, Span], *, native: bool) -> Iterator[RawBatch]:
        """Hand over every message inside ``spans`` that is still there, each once; in order within a partition.

        Args:
            spans: by partition, the offsets wanted; nothing outside is handed over.
            native: take messages by compiled code where it can be trusted; else by confluent-kafka's own calls.

        Raises:
            UnreachableError: nothing comes for `IDLE_S`. PermissionDeniedError: reading is refused.
            OperatorError: a message cannot be read.
        """
        left = {p: Stretch(span.start, span.end) for p, span in spans.items() if span.start < span.end}
        if not left:
            return
        headers = self._settings.headers
        intake = (native_intake(self._consumer, CLIENT_ID, headers=headers) if native else None) or PlainIntake(
            self._consumer, headers=headers
        )
        try:
            for partition in left:
                intake.attach(partition)
            self._consumer.incremental_assign([TopicPartition(*p, stretch.at) for p, stretch in left.items()])
            yield from self._until_done(intake, left)
        finally:
            if left:
                self._consumer.incremental_unassign([TopicPartition(*p) for p in left])
            intake.close()

    def _until_done(self, intake: Intake, left: dict[Partition, Stretch]) -> Iterator[RawBatch]:
        heard = self._clock.monotonic()
        while left:
            taken = intake.take(WAIT_S, self._settings.poll_records)
            now = self._clock.monotonic()
            if taken.batches or taken.events:
                heard = now
            elif now - heard > IDLE_S:
                raise UnreachableError(
                    f"Kafka at {self._settings.bootstrap_servers} sends nothing of {min(left)} from offset "
                    f"{left[min(left)].at} on: {self._trouble.reason}",
                    "Run it again when the brokers are up.",
                )
            for raw in taken.batches:
                wanted = self._wanted(raw, left)
                if len(wanted):
                    yield wanted
            for event in taken.events:
                self._hear(event, intake, left)

    def _wanted(self, raw: RawBatch, left: dict[Partition, Stretch]) -> RawBatch:
        """The messages of ``raw`` that lie in their stretches; moves these on, and ends those that are through."""
        keep = np.zeros(len(raw), np.bool_)
        for number in np.unique(raw.partition).tolist():
            partition = Partition(raw.topic, number)
            stretch = left.get(partition)
            if stretch is None:
                continue
            mine = raw.partition == number
            keep |= mine & (raw.offset >= stretch.at) & (raw.offset < stretch.end)
            stretch.at = max(stretch.at, int(raw.offset[mine].max()) + 1)
            self._end(partition, left)
        return raw if keep.all() else raw.select(np.flatnonzero(keep))

    def _end(self, partition: Partition, left: dict[Partition, Stretch]) -> None:
        if left[partition].at >= left[partition].end:
            del left[partition]
            self._consumer.incremental_unassign([TopicPartition(*partition)])

    def _hear(self, event: Event, intake: Intake, left: dict[Partition, Stretch]) -> None:
        partition = event.partition
        if partition is None or partition not in left:
            return
        stretch = left[partition]
        if event.code == END:
            stretch.at = max(stretch.at, event.offset)
            self._end(partition, left)
        elif event.code == OUT_OF_RANGE:
            bounds = self.partitions([partition.topic]).get(partition)
            low = bounds.low if bounds is not None else stretch.end
            stretch.at = max(stretch.at, low)  # expired while we read
            self._consumer.incremental_unassign([TopicPartition(*partition)])
            if stretch.at >= stretch.end:
                del left[partition]
                return
            self._consumer.incremental_assign([TopicPartition(*partition, stretch.at)])
            intake.attach(partition)
        elif is_denied(KafkaError(event.code)):
            raise PermissionDeniedError(
                f"reading {partition} is refused: {event.reason}", "Give this user the right to read the topic."
            )
        elif event.code in (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError.MSG_SIZE_TOO_LARGE):  # noqa: SLF001
            raise OperatorError(
                f"{partition} cannot be read at offset {event.offset}: {event.reason}",
                "The message is damaged or too large; repair it on the broker, or raise receive.message.max.bytes.",
            )
        else:
            log.warning("kafka", partition=str(partition), code=event.code, reason=event.reason)
