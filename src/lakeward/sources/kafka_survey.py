"""A look at topics without joining their consumer group: for commands that only ask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from lakeward.clock import Clock
from lakeward.positions import Bounds, Partition
from lakeward.sources.kafka_catalogue import Catalogue
from lakeward.sources.kafka_client import KafkaSettings, Trouble, close, connect, consumer_of, properties_of

PATIENCE_S = 3.0
"""How long brokers have to answer, in seconds: somebody waits for it."""


@contextmanager
def surveying(settings: KafkaSettings, clock: Clock) -> Iterator[Catalogue]:
    """Somebody to ask about topics, while the context lasts.

    Raises:
        UnreachableError: no broker answers. PermissionDeniedError: the broker refuses us.
    """
    properties = {**properties_of(settings, "lakeward-survey"), "log_level": 0}  # what fails is raised
    trouble = Trouble(settings.bootstrap_servers)
    consumer = consumer_of({**properties, "error_cb": trouble.heard})
    try:
        connect(consumer, trouble, clock, PATIENCE_S)
        yield Catalogue(consumer, properties)
    finally:
        close(consumer)


def survey(settings: KafkaSettings, topics: Iterable[str], clock: Clock) -> Mapping[Partition, Bounds]:
    """All partitions of ``topics`` and what they hold now.

    Raises:
        UnreachableError: no broker answers. PermissionDeniedError: the broker refuses us.
    """
    with surveying(settings, clock) as catalogue:
        return catalogue.partitions(topics)
