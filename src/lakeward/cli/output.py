"""What every command prints with: text for people, one JSON document with ``--json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal, TypeVar

import click

from lakeward.errors import LakewardError

F = TypeVar("F", bound=Callable[..., Any])

_JSON = "lakeward.json"
_WIDE = 1000
_FOLDED = 32
"""A cell this wide or less is never folded."""


def _remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:  # noqa: FBT001 - click's signature
    ctx.meta[_JSON] = value
    return value


def json_option(command: F) -> F:
    """Give a command ``--json``; it arrives as ``as_json``."""
    option = click.option(
        "--json",
        "as_json",
        is_flag=True,
        is_eager=True,
        callback=_remember,
        help="Print one JSON document instead of text, for errors too.",
    )
    return option(command)


def wants_json(ctx: click.Context) -> bool:
    """Whether the command that ran in ``ctx`` was called with ``--json``."""
    return bool(ctx.meta.get(_JSON, False))


def print_json(document: Any) -> None:
    """Write ``document`` to standard output; what JSON does not know (times, paths) as text."""
    click.echo(json.dumps(document, indent=2, default=str, ensure_ascii=False))


def print_error(error: LakewardError, *, as_json: bool) -> None:
    """What happened and the way out: to standard error, or as JSON to standard output."""
    if as_json:
        document = {
            "kind": type(error).__name__,
            "what": error.what,
            "way_out": error.way_out,
            "exit_code": error.exit_code,
        }
        print_json({"error": document})
        return
    click.echo(click.style("error: ", fg="red", bold=True) + error.what, err=True)
    if error.way_out:
        click.echo(f"  {error.way_out}", err=True)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, thousands: str = ",") -> None:
    """Write rows under headings to standard output.

    Numbers stand to the right, with ``thousands`` between groups of three digits ("" leaves them as they are); None is
    empty. On a terminal that is wide enough for the rest, long texts are folded.
    """
    from rich.console import Console  # noqa: PLC0415 - commands with --json do without
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    cells = [[Text.from_ansi(_cell(value, thousands)) for value in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    least = 0
    for index, heading in enumerate(headings):
        number = any(_is_number(row[index]) for row in rows)
        width = max([len(heading), *(row[index].cell_len for row in cells)])
        least += min(width, _FOLDED) + 2
        side: Literal["left", "right"] = "right" if number else "left"
        table.add_column(heading, justify=side, overflow="fold", min_width=min(width, _FOLDED))
    for row in cells:
        table.add_row(*row)
    # Numbers in pieces are worse than lines that the terminal wraps.
    folds = sys.stdout.isatty() and least <= Console().width
    console = Console(width=None if folds else _WIDE)
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _cell(value: Any, thousands: str) -> str:
    if value is None:
        return ""
    return f"{value:{thousands}}" if _is_number(value) else str(value)
