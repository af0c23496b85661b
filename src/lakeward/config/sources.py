"""Settings of the sources."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lakeward.config.scalars import Count, Dsn, GroupId, Options, Servers, Start, Text
from lakeward.config.sections import Section

OWNED_PROPERTIES: dict[str, str] = {
    "bootstrap.servers": "write source.kafka.bootstrap_servers",
    "metadata.broker.list": "write source.kafka.bootstrap_servers",
    "group.id": "write source.kafka.group_id",
    "client.id": "each worker has its own",
    "allow.auto.create.topics": "reading never creates a topic",
    "auto.offset.reset": "write source.kafka.start and on_lost_positions",
    **dict.fromkeys(
        (
            "auto.commit.enable",
            "auto.commit.interval.ms",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "offset.store.method",
            "offset.store.path",
            "offset.store.sync.interval.ms",
        ),
        "positions are kept in the tables",
    ),
    "isolation.level": "only committed records are read",
    **dict.fromkeys(
        (
            "enable.partition.eof",
            "error_cb",
            "group.remote.assignor",
            "logger",
            "on_assign",
            "on_commit",
            "on_lost",
            "on_revoke",
            "partition.assignment.strategy",
            "rebalance_cb",
        ),
        "exactly-once rests on it",
    ),
}
"""librdkafka properties that are lakeward's to set (PROTOCOL S4), and what to do instead or why."""

GROUP_PROTOCOLS = ("classic", "consumer")
SESSION_PROPERTIES = ("session.timeout.ms", "heartbeat.interval.ms")
"""What is set on the brokers where `group.protocol` is `consumer`."""


class Kafka(Section):
    """Topics of a Kafka cluster; which ones is said by the tables."""

    bootstrap_servers: Servers = Field(description="`host:port` of one or more brokers, separated by commas.")
    group_id: GroupId | None = Field(
        default=None,
        description="Consumer group. Positions are written there for lag tools and never read. Default: the `name`.",
    )
    start: Start = Field(
        default="earliest",
        description="Where to start, only where the table knows no position: `earliest`, `latest`, or an ISO "
        "timestamp with a zone.",
    )
    on_lost_positions: Literal["stop", "earliest", "latest"] = Field(
        default="stop",
        description="What to do when the topic no longer holds what comes next. Anything but `stop` gives up the "
        "lost offsets and records which.",
    )
    poll_records: Count | None = Field(default=None, description="Most messages taken in one poll. Default: 20000.")
    properties: Options = Field(
        default={},
        description="Any librdkafka property, such as `security.protocol` or `sasl.password`, except those that "
        "exactly-once rests on. `group.protocol: consumer` chooses the brokers' newer group protocol (Kafka 4.0).",
    )


class ColumnTypes(Section):
    """Where the types of buffered rows come from."""

    dsn: Dsn | None = Field(default=None, description="Connection string of the database that the rows come from.")


class PostgresBuffer(Section):
    """A PostgreSQL table that holds change events."""

    dsn: Dsn = Field(description="Connection string of the database that holds the buffer table.")
    table: Text = Field(description="The buffer table.")
    batch: Count = Field(default=10_000, description="Most events read at once.")
    types: ColumnTypes = Field(
        default=ColumnTypes(), description="Where column types are read from; inferred from the JSON without it."
    )


class Source(Section):
    """Where records come from: exactly one of these."""

    kafka: Kafka | None = Field(default=None, description="Topics of a Kafka cluster.")
    postgres_buffer: PostgresBuffer | None = Field(default=None, description="A PostgreSQL table of change events.")
