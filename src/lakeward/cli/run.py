"""``lakeward run``: the pipeline, until it is stopped."""

from __future__ import annotations

from pathlib import Path

import click

from lakeward.cli.collector import resting
from lakeward.cli.configuration import file_argument, read
from lakeward.cli.output import json_option


@click.command(short_help="Run the pipeline until it is stopped.")
@file_argument
@click.option("--max-messages", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.option("--until-caught-up", is_flag=True, help="Stop at the ends that the topics have now.")
@click.option("--adopt", metavar="NAME", help="Take over the positions of a pipeline that had another name.")
@click.option("--workers", type=click.IntRange(min=2), metavar="N", help="Run N processes that share the partitions.")
@click.option(
    "--instance", metavar="NAME", help="This worker's name; it gets its partitions back at once on a restart."
)
@click.option("--supervisor", type=int, hidden=True, help="The process that holds the lock on --instance.")
@json_option
@click.pass_context
def command(  # noqa: PLR0913 - click hands over every option
    ctx: click.Context,
    file: Path,
    *,
    max_messages: int | None,
    until_caught_up: bool,
    adopt: str | None,
    workers: int | None,
    instance: str | None,
    supervisor: int | None,
    as_json: bool,
) -> None:
    """Run the pipeline in FILE (default: lakeward.yaml) until it is stopped.

    Ctrl-C or SIGTERM commits what is held and leaves; a second one leaves at once. Nothing is lost either way: the
    tables say where the next start continues. Workers on several machines share the partitions just so: start the
    same FILE on each, with an --instance of its own (a pod's name) where they have names that stay.
    """
    with resting() as assembled:
        from lakeward.cli.running import Extras, stream  # noqa: PLC0415 - the help does without

        config = read(file)
        if workers is None:
            extras = Extras(max_messages, until_caught_up, adopt, instance, supervisor)
            stream(config, extras, assembled, as_json=as_json)
            return
    if max_messages or adopt or instance or as_json:
        raise click.UsageError("--workers goes with --until-caught-up alone")
    from lakeward.cli.membership import Group  # noqa: PLC0415
    from lakeward.cli.workers import supervise  # noqa: PLC0415
    from lakeward.clock import SystemClock  # noqa: PLC0415
    from lakeward.observability import logging  # noqa: PLC0415

    logging.configure(config.log.level)
    options = ["--until-caught-up"] if until_caught_up else []
    ctx.exit(supervise(file, Group(config.group_id, config.reads), options, workers, SystemClock()))
