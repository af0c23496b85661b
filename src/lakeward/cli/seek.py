"""``lakeward seek``: positions moved by a person who knows better."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import click

from lakeward.cli.configuration import read
from lakeward.cli.naming import file_and_table, moment, table_argument, target_named
from lakeward.cli.output import json_option, print_json
from lakeward.errors import ConfigurationError, OperatorError
from lakeward.positions import Partition
from lakeward.starts import Edge

if TYPE_CHECKING:
    from lakeward.assembly import Assembly
    from lakeward.outcomes import Batch
    from lakeward.seeking import Shift
    from lakeward.sinks.iceberg.target import IcebergTarget

_TRIES = 5


@click.command(short_help="Move the positions from which a table continues.")
@table_argument
@click.option("--partition", "pairs", multiple=True, metavar="TOPIC/N=OFFSET", help="One partition; may be repeated.")
@click.option("--to", "place", metavar="earliest|latest|TIME", help="All partitions that the table has read.")
@click.option("--yes", is_flag=True, help="Do it. Without, it is only shown.")
@json_option
def command(words: tuple[str, ...], *, pairs: tuple[str, ...], place: str | None, yes: bool, as_json: bool) -> None:
    """Move the positions from which TABLE of FILE (default: lakeward.yaml) continues. Its rows stay as they are.

    Offsets that are skipped will never be in the table; offsets that are read again will be in it twice, unless rows
    are upserted. The ledger records both. To take rows away together with positions: `lakeward rollback`.
    """
    from lakeward.cli.tables import quiet_assembly  # noqa: PLC0415 - the help does without
    from lakeward.outcomes import CommitReceipt  # noqa: PLC0415

    if bool(pairs) == (place is not None):
        raise ConfigurationError("one of --partition and --to is needed", "--partition orders/0=1200, or --to latest.")
    wanted = dict(_pair(pair) for pair in pairs)
    to = _place(place) if place is not None else None
    file, name = file_and_table(words)
    with quiet_assembly(read(file)) as assembly:
        target = target_named(assembly, name)
        for _ in range(_TRIES):
            moved, batch = _planned(assembly, target, wanted, to)
            if not yes or not moved:
                break
            # Refused by a writer that was faster: its positions are what is moved then.
            if isinstance(target.commit(target.stage(batch)), CommitReceipt):
                break
        else:
            raise OperatorError(
                f"the positions of {name} moved {_TRIES} times while they were to be set", "Stop its writers first."
            )
    done = yes and bool(moved)
    if as_json:
        print_json({"table": name, "positions": [_document(shift) for shift in moved], "done": done})
        return
    for shift in moved:
        click.echo(f"  {shift.partition}  {_told(shift)}")
    if not moved:
        click.echo("Nothing to do: the table continues there already.")
    elif done:
        click.echo("Done. Writers continue there.")
    else:
        click.echo("Nothing was changed. The same command with --yes does it.")


def _planned(
    assembly: Assembly, target: IcebergTarget, wanted: dict[Partition, int], to: Edge | int | None
) -> tuple[list[Shift], Batch]:
    from lakeward.seeking import destinations, seek, shifts  # noqa: PLC0415 - the help does without

    entry = target.find().entry
    if entry is None:
        raise ConfigurationError(f"{target.name} has no positions yet", "Its first start is set by source.kafka.start.")
    with assembly.inquiry({p.topic for p in entry.positions} | {p.topic for p in wanted}) as (holdings, source):
        goals = wanted if to is None else destinations(entry, to, holdings, source)
    moved = shifts(entry, goals, holdings)
    return moved, seek(entry, moved, holdings, secrets.token_hex(16))


def _pair(text: str) -> tuple[Partition, int]:
    place, _, offset = text.rpartition("=")
    topic, _, number = place.rpartition("/")
    if not topic or not number.isdecimal() or not offset.isdecimal():
        raise ConfigurationError(f"{text!r} is no partition and offset", "Write it as orders/0=1200.")
    return Partition(topic, int(number)), int(offset)


def _place(text: str) -> Edge | int:
    return Edge(text) if text in tuple(Edge) else moment(text)


def _told(shift: Shift) -> str:
    if shift.start is None:
        return f"starts at {shift.end:,}"
    distance = shift.end - shift.start
    what = f"skips {distance:,} offsets" if distance > 0 else f"reads {-distance:,} offsets again"
    return f"{shift.start:,} → {shift.end:,}  {what}"


def _document(shift: Shift) -> dict[str, Any]:
    partition = shift.partition
    return {"topic": partition.topic, "partition": partition.number, "from": shift.start, "to": shift.end}
