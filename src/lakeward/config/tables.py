"""Settings of the tables: what feeds each, and how its rows are written."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from lakeward.config.decoding import Decode
from lakeward.config.scalars import (
    Count,
    Flag,
    Interval,
    Items,
    LetterTable,
    Metadata,
    Named,
    PartitionBy,
    Rate,
    Regex,
    Size,
    SortBy,
    TableName,
    Text,
    Topic,
)
from lakeward.config.sections import Section
from lakeward.layout import Layout


class Flush(Section):
    """When a batch is committed: whichever comes first."""

    interval: Interval = Field(
        default=timedelta(seconds=5), description="Longest time that a row waits: `250ms`, `5s`, `1m`."
    )
    rows: Count = Field(default=500_000, description="Most rows in a batch.")
    bytes: Size = Field(default=128 * 1024**2, description="Most memory that a batch takes: `128MiB`, `1GB`.")


class DeadLetters(Section):
    """What becomes of records that cannot become rows."""

    table: LetterTable = Field(
        default="{table}__dead_letters",
        description="Where they are kept, with what they said and why; `{table}` is the name of the rows' table.",
    )
    max_rate: Rate = Field(
        default=0.1,
        description="Largest share of them among a table's last 1,000 records, or as many as one fetch brought: more "
        "stops the pipeline (exit code 4). 0: the first one stops it; 1: none does.",
    )
    headers: Flag = Field(
        default=True,
        description="Whether their headers are kept.",
    )


class Gaps(Section):
    """Holes in a business sequence."""

    key: Items[Text] = Field(min_length=1, description="Columns that identify a sequence.")
    sequence: Text = Field(description="Column that counts up by one.")
    reset: Literal["daily"] | None = Field(default=None, description="When the sequence starts again.")


class Columns(Section):
    """Which columns of the records the table gets, at the top level."""

    include: Items[Text] | None = Field(default=None, min_length=1, description="Only these. Default: all.")
    exclude: Items[Text] = Field(default=(), description="All but these.")
    rename: Named[Text] = Field(default={}, description="The record's name: the table's name.")


class Table(Section):
    """One table, or one for each topic that a pattern finds."""

    topics: Items[Topic] | None = Field(default=None, min_length=1, description="Topics that feed the table.")
    topic_pattern: Regex | None = Field(
        default=None,
        description="Regular expression that matches whole topic names; topics that appear later are found too.",
    )
    source_table: Regex | None = Field(
        default=None, description="Regular expression that matches `schema.table` in a PostgreSQL buffer."
    )
    table: TableName = Field(
        description="Name with namespace. `{topic}`, and `{group}` for each named group of the pattern, are replaced."
    )
    mode: Literal["append", "upsert", "overwrite"] = Field(
        default="append",
        description="`append`: every record is a row; `upsert`: the last change of a key wins; `overwrite`: one run "
        "replaces the table.",
    )
    key: Items[Text] | None = Field(default=None, min_length=1, description="Key columns. Default: the event's key.")
    decode: Decode | None = Field(default=None, description="As `decode` above, for this table alone.")
    decode_key: Literal["string", "long", "json", "avro"] | None = Field(
        default=None,
        description="How the message key of plain records is read, in mode `upsert`: a tombstone, which deletes a row, "
        "has nothing else. `string` is UTF-8 text, `long` eight bytes.",
    )
    on_delete: Literal["delete", "mark"] | None = Field(
        default=None,
        description="In mode `upsert`: `delete` the row (the default), or keep it and `mark` it in a column "
        "`_cdc_deleted`.",
    )
    schema_changes: Literal["evolve", "dead-letter", "stop"] = Field(
        default="evolve",
        description="What to do with records whose columns do not fit the table: `evolve` it where no value would "
        "change, send them to the dead letters, or `stop`.",
    )
    columns: Columns = Field(
        default=Columns(), description="Which columns the table gets; other settings use the table's names."
    )
    partition_by: Items[PartitionBy] = Field(
        default=(),
        description="Partition fields: `column`, `year(c)`, `month(c)`, `day(c)`, `hour(c)`, `bucket(16, c)`, "
        "`truncate(8, c)`, each with an optional `as name`.",
    )
    sort_by: Items[SortBy] = Field(
        default=(), description="Sort order inside files: `column`, `column desc`, `column asc nulls last`."
    )
    metadata_columns: Named[Metadata] = Field(
        default={},
        description="Columns that hold what the source knows of a record: `key`, `topic`, `partition`, `offset`, "
        "`timestamp`, `header.NAME`, and `ingestion_time`, when lakeward took it; for change events `operation`, "
        "`source_timestamp`, `source_timestamp_ms`, `source_position`.",
    )
    flush: Flush | None = Field(
        default=None, description="As `flush` below, for this table alone; what is left out is taken from there."
    )
    dead_letters: DeadLetters | None = Field(
        default=None, description="As `dead_letters` below, for this table alone; what is left out is taken from there."
    )
    gaps: Gaps | None = Field(default=None, description="Report holes in a business sequence.")

    @property
    def layout(self) -> Layout:
        """Partition fields and sort order, parsed."""
        return Layout.parse(self.partition_by, self.sort_by)
