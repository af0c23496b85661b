"""``lakeward verify``: audits the promise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lakeward.cli.configuration import file_argument, read
from lakeward.cli.output import json_option, print_json

if TYPE_CHECKING:
    from lakeward.verification import Verdict


@click.command(short_help="Audit that the tables hold exactly what the stream said.")
@file_argument
@json_option
@click.pass_context
def command(ctx: click.Context, file: Path, *, as_json: bool) -> None:
    """Audit the tables of FILE (default: lakeward.yaml): positions contiguous across commits, rows against records.

    The rows are counted by DuckDB, which shares no code with the writer. Exit codes: 0 all pass, 1 one fails.
    """
    from lakeward.cli.tables import quiet_assembly, targets  # noqa: PLC0415 - the help does without
    from lakeward.engine import Engine  # noqa: PLC0415
    from lakeward.verification import verify  # noqa: PLC0415

    with quiet_assembly(read(file)) as assembly:
        properties = assembly.config.catalog_properties()
        verdicts = [verify(target, Engine(properties)) for target in targets(assembly)]
    if as_json:
        print_json({"pipeline": assembly.config.name, "tables": [verdict.document() for verdict in verdicts]})
    else:
        for verdict in verdicts:
            _print(verdict)
    ctx.exit(0 if all(verdict.passed for verdict in verdicts) else 1)


def _print(verdict: Verdict) -> None:
    word, colour = ("PASS", "green") if verdict.passed else ("FAIL", "red")
    click.echo(f"{verdict.table}  {click.style(word, fg=colour, bold=True)}")
    for name, text in verdict.lines:
        click.echo(f"  {name:<9} {text}")
    for problem in verdict.problems:
        click.echo(f"  {click.style('!', fg='red')} {problem}")
    if verdict.not_checked:
        click.echo(f"  NOT CHECKED: {'; '.join(verdict.not_checked)}")
