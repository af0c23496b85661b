"""How the demo is told: live on a terminal, line by line elsewhere, not at all with ``--json``."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text


class Nobody:
    """See `lakeward.demo.story.Audience`: says nothing."""

    def happened(self, seconds: float, what: str, detail: str) -> None:
        """Ignore it."""

    def progressed(self, sent: int, written: int, total: int) -> None:
        """Ignore it."""


class Lines(Nobody):
    """Each event is a line of plain text; progress goes unsaid."""

    def happened(self, seconds: float, what: str, detail: str) -> None:
        """Print a line."""
        click.echo(f"{seconds:5.1f} s  {what:<16}  {detail}")


class Screen:
    """Events, and below them two bars that move while the context lasts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("         {task.description:<17}"),
            BarColumn(30, complete_style="cyan", finished_style="green"),
            TextColumn("{task.completed:>9,.0f} messages"),
            console=console,
        )
        self._sent = self._bars.add_task("sent", total=None)
        self._written = self._bars.add_task("in the tables", total=None)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def happened(self, seconds: float, what: str, detail: str) -> None:
        """Print a line above the bars."""
        colour = "bold red" if what.startswith("kill") else "bold"
        self._console.print(
            Text.assemble((f"{seconds:5.1f} s  ", "dim"), (f"{what:<16}  ", colour), detail), soft_wrap=True
        )

    def progressed(self, sent: int, written: int, total: int) -> None:
        """Move the bars."""
        self._bars.update(self._sent, completed=sent, total=total)
        self._bars.update(self._written, completed=written, total=total)
