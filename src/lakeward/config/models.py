"""The configuration as a whole."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr

from lakeward.config.decoding import Decode, SchemaRegistry
from lakeward.config.features import unavailable
from lakeward.config.problems import Origin
from lakeward.config.scalars import Count, Dsn, Interval, Items, LogLevel, Named, PipelineName, Port, Text, WebUrl
from lakeward.config.secrecy import reveal
from lakeward.config.sections import Section
from lakeward.config.sinks import Sink
from lakeward.config.sources import Source
from lakeward.config.tables import DeadLetters, Flush, Table
from lakeward.errors import ConfigurationError


class Snapshots(Section):
    """How long the past of a table is kept."""

    keep: Interval = Field(
        default=timedelta(days=7),
        description="Oldest snapshot that is kept, thinned out with age: all of the last minutes, then one a minute, "
        "an hour, a day.",
    )
    most: int | None = Field(
        default=None,
        ge=1,
        description="Snapshots that are kept at most: the newest, and those that something needs. Default: as many as "
        "`keep` says, about 120 for a week.",
    )


class Log(Section):
    """What is logged."""

    level: LogLevel = Field(default="INFO", description="Least important events that are logged.")


class Http(Section):
    """The status page, metrics and health checks of a running pipeline."""

    host: Text = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=8090, description="Port to listen on.")


class TopicSettings(Section):
    """A topic to create. Further keys are topic settings of Kafka, such as `retention.ms`."""

    model_config = ConfigDict(extra="allow")

    partitions: Count = Field(default=1, description="Number of partitions.")


class Provision(Section):
    """What `lakeward provision` creates where it is missing."""

    topics: Named[TopicSettings] = Field(default={}, description="Topics, each with its settings.")
    subjects: Named[Text] = Field(default={}, description="Registry subjects, each with the path of its schema.")
    buckets: Items[Text] = Field(default=(), description="Buckets in the object store.")
    namespaces: Items[Text] = Field(default=(), description="Namespaces in the catalog.")


class Checks(Section):
    """Servers beyond those above that `lakeward check` looks at."""

    postgres: Dsn | None = Field(default=None, description="Connection string of a PostgreSQL server.")
    http: Named[WebUrl] = Field(default={}, description="URLs that must answer, by a name for each.")


class Config(Section):
    """A pipeline: one source, one sink, any number of tables.

    Made by `lakeward.config.load`, `load_text` and `from_mapping`, which also check what belongs together.
    """

    name: PipelineName = Field(
        description="Who owns the positions in these tables. Keep it: another name is another pipeline."
    )
    source: Source = Field(description="Where records come from.")
    schema_registry: SchemaRegistry | None = Field(default=None, description="Where Avro schemas are kept.")
    decode: Decode | None = Field(
        default=None, description="How records are read: `avro`, `json`, `debezium` or `bytes`, or with settings."
    )
    sink: Sink = Field(description="Where rows go.")
    tables: Items[Table] = Field(min_length=1, description="What feeds each table, and how its rows are written.")
    flush: Flush = Field(default=Flush(), description="When a batch is committed: whichever comes first.")
    dead_letters: DeadLetters = Field(
        default=DeadLetters(), description="What becomes of records that cannot become rows."
    )
    snapshots: Snapshots = Field(default=Snapshots(), description="How long the past of a table is kept.")
    log: Log = Field(default=Log(), description="What is logged.")
    http: Http | None = Field(default=None, description="Status page, metrics and health checks.")
    provision: Provision | None = Field(default=None, description="What `lakeward provision` creates.")
    checks: Checks | None = Field(default=None, description="Further servers that `lakeward check` looks at.")

    _origin: Origin = PrivateAttr(default_factory=Origin)

    def model_post_init(self, context: Any, /) -> None:
        """Keep where the configuration came from: ``context`` is an `Origin`, or None."""
        if isinstance(context, Origin):
            self._origin = context

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self._origin.folder

    @property
    def group_id(self) -> str:
        """The consumer group: as written, or the name."""
        return (self.source.kafka.group_id if self.source.kafka else None) or self.name

    def decode_of(self, table: Table) -> Decode:
        """How the records of ``table`` are read.

        Raises:
            ConfigurationError: neither the table nor the configuration says.
        """
        decode = table.decode or self.decode
        if decode is None:
            raise ConfigurationError(f"{table.table}: nothing says how its records are read", "Write `decode`.")
        return decode

    def flush_of(self, table: Table) -> Flush:
        """When batches of ``table`` are committed: its own settings over those for all tables."""
        if table.flush is None:
            return self.flush
        own = {name: getattr(table.flush, name) for name in table.flush.model_fields_set}
        return self.flush.model_copy(update=own)

    def dead_letters_of(self, table: Table, name: str) -> DeadLetters:
        """What becomes of the dead letters of the table ``name``: its own settings over those for all tables."""
        own = table.dead_letters
        written = {key: getattr(own, key) for key in own.model_fields_set} if own is not None else {}
        chosen = self.dead_letters.model_copy(update=written)
        return chosen.model_copy(update={"table": chosen.table.replace("{table}", name)})

    def catalog_properties(self) -> dict[str, Any]:
        """What ``pyiceberg.catalog.load_catalog(CATALOG_NAME, **properties)`` takes. Secrets are revealed.

        Raises:
            ConfigurationError: the sink is not Iceberg.
        """
        if self.sink.iceberg is None:
            raise ConfigurationError("the sink has no catalog", "Write sink.iceberg.")
        return self.sink.iceberg.catalog_properties(self.folder)

    def kafka_properties(self) -> dict[str, Any]:
        """The librdkafka properties as written in ``source.kafka.properties``. Secrets are revealed."""
        return reveal(self.source.kafka.properties) if self.source.kafka else {}

    @property
    def reads(self) -> tuple[str, ...]:
        """The topics and patterns that the tables name, in order."""
        named = {topic for table in self.tables for topic in table.topics or ()}
        return tuple(sorted(named | {table.topic_pattern for table in self.tables if table.topic_pattern}))

    @property
    def newer_groups(self) -> bool:
        """Whether the consumer group follows the newer protocol (KIP-848)."""
        return self.kafka_properties().get("group.protocol") == "consumer"

    def require_available(self) -> None:
        """Refuse what this version cannot run, all of it at once, rather than ignore it.

        Raises:
            ConfigurationError: one line for each setting that is not available.
        """
        problems = list(unavailable(self))
        if problems:
            raise self._origin.failure(problems)

    def redacted(self) -> dict[str, Any]:
        """The configuration with its defaults, as plain data that JSON can hold; secrets are masked."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
