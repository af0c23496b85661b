"""Which topics to subscribe to: those named, and those that a pattern matches, also when they appear later.

librdkafka's own patterns are another dialect than Python's, so topics are looked up here and subscribed by name.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

import structlog
from confluent_kafka import Consumer, KafkaException

from lakeward.clock import Clock
from lakeward.sources.kafka_client import KafkaSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MISSING_S, PATTERN_S = 1.0, 5.0
"""Seconds between two looks while a named topic is missing, and for topics that a pattern might match."""

LOOK_S = 1.0
"""How long one look may hold up polling, in seconds."""


class TopicWatch:
    """Only grows: a topic that is gone is librdkafka's business, and a broker may forget one for a moment."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._named = frozenset(settings.topics)
        self._patterns = [re.compile(pattern) for pattern in settings.patterns]
        self._clock = clock
        self._next = 0.0
        self.found: frozenset[str] = frozenset()

    def look(self, consumer: Consumer) -> bool:
        """Look if it is time to; return whether there are more topics than before."""
        now = self._clock.monotonic()
        missing = self._named - self.found
        if now < self._next or not (missing or self._patterns):
            return False
        self._next = now + (MISSING_S if missing else PATTERN_S)
        try:
            # Through the consumer itself, which thereby learns of the topics that it is about to subscribe to.
            there = consumer.list_topics(timeout=LOOK_S).topics
        except KafkaException as failure:
            log.debug("topics not listed", reason=failure.args[0].str())
            return False
        existing = {name for name, about in there.items() if about.error is None and about.partitions}
        new = self.among(existing) - self.found
        if new:
            log.info("subscribes", topics=sorted(new))
            self.found |= new
        return bool(new)

    def among(self, existing: AbstractSet[str]) -> frozenset[str]:
        """Those of ``existing`` that are to be read."""
        matched = {name for name in existing if any(pattern.fullmatch(name) for pattern in self._patterns)}
        return frozenset((existing & self._named) | matched)
