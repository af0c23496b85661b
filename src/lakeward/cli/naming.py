"""How a command is told which table, and which time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lakeward.cli.configuration import DEFAULT_FILE
from lakeward.errors import ConfigurationError

if TYPE_CHECKING:
    from lakeward.assembly import Assembly
    from lakeward.positions import Position
    from lakeward.sinks.iceberg.target import IcebergTarget

F = TypeVar("F", bound=Callable[..., Any])


def table_argument(command: F) -> F:
    """Give a command ``[FILE] TABLE``; it arrives as ``words``, for `file_and_table`."""
    return click.argument("words", nargs=-1, required=True, metavar="[FILE] TABLE")(command)


def file_and_table(words: tuple[str, ...]) -> tuple[Path, str]:
    """The file, ``lakeward.yaml`` where it is left out, and the table.

    Raises:
        ConfigurationError: there are more words than two.
    """
    if len(words) > 2:
        raise ConfigurationError("more than a FILE and one TABLE were given", "Name one table at a time.")
    return (Path(DEFAULT_FILE), words[0]) if len(words) == 1 else (Path(words[0]), words[1])


def target_named(assembly: Assembly, name: str) -> IcebergTarget:
    """The table ``name`` of the configuration.

    Raises:
        ConfigurationError: the configuration feeds no such table, or it is not there yet.
    """
    from lakeward.cli.tables import targets  # noqa: PLC0415 - the help does without
    from lakeward.config.suggestions import hint  # noqa: PLC0415

    for table in assembly.config.tables:  # without asking the catalog about any other table
        if table.table == name:
            found = assembly.target(table, name)
            break
    else:
        known = {target.name: target for target in targets(assembly)}
        if name not in known:
            raise ConfigurationError(f"the configuration feeds no table {name}{hint(name, known)}")
        found = known[name]
    if found.load() is None:
        raise ConfigurationError(f"table {name} is not there yet", "It is created by its first rows: `lakeward run`.")
    return found


def moment(text: str) -> int:
    """A time with its zone, as milliseconds since the epoch.

    Raises:
        ConfigurationError: it is no time, or has no zone.
    """
    way_out = "Write it as 2026-01-31T09:30:00Z."
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{text!r} is no time", way_out) from None
    if time.tzinfo is None:
        raise ConfigurationError(f"{text!r} has no time zone", way_out)
    return int(time.timestamp() * 1000)


def time_text(ms: int) -> str:
    """Milliseconds since the epoch, as `moment` takes them."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def offset_text(at: Position | None) -> str:
    """A position's offset; a dash where there is none."""
    return f"{at.next:,}" if at is not None else "-"
