"""``lakeward consume``: one topic into one table, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lakeward.cli.collector import resting
from lakeward.cli.output import json_option


@click.command(short_help="Stream one topic into a table, without a configuration file.")
@click.option("--topic", metavar="NAME", required=True, help="The topic to read.")
@click.option("--table", metavar="NAMESPACE.TABLE", help="Where to write. Default: streams.<topic>.")
@click.option(
    "--brokers", metavar="HOST:PORT", default="localhost:9092", show_default=True, help="Kafka bootstrap servers."
)
@click.option("--registry", metavar="URL", help="Schema Registry. Default: http://localhost:8081 for Avro.")
@click.option(
    "--warehouse",
    metavar="FOLDER",
    default="./warehouse",
    show_default=True,
    help="Folder of the tables and their catalog.",
)
@click.option(
    "--catalog", metavar="URI", help="An Iceberg catalog instead: http(s)://… (REST), postgresql://…, sqlite:///…."
)
@click.option(
    "--decode", type=click.Choice(["avro", "json"]), default="avro", show_default=True, help="What records are."
)
@click.option(
    "--name",
    metavar="NAME",
    default="consume",
    show_default=True,
    help="Who owns the positions; the consumer group too.",
)
@click.option(
    "--start",
    metavar="WHERE",
    default="earliest",
    show_default=True,
    help="Where a new table starts: earliest, latest, ISO time.",
)
@click.option("--batch-size", type=click.IntRange(min=1), metavar="ROWS", help="Commit after so many rows.")
@click.option("--max-messages", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.option("--until-caught-up", is_flag=True, help="Stop at the ends that the topic has now.")
@json_option
def command(*, max_messages: int | None, until_caught_up: bool, as_json: bool, **flags: Any) -> None:
    """Stream one topic into an Iceberg table, exactly once, with flags instead of a file.

    \b
    lakeward consume --topic market.trades.raw --max-messages 1000
    """  # noqa: D301 - click's mark for lines to keep
    with resting() as assembled:
        from lakeward.cli.running import Extras, stream  # noqa: PLC0415 - the help does without
        from lakeward.config import from_mapping  # noqa: PLC0415

        config = from_mapping(document(flags), Path.cwd())
        stream(config, Extras(max_messages, until_caught_up), assembled, as_json=as_json)


def document(flags: dict[str, Any]) -> dict[str, Any]:
    """The configuration that the flags stand for."""
    topic: str = flags["topic"]
    safe = "".join(c if c.isalnum() or c == "_" else "_" for c in topic)
    iceberg: dict[str, Any] = {"warehouse": flags["warehouse"]}
    if uri := flags["catalog"]:
        iceberg["catalog"] = {"type": "rest" if uri.startswith("http") else "sql", "uri": uri}
    written: dict[str, Any] = {
        "name": flags["name"],
        "source": {"kafka": {"bootstrap_servers": flags["brokers"], "start": flags["start"]}},
        "decode": flags["decode"],
        "sink": {"iceberg": iceberg},
        "tables": [{"topics": [topic], "table": flags["table"] or f"streams.{safe}"}],
    }
    if flags["decode"] == "avro":
        written["schema_registry"] = {"url": flags["registry"] or "http://localhost:8081"}
    if rows := flags["batch_size"]:
        written["flush"] = {"rows": rows}
    return written
