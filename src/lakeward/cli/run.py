"""``lakeward run``: the pipeline, until it is stopped."""

from __future__ import annotations

from pathlib import Path

import click

from lakeward.cli.configuration import file_argument, read
from lakeward.cli.output import json_option


@click.command(short_help="Run the pipeline until it is stopped.")
@file_argument
@click.option("--max-messages", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.option("--until-caught-up", is_flag=True, help="Stop at the ends that the topics have now.")
@click.option("--adopt", metavar="NAME", help="Take over the positions of a pipeline that had another name.")
@json_option
def command(file: Path, *, max_messages: int | None, until_caught_up: bool, adopt: str | None, as_json: bool) -> None:
    """Run the pipeline in FILE (default: lakeward.yaml) until it is stopped.

    Ctrl-C or SIGTERM commits what is held and leaves; a second one leaves at once. Nothing is lost either way: the
    tables say where the next start continues.
    """
    from lakeward.cli.running import stream  # noqa: PLC0415 - the help does without
    from lakeward.pipeline import Until  # noqa: PLC0415

    stream(read(file), Until(max_messages, until_caught_up), as_json=as_json, adopt=adopt)
