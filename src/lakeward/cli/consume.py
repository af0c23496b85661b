"""``lakeward consume``: one topic into one table, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lakeward.cli.output import json_option


@click.command(short_help="Stream one topic into a table, without a configuration file.")
@click.option("--topic", required=True, help="The topic to read.")
@click.option("--table", help="Where to write, namespace.table. Default: streams.<topic>.")
@click.option("--brokers", default="localhost:9092", show_default=True, help="Kafka bootstrap servers.")
@click.option("--registry", help="Schema Registry. Default: http://localhost:8081 for Avro.")
@click.option("--warehouse", default="./warehouse", show_default=True, help="Folder of the tables and their catalog.")
@click.option("--catalog", help="URI of an Iceberg catalog instead: http(s)://… (REST), postgresql://…, sqlite:///….")
@click.option("--decode", type=click.Choice(["avro", "json"]), default="avro", show_default=True)
@click.option("--name", default="consume", show_default=True, help="Who owns the positions; the consumer group too.")
@click.option("--start", default="earliest", show_default=True, help="earliest, latest or an ISO time, at first.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="ROWS", help="Commit after so many rows.")
@click.option("--max-messages", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.option("--until-caught-up", is_flag=True, help="Stop at the ends that the topic has now.")
@json_option
def command(*, max_messages: int | None, until_caught_up: bool, as_json: bool, **flags: Any) -> None:
    """Stream one topic into an Iceberg table, exactly once, with flags instead of a file.

    \b
    lakeward consume --topic market.trades.raw --max-messages 1000
    """  # noqa: D301 - click's mark for lines to keep
    from lakeward.cli.running import stream  # noqa: PLC0415 - the help does without
    from lakeward.config import from_mapping  # noqa: PLC0415
    from lakeward.pipeline import Until  # noqa: PLC0415

    config = from_mapping(document(flags), Path.cwd())
    stream(config, Until(max_messages, until_caught_up), as_json=as_json)


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
    if flags["batch_size"]:
        written["flush"] = {"rows": flags["batch_size"]}
    return written
