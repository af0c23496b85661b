"""From a configuration to a pipeline: the only place that knows every part."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pyiceberg.catalog import Catalog

from lakeward.admission import SchemaChanges
from lakeward.batching import FlushPolicy
from lakeward.clock import Clock
from lakeward.config import CATALOG_NAME, Config
from lakeward.config.sources import Kafka
from lakeward.config.tables import Table
from lakeward.dead_letters.box import Letterbox
from lakeward.dead_letters.rows import Owner
from lakeward.decoders import Decoders
from lakeward.decoding.code_cache import default_folder
from lakeward.errors import ConfigurationError
from lakeward.keying import Upserting
from lakeward.lanes import Lane, LaneSettings
from lakeward.metadata_columns import HEADER_PREFIX
from lakeward.observability.progress import Progress
from lakeward.pipeline import Pipeline, PipelineSettings
from lakeward.positions import Bounds, Partition
from lakeward.routing import Route, tables_for
from lakeward.scheduling import HELD_BATCHES, LEAST_HELD_BYTES, Limits
from lakeward.sequences import Rule
from lakeward.sinks.iceberg.catalog import commits_at_once, open_catalog
from lakeward.sinks.iceberg.compacting import Submit
from lakeward.sinks.iceberg.target import IcebergTarget, TargetSettings
from lakeward.sources.kafka import KafkaSource
from lakeward.sources.kafka_client import KafkaSettings
from lakeward.sources.kafka_survey import survey, surveying
from lakeward.starts import Clockwork, Edge, Holdings, Lost, StartPolicy


@dataclass(frozen=True, slots=True)
class Choices:
    """What a command adds to the configuration."""

    adopt: str | None = None
    instance: str | None = None
    """Static membership of the consumer group: a worker that comes back under this name gets its partitions at once."""
    sole: Callable[[], bool] | None = None
    """Tells whether nobody else can have ``instance`` now; None: somebody can."""
    drain_s: float = 30.0
    code_cache: Path | None = None


class Assembly:
    """Builds the parts of one configuration. Nothing is asked of a server before it is used."""

    def __init__(self, config: Config, clock: Clock, chance: random.Random, choices: Choices | None = None) -> None:
        config.require_available()
        self.config = config
        self._clock = clock
        self._chance = chance
        self._choices = choices or Choices()
        self._catalog: Catalog | None = None
        self._rewriting: ThreadPoolExecutor | None = None
        self._targets: dict[str, IcebergTarget] = {}
        self._letters: dict[str, IcebergTarget] = {}
        self._lanes: dict[str, Lane] = {}
        self.decoders = Decoders(config, clock, self._choices.code_cache or default_folder())
        self.routes = tuple(_route(table) for table in config.tables)

    @property
    def catalog(self) -> Catalog:
        """The Iceberg catalog, opened when it is first asked for.

        Raises:
            UnreachableError: it does not answer.
        """
        if self._catalog is None:
            self._catalog = open_catalog({"name": CATALOG_NAME, **self.config.catalog_properties()})
        return self._catalog

    def pipeline(self, observe: Callable[[Progress], None] | None = None) -> Pipeline:
        """One worker of the configured pipeline."""
        kafka = self._kafka
        topics = tuple(dict.fromkeys(topic for table in self.config.tables for topic in table.topics or ()))
        settings = PipelineSettings(
            name=self.config.name,
            topics=topics,
            start=StartPolicy(_start(kafka.start), Lost(kafka.on_lost_positions)),
            drain_s=self._choices.drain_s,
            adopt=self._choices.adopt,
            limits=self._limits,
        )
        return Pipeline(settings, self.source(), self.lanes_for, self._clock, self._chance, observe)

    @property
    def _limits(self) -> Limits:
        largest = max(self.config.flush_of(table).bytes for table in self.config.tables)
        committers = commits_at_once(self.config.catalog_properties())
        return Limits(committers, max(HELD_BATCHES * largest, LEAST_HELD_BYTES))

    def source(self) -> KafkaSource:
        """The source, not yet opened."""
        return KafkaSource(self.kafka_settings(), self._clock)

    def survey(self, topics: Iterable[str]) -> Mapping[Partition, Bounds]:
        """What ``topics`` hold now, asked without joining the consumer group.

        Raises:
            UnreachableError: no broker answers.
        """
        return survey(self.kafka_settings(), topics, self._clock)

    @contextmanager
    def inquiry(self, topics: Iterable[str]) -> Iterator[tuple[Holdings, Clockwork]]:
        """What ``topics`` hold now, who they are, and somebody to ask for offsets at a time, while the context lasts.

        Raises:
            UnreachableError: no broker answers.
        """
        asked = sorted(topics)
        with surveying(self.kafka_settings(), self._clock) as catalogue:
            yield Holdings(catalogue.partitions(asked), catalogue.identities(asked)), catalogue

    def kafka_settings(self) -> KafkaSettings:
        """What the source reads, and from where."""
        kafka = self._kafka
        tables = self.config.tables
        kinds = [kind for table in tables for kind in table.metadata_columns.values()]
        return KafkaSettings(
            bootstrap_servers=kafka.bootstrap_servers,
            group_id=self.config.group_id,
            topics=tuple(dict.fromkeys(topic for table in self.config.tables for topic in table.topics or ())),
            patterns=tuple(table.topic_pattern for table in self.config.tables if table.topic_pattern),
            properties={**self.config.kafka_properties(), **self._membership},
            sole=self._choices.sole if self._membership else None,
            headers=any(kind.startswith(HEADER_PREFIX) for kind in kinds)
            or any(self.config.dead_letters_of(table, table.table).headers for table in tables)
            # They tell the former key of a row whose key was changed.
            or any(self.config.decode_of(table).kind == "debezium" for table in tables),
            **({"poll_records": kafka.poll_records} if kafka.poll_records else {}),
        )

    @property
    def _membership(self) -> dict[str, str]:
        # The newer protocol keeps a name for the one that died until its session has timed out: it would lock us out.
        named = self._choices.instance is not None and not self.config.newer_groups
        return {"group.instance.id": self._choices.instance or ""} if named else {}

    def lanes_for(self, topic: str) -> list[Lane]:
        """The lanes that ``topic`` feeds; two topics may share one."""
        return [self._lane(index, table) for index, table in tables_for(self.routes, topic)]

    def target(self, table: Table, name: str) -> IcebergTarget:
        """The table ``name`` as ``table`` configures it."""
        if name not in self._targets:
            settings = TargetSettings(
                pipeline=self.config.name,
                table=tuple(name.replace("/", ".").split(".")),
                layout=table.layout,
                keep_ms=int(self.config.snapshots.keep.total_seconds() * 1000),
                keep_most=self.config.snapshots.most,
                schema_changes=SchemaChanges(table.schema_changes),
                rewriter=self._rewriter,
            )
            chance = random.Random(self._chance.getrandbits(64))  # noqa: S311 - jitter and ids, used by its own thread
            self._targets[name] = IcebergTarget(self.catalog, settings, self._clock, chance)
        return self._targets[name]

    @property
    def _rewriter(self) -> Submit | None:
        """Runs what compaction rewrites: one thread for all tables, so that it takes a bounded share of the machine."""
        iceberg = self.config.sink.iceberg
        if iceberg is None or not iceberg.compaction:
            return None
        if self._rewriting is None:
            self._rewriting = ThreadPoolExecutor(1, thread_name_prefix="compaction")
        return self._rewriting.submit

    def letterbox(self, table: Table, name: str) -> Letterbox:
        """Takes the dead letters of the table ``name``."""
        owner = Owner(self.config.name, name.replace("/", "."))
        most = self.config.dead_letters_of(table, name).max_rate
        return Letterbox(self.letters(table, name), owner, most, self._clock)

    def letters(self, table: Table, name: str) -> IcebergTarget:
        """The dead-letter table of the table ``name``."""
        if name in self._letters:
            return self._letters[name]
        chosen = self.config.dead_letters_of(table, name)
        settings = TargetSettings(
            pipeline=self.config.name,
            table=tuple(chosen.table.replace("/", ".").split(".")),
            keep_ms=int(self.config.snapshots.keep.total_seconds() * 1000),
            keep_most=self.config.snapshots.most,
            rewriter=self._rewriter,
        )
        chance = random.Random(self._chance.getrandbits(64))  # noqa: S311 - jitter and ids, used by its own thread
        self._letters[name] = IcebergTarget(self.catalog, settings, self._clock, chance)
        return self._letters[name]

    def _lane(self, index: int, name: str) -> Lane:
        if name not in self._lanes:
            table = self.config.tables[index]
            flush = self.config.flush_of(table)
            policy = FlushPolicy(flush.interval.total_seconds(), flush.rows, flush.bytes)
            target = self.target(table, name)
            settings = LaneSettings(
                policy,
                dict(table.metadata_columns),
                _rule(table),
                SchemaChanges(table.schema_changes),
                Upserting(tuple(table.key or ()), table.on_delete == "mark") if table.mode == "upsert" else None,
            )
            decoder = self.decoders.of(table, target)
            self._lanes[name] = Lane(target, decoder, settings, self.letterbox(table, name))
        return self._lanes[name]

    @property
    def _kafka(self) -> Kafka:
        if self.config.source.kafka is None:
            raise ConfigurationError("there is no source.kafka", "It is the only source in this version.")
        return self.config.source.kafka


def _route(table: Table) -> Route:
    pattern = re.compile(table.topic_pattern) if table.topic_pattern else None
    return Route(table.table, frozenset(table.topics or ()), pattern)


def _rule(table: Table) -> Rule | None:
    gaps = table.gaps
    return None if gaps is None else Rule(tuple(gaps.key), gaps.sequence, gaps.reset == "daily")


def _start(start: str | datetime) -> Edge | int:
    return int(start.timestamp() * 1000) if isinstance(start, datetime) else Edge(start)
