"""Questions to the brokers about topics: which partitions, what they hold, who they are."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from lakeward.positions import Bounds, Partition
from lakeward.sources.kafka_client import REQUEST_S, unanswered

EARLIEST, LATEST = -2, -1
"""What ListOffsets takes instead of a timestamp."""

NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""All zeros: what brokers from before topic ids answer."""

_ADMIN_KEEPS = ("bootstrap.", "client.", "security.", "sasl.", "ssl.", "socket.", "reconnect.", "enable.ssl", "log")
"""The properties that say how to connect."""


class Catalogue:
    """Asks for offsets through the consumer's own connections; for topics through a client of its own.

    Metadata of all topics that comes to a consumer while it joins its group makes librdkafka join again; the embedded
    broker never answers that. The second client is made when it is first needed.
    """

    def __init__(self, consumer: Consumer, properties: Mapping[str, Any]) -> None:
        self._consumer = consumer
        self._properties = {key: value for key, value in properties.items() if key.startswith(_ADMIN_KEEPS)}
        self._admin: AdminClient | None = None
        self._tells_ids = False
        self._making = threading.Lock()

    def partitions(self, topics: Iterable[str]) -> dict[Partition, Bounds]:
        """See `lakeward.stages.Source.partitions`."""
        there = self._there(list(topics))
        if not there:
            return {}
        low, end = self._offsets(there, EARLIEST), self._offsets(there, LATEST)
        return {p: Bounds(low[p], end[p]) for p in there if p in low and p in end}

    def topics(self) -> frozenset[str]:
        """All topics that there are.

        Raises:
            UnreachableError, PermissionDeniedError: the brokers do not say.
        """
        try:
            known = self._asking().list_topics(timeout=REQUEST_S).topics
        except KafkaException as failure:
            raise unanswered("topics", failure) from failure
        return frozenset(name for name, about in known.items() if about.error is None and about.partitions)

    def _there(self, topics: list[str]) -> list[Partition]:
        """The partitions of ``topics``. Asked for all that there are: a question about one by name may create it."""
        try:
            known = self._asking().list_topics(timeout=REQUEST_S).topics if topics else {}
        except KafkaException as failure:
            raise unanswered(f"topic {', '.join(topics)}", failure) from failure
        there: list[Partition] = []
        for topic in topics:
            about = known.get(topic)
            if about is None or (about.error and about.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART):
                continue
            if about.error is not None:
                raise unanswered(f"topic {topic}", KafkaException(about.error))
            there += [Partition(topic, number) for number in sorted(about.partitions)]
        return there

    def _offsets(self, partitions: Iterable[Partition], when: int) -> dict[Partition, int]:
        asked = [TopicPartition(*p, when) for p in partitions]
        try:
            answers = self._consumer.offsets_for_times(asked, timeout=REQUEST_S)
        except KafkaException as failure:
            raise unanswered("offsets", failure) from failure
        offsets: dict[Partition, int] = {}
        for answer in answers:
            if answer.error is None:
                offsets[Partition(answer.topic, answer.partition)] = answer.offset
            elif answer.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise unanswered(f"offsets of {answer.topic}/{answer.partition}", KafkaException(answer.error))
        return offsets

    def offsets_at(self, partitions: Iterable[Partition], timestamp_ms: int) -> dict[Partition, int]:
        """See `lakeward.stages.Source.offsets_at`."""
        asked = list(partitions)
        if not asked:
            return {}
        found = self._offsets(asked, max(0, timestamp_ms))
        late = [p for p in asked if found.get(p, -1) < 0]
        return {p: o for p, o in found.items() if o >= 0} | (self._offsets(late, LATEST) if late else {})

    def identities(self, topics: Iterable[str]) -> dict[str, str | None]:
        """See `lakeward.stages.Source.identities`."""
        asked = list(topics)
        try:
            if not self._tells_ids:
                cluster = self._asking().list_topics(timeout=REQUEST_S)
                if cluster.controller_id <= 0 and not cluster.brokers.get(cluster.controller_id):
                    # Without a controller, nobody answers.
                    return {t: None for t in asked if t in cluster.topics and cluster.topics[t].error is None}
                self._tells_ids = True
            return self._described(asked) if asked else {}
        except KafkaException as failure:
            raise unanswered(f"the ids of {', '.join(asked)}", failure) from failure

    def _described(self, topics: list[str]) -> dict[str, str | None]:
        """By the admin client alone: another thread may ask while the consumer is closed."""
        ids: dict[str, str | None] = {}
        answers = self._asking().describe_topics(TopicCollection(topics), request_timeout=REQUEST_S)
        for topic, answer in answers.items():
            try:
                text = str(answer.result().topic_id)
            except KafkaException as failure:
                if failure.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
            else:
                ids[topic] = None if text == NO_ID else text
        return ids

    def _asking(self) -> AdminClient:
        with self._making:
            if self._admin is None:  # an idle client is falsy
                self._admin = AdminClient({**self._properties, "log_level": 0})  # what fails is raised
            return self._admin

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """See `lakeward.stages.Source.ends`."""
        ends = {}
        for partition in partitions:
            watermarks = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            if watermarks[1] >= 0:
                ends[partition] = watermarks[1]
        return ends
