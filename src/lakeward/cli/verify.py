"""``lakeward verify``: audits the promise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lakeward.cli.configuration import file_argument, read
from lakeward.cli.output import json_option, print_json
from lakeward.clock import SystemClock

if TYPE_CHECKING:
    from lakeward.verification import Verdict


@click.command(short_help="Audit that the tables hold exactly what the stream said.")
@file_argument
@click.option(
    "--against-source",
    is_flag=True,
    help="Read again what Kafka still holds below the tables' positions, and compare value by value.",
)
@json_option
@click.pass_context
def command(ctx: click.Context, file: Path, *, against_source: bool, as_json: bool) -> None:
    """Audit the tables of FILE (default: lakeward.yaml): ledger, account, other programs' commits, files, rows.

    Rows are counted and compared by DuckDB, which shares no code with the writer. What could not be checked is said.
    Exit codes: 0 all pass, 1 something is wrong, 3 a server that was needed is away.
    """
    from lakeward.cli.tables import fed, quiet_assembly  # noqa: PLC0415 - the help does without
    from lakeward.engine import Engine  # noqa: PLC0415
    from lakeward.verification import SourceComparison, verify  # noqa: PLC0415

    with quiet_assembly(read(file)) as assembly, _progress(as_json=as_json) as observe:
        properties = assembly.config.catalog_properties()
        source = SourceComparison(assembly, SystemClock(), observe) if against_source else None
        verdicts = [
            verify(target, Engine(properties), source, assembly.letters(table, target.name))
            for table, target in fed(assembly)
        ]
    if as_json:
        print_json({"pipeline": assembly.config.name, "tables": [verdict.document() for verdict in verdicts]})
    else:
        for verdict in verdicts:
            _print(verdict)
    codes = {verdict.exit_code for verdict in verdicts}
    ctx.exit(1 if 1 in codes else max(codes, default=0))


@contextmanager
def _progress(*, as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A line on the terminal while a comparison runs; called with what is done, how much of it, and of how much."""
    if as_json or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("", total=None, visible=False)

        def observe(what: str, done: int, total: int) -> None:
            bars.update(bar, description=what, completed=done, total=total or None, visible=True)

        yield observe


def _print(verdict: Verdict) -> None:
    word, colour = ("PASS", "green") if verdict.passed else ("FAIL", "red")
    if not verdict.problems and verdict.unreachable:
        word, colour = "UNFINISHED", "yellow"
    click.echo(f"{verdict.table}  {click.style(word, fg=colour, bold=True)}")
    for name, text in verdict.lines:
        click.echo(f"  {name:<9} {text}")
    for problem in verdict.problems:
        click.echo(f"  {click.style('!', fg='red')} {problem}")
    for server in verdict.unreachable:
        click.echo(f"  NOT CHECKED: {server}")
    if verdict.not_checked:
        click.echo(f"  NOT CHECKED: {'; '.join(verdict.not_checked)}")
