"""``lakeward demo``: a stream, a kill -9, and a proof, without any server."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakeward.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from lakeward.demo.story import Audience, Result

_TOLD = ("ledger", "account")
"""What is told of the audit; `lakeward verify` tells all of it."""


@click.command(short_help="Stream market data into a local table, kill the writer, verify: no servers needed.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default="lakeward-demo",
    show_default=True,
    help="Where the tables go; they stay.",
)
@click.option(
    "--trades",
    type=click.IntRange(min=1000),
    default=1_000_000,
    show_default=True,
    metavar="N",
    help="How many; an eighth as many quotes.",
)
@click.option("--keep", is_flag=True, help="Leave broker and registry running at the end, until Ctrl-C.")
@json_option
@click.pass_context
def command(ctx: click.Context, folder: Path, trades: int, *, keep: bool, as_json: bool) -> None:
    """Stream made-up market data into Iceberg tables on this machine, and lose nothing.

    Starts a Kafka broker and a Schema Registry inside this process, and `lakeward run` as a process of its own, which
    is killed half-way (kill -9). Another one continues. At the end every row is compared with what was sent.

    Exit codes: 0 the tables hold exactly what was sent, 1 they do not.
    """
    from lakeward.clock import SystemClock  # noqa: PLC0415 - the help does without
    from lakeward.demo.feed import Volume  # noqa: PLC0415 - a second of imports
    from lakeward.demo.folder import Folder  # noqa: PLC0415
    from lakeward.demo.story import Demo  # noqa: PLC0415
    from lakeward.observability import logging  # noqa: PLC0415

    logging.configure("ERROR")
    place = Folder(folder)
    with _signals(), Demo(place, Volume(trades), SystemClock()) as demo:
        with _audience(as_json=as_json) as audience:
            result = demo.play(audience)
        if as_json:
            print_json({"folder": str(folder), **result.document()})
        else:
            _print(result, place.configuration)
        if keep:
            click.echo(f"\nbroker and registry stay up ({demo.brokers}); Ctrl-C ends them", err=as_json)
            threading.Event().wait()
    ctx.exit(0 if result.passed else 1)


@contextmanager
def _signals() -> Iterator[None]:
    """Leave through the contexts, which end the processes, whatever the signal is."""

    def leave(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = {n: signal.signal(n, leave) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _audience(*, as_json: bool) -> Iterator[Audience]:
    from rich.console import Console  # noqa: PLC0415 - the help does without

    from lakeward.cli.telling import Lines, Nobody, Screen  # noqa: PLC0415

    if as_json:
        yield Nobody()
        return
    click.echo(click.style("lakeward demo", bold=True) + "  made-up market data, a real kill -9\n")
    if sys.stdout.isatty():
        with Screen(Console(highlight=False)) as screen:
            yield screen
    else:
        yield Lines()


def _print(result: Result, file: Path) -> None:
    click.echo()
    for proof in result.proofs:
        compared, verdict = proof.comparison, proof.verdict
        word, colour = ("PASS", "green") if proof.passed else ("FAIL", "red")
        click.echo(f"{verdict.table}  {click.style(word, fg=colour, bold=True)}")
        counts = (
            f"{compared.sent:,} sent, {compared.rows:,} rows: {compared.missing:,} missing, {compared.extra:,} extra"
        )
        click.echo(f"  compared  {counts} (every value)")
        for name, text in verdict.lines:
            if name in _TOLD:
                click.echo(f"  {name:<9} {text}")
        for problem in (*compared.columns, *verdict.problems):
            click.echo(f"  {click.style('!', fg='red')} {problem}")
    click.echo()
    print_table([column.upper() for column in result.columns], result.day)
    click.echo()
    click.echo(f"{result.seconds:.0f} seconds in all. The tables stay; look at them:")
    for words in (("query", "SELECT * FROM market_data.trades LIMIT 5"), ("verify",), ("status",)):
        click.echo("  " + " ".join([_program(), words[0], *map(shlex.quote, (str(file), *words[1:]))]))
    click.echo("  (the broker is gone, so status knows no lag; --keep leaves it running)")


def _program() -> str:
    """How this program is called from here: by its name where that is found, else by its path."""
    called = Path(sys.argv[0])
    if called.name != "lakeward":
        return "lakeward"
    found = shutil.which("lakeward")
    if found is not None and Path(found).resolve() == called.resolve():
        return "lakeward"
    return shlex.quote(sys.argv[0])
