"""``lakeward init``: a commented configuration to start from."""

from __future__ import annotations

from pathlib import Path

import click

from lakeward.cli.configuration import DEFAULT_FILE, file_argument
from lakeward.cli.output import json_option, print_json
from lakeward.errors import ConfigurationError

_HEAD = """\
# A lakeward pipeline: <records> from Kafka into Apache Iceberg tables, exactly once.
#
# lakeward check <file> --offline   looks at this file alone
# lakeward check <file>             and at every server it names
# lakeward run <file>               runs until it is stopped
#
# ${NAME:-default} is the environment variable NAME, or the default where it is not set.
# Durations: 250ms, 5s, 1m, 2h, 7d. Sizes: 4096, 64KiB, 128MiB. Relative paths start at this file's folder.

name: my-pipeline                       # who owns the positions in these tables; keep it once the pipeline ran

source:
  kafka:
    bootstrap_servers: ${KAFKA_BOOTSTRAP_SERVERS:-localhost:9092}
    start: earliest                     # or latest, 2026-01-31T00:00:00Z: where the table knows no position
    on_lost_positions: stop             # stop | earliest | latest: when the topic no longer holds what comes next
    # group_id: my-pipeline             # positions are written there for lag tools, never read; default: the name
    # properties:                       # any librdkafka property
    #   security.protocol: SASL_SSL
    #   sasl.mechanisms: PLAIN
    #   sasl.username: ${KAFKA_USERNAME}
    #   sasl.password: ${KAFKA_PASSWORD}

"""

_AVRO = """\
schema_registry:
  url: ${SCHEMA_REGISTRY_URL:-http://localhost:8081}
  # auth: {username: "${REGISTRY_USERNAME}", password: "${REGISTRY_PASSWORD}"}

decode: avro                            # for all tables; a table may have its own: avro | json

"""

_JSON = """\
decode: json                            # types are inferred; for exact decimals and timestamps declare the fields:
# decode:
#   json:
#     fields: {id: long, price: "decimal(18,6)", at: timestamptz}

"""

_DEBEZIUM = """\
decode:
  debezium: {format: json}              # or avro, with a schema_registry; JSON may come with schemas or without

"""

_SINK = """\
sink:
  iceberg:
    warehouse: ${WAREHOUSE:-./warehouse}   # without a catalog: a local folder, its SQLite catalog inside
    # catalog:                          # or a catalog server, in PyIceberg's words; then leave out `warehouse` above
    #   type: rest
    #   uri: ${ICEBERG_REST_URL:-http://localhost:8181}
    #   warehouse: ${ICEBERG_WAREHOUSE:-s3://warehouse/}
    #   s3.endpoint: ${S3_ENDPOINT:-http://localhost:9000}
    #   s3.access-key-id: ${S3_ACCESS_KEY}
    #   s3.secret-access-key: ${S3_SECRET_KEY}

flush: {interval: 5s, rows: 500000, bytes: 128MiB}   # a commit when the first of these is reached

snapshots: {keep: 7d}                   # how far back a table can be read and rolled back

"""

_LOG = """
log: {level: "${LOG_LEVEL:-INFO}"}
"""

_RECORDS = """\
tables:
  - topics: [events]                    # or topic_pattern: shop\\.(?P<name>\\w+), and {name} below
    table: raw.events                   # namespace.table; created with the first data
    # partition_by: [day(created_at)]   # column, year(c), month(c), day(c), hour(c), "bucket(16, c)", "truncate(8, c)"
    # sort_by: [created_at, id desc]
    # metadata_columns: {_partition: partition, _offset: offset, _time: timestamp}
    # mode: upsert                      # a keyed topic: the last value of a key is its row, a tombstone deletes it
    # key: [id]
    # decode_key: string                # string | long | json | avro: how the message key is read
"""

_CHANGES = """\
tables:
  # <topics>
  - topic_pattern: <pattern>
    table: "<table>"                    # namespace.table; made with the first change, and changed as the source is
    mode: upsert                        # the table mirrors its source; append: every change is a row
    on_delete: delete                   # delete | mark (keep the row, and set _cdc_deleted)
    metadata_columns:                   # column: what it holds
      _cdc_operation: operation
      _cdc_timestamp: source_timestamp
      _cdc_position: source_position
    # partition_by: [day(created_at)]   # column, year(c), month(c), day(c), hour(c), "bucket(16, c)", "truncate(8, c)"
    # sort_by: [created_at, id desc]
"""


def _changes(topics: str, pattern: str, table: str) -> str:
    # The topics come last: their words are in brackets as well.
    return _CHANGES.replace("<pattern>", pattern).replace("<table>", table).replace("<topics>", topics)


_POSTGRES = _changes("<topic.prefix>.<schema>.<table>", r"shop\.public\.(?P<name>\w+)", "shop.{name}")
_MONGODB = _changes(
    "<topic.prefix>.<database>.<collection>", r"shop\.(?P<database>\w+)\.(?P<name>\w+)", "{database}.{name}"
)
_SOURCES = {
    "kafka-avro": (_HEAD.replace("<records>", "Avro records") + _AVRO, _RECORDS),
    "kafka-json": (_HEAD.replace("<records>", "JSON records") + _JSON, _RECORDS),
    "debezium-postgres": (_HEAD.replace("<records>", "PostgreSQL's rows, by Debezium") + _DEBEZIUM, _POSTGRES),
    "debezium-mongodb": (_HEAD.replace("<records>", "MongoDB's documents, by Debezium") + _DEBEZIUM, _MONGODB),
}
"""What reads, and what it feeds."""
_SINKS = {"iceberg": _SINK}
_LATER_SOURCES = ("postgres-buffer",)
_LATER_SINKS = ("delta",)


@click.command(short_help="Write a commented configuration to start from.")
@file_argument
@click.option(
    "--from",
    "source",
    type=click.Choice([*_SOURCES, *_LATER_SOURCES]),
    default="kafka-avro",
    metavar="|".join(_SOURCES),
    show_default=True,
    help="Where records come from.",
)
@click.option(
    "--to",
    "sink",
    type=click.Choice([*_SINKS, *_LATER_SINKS]),
    default="iceberg",
    metavar="|".join(_SINKS),
    show_default=True,
    help="Where they go.",
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@json_option
def command(file: Path, source: str, sink: str, *, force: bool, as_json: bool) -> None:
    """Write a commented configuration to FILE (default: lakeward.yaml). Asks nothing, starts nothing."""
    text = template(source, sink, file)
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise ConfigurationError(f"{file} exists already", "Name another file, or overwrite it with --force.") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error
    if as_json:
        print_json({"file": str(file), "from": source, "to": sink})
        return
    click.echo(f"wrote {file}: name your topics and servers in it, then")
    click.echo(f"  lakeward check{'' if str(file) == DEFAULT_FILE else f' {file}'}")


def template(source: str, sink: str, file: Path) -> str:
    """The configuration for ``source`` and ``sink``, naming ``file`` in its comments.

    Raises:
        ConfigurationError: this version cannot run one of them.
    """
    for flag, chosen, known in (("--from", source, _SOURCES), ("--to", sink, _SINKS)):
        if chosen not in known:
            raise ConfigurationError(
                f"{flag} {chosen} is not available in this version", f"There is {' and '.join(known)}."
            )
    head, tables = _SOURCES[source]
    return (head + _SINKS[sink] + tables + _LOG).replace("<file>", str(file))
