"""``lakeward rollback``: a table, and with it its stream, back to an older snapshot."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from lakeward.cli.configuration import read
from lakeward.cli.history import author_text, describe
from lakeward.cli.naming import file_and_table, moment, offset_text, table_argument, target_named, time_text
from lakeward.cli.output import json_option, print_json
from lakeward.errors import ConfigurationError, LedgerError, PositionError
from lakeward.starts import unusable

if TYPE_CHECKING:
    from lakeward.assembly import Assembly
    from lakeward.ledger import LedgerEntry
    from lakeward.outcomes import CommitReceipt
    from lakeward.positions import Partition, Position
    from lakeward.sinks.iceberg.authorship import Deed
    from lakeward.sinks.iceberg.history import Record
    from lakeward.sinks.iceberg.rollback import Rewind
    from lakeward.sinks.iceberg.target import IcebergTarget
    from lakeward.starts import Holdings

_SHOWN = 10
"""Commits and partitions that the text names; `--json` has all."""


@click.command(short_help="Take a table back to an older snapshot, and its stream with it.")
@table_argument
@click.option("--to", "snapshot", type=int, metavar="SNAPSHOT", help="The snapshot to go back to.")
@click.option("--at", metavar="TIME", help="Go back to what the table held at TIME, as 2026-01-31T09:30:00Z.")
@click.option("--yes", is_flag=True, help="Do it. Without, it is only shown.")
@json_option
def command(words: tuple[str, ...], *, snapshot: int | None, at: str | None, yes: bool, as_json: bool) -> None:
    """Take TABLE of FILE (default: lakeward.yaml) back to an older snapshot, and its stream with it.

    Shows what would be undone; does it with --yes, in one commit. Writers need not be stopped: they notice, and read
    on from the positions that the table had there.
    """
    from lakeward.cli.tables import quiet_assembly  # noqa: PLC0415 - the help does without
    from lakeward.sinks.iceberg.authorship import deeds  # noqa: PLC0415

    if (snapshot is None) == (at is None):
        raise ConfigurationError("one of --to and --at is needed", "`lakeward history` lists the snapshots.")
    file, name = file_and_table(words)
    with quiet_assembly(read(file)) as assembly:
        target = target_named(assembly, name)
        records = _readable(target) if snapshot is not None else target.history()
        goal = snapshot if snapshot is not None else _head_at(records, moment(at or ""), name)
        rewind = target.plan_rollback(goal)
        require_held(assembly, rewind.entry, f"snapshot {goal} of {name}")
        done = {deed.record.snapshot_id: deed for deed in deeds(records, assembly.config.name)}
        undone = [done[snapshot_id] for snapshot_id in rewind.undone if snapshot_id in done]
        unread = len(rewind.undone) - len(undone)
        if not as_json:
            _print(name, rewind, undone)
            if unread:
                click.echo(f"  !          {unread:,} of the commits cannot be told: an entry is unreadable")
        receipt = target.roll_back(rewind, secrets.token_hex(16)) if yes else None
    if as_json:
        print_json(_document(name, rewind, undone, receipt))
    elif receipt is None:
        click.echo("Nothing was changed. The same command with --yes does it.")
    else:
        click.echo(f"Rolled back by snapshot {receipt.snapshot_id}. Writers read on from the positions shown.")


def _readable(target: IcebergTarget) -> list[Record]:
    """The history; empty where an entry cannot be read, for which a rollback is the remedy (PROTOCOL I8)."""
    try:
        return target.history()
    except LedgerError:
        return []


def require_held(assembly: Assembly, entry: LedgerEntry, where: str) -> None:
    """The source must still hold what comes next at ``entry``, or rewinding would lose it (PROTOCOL B1).

    Raises:
        PositionError: it does not. UnreachableError: no broker answers.
    """
    with assembly.inquiry({partition.topic for partition in entry.positions}) as (holdings, _):
        lost = [why for p, at in sorted(entry.positions.items()) if (why := _lost(p, at, entry, holdings))]
    if lost:
        more = f" ({len(lost) - 1:,} more partitions)" if len(lost) > 1 else ""
        raise PositionError(
            f"{where} cannot be continued from: {lost[0]}{more}",
            "Choose a later snapshot: what is undone could not be read again.",
        )


def _lost(partition: Partition, at: Position, entry: LedgerEntry, holdings: Holdings) -> str | None:
    if partition not in holdings.bounds:
        return f"{partition} is not there any more"
    why = unusable(partition, at, holdings.bounds[partition], entry, holdings.identities)
    return why[0] if why is not None else None


def _head_at(records: Sequence[Record], time_ms: int, name: str) -> int:
    """The snapshot that was the table's state at ``time_ms``, on the line that led to what it holds now.

    Raises:
        ConfigurationError: there was none, or it has expired.
    """
    line = [record for record in records if record.on_ancestry]
    then = [record for record in line if record.committed_ms <= time_ms]
    if then and then[-1].retained:
        return then[-1].snapshot_id
    kept = [record for record in line if record.retained]
    near = [next((r for r in reversed(kept) if r.committed_ms <= time_ms), None)]
    near.append(next((r for r in kept if r.committed_ms > time_ms), None))
    choice = " or ".join(f"{r.snapshot_id} of {time_text(r.committed_ms)}" for r in near if r is not None)
    what = "held nothing yet" if not then else "was at a snapshot that has expired since"
    way_out = f"The nearest that can be named: --to {choice}." if choice else "There is no commit yet to go back to."
    raise ConfigurationError(f"at {time_text(time_ms)} {name} {what}", way_out)


def _print(name: str, rewind: Rewind, undone: Sequence[Deed]) -> None:
    goal, head = rewind.target, rewind.head
    click.echo(f"{name}  back to snapshot {goal.snapshot_id} of {time_text(goal.timestamp_ms)}")
    click.echo(f"  rows       {_rows(head):,} → {_rows(goal):,}")
    letters = _letters(rewind)
    if letters["before"] != letters["after"]:
        click.echo(f"  letters    {letters['before']:,} → {letters['after']:,} dead letters wait")
    _list("undone", [_told(deed) for deed in undone] or ["no commit of the line that leads there"])
    if rewind.restored:
        _list("restored", [f"{len(rewind.restored):,} commits that had been rolled back"])
    known = rewind.before.positions if rewind.before is not None else {}
    moves = [
        f"{partition}  {offset_text(known.get(partition))} → {offset_text(at)}"
        for partition, at in sorted(rewind.entry.positions.items())
    ]
    _list("positions", moves)
    fresh = sorted(str(partition) for partition in known if partition not in rewind.entry.positions)
    if fresh:
        _list("anew", [f"{partition}  it was not read yet: it begins again" for partition in fresh])
    for other, entry in rewind.others.items():
        if entry is None:
            told = ["it had written nothing yet: it begins again where its `start` says"]
        else:
            told = [f"{p} → {offset_text(at)}" for p, at in sorted(entry.positions.items())]
        _list(f"pipeline {other} is rewound too:", told)
    if any(deed.kind.value == "foreign" for deed in undone):
        _list("!", ["commits of other programs are undone too: no stream brings them back"])


def _list(head: str, lines: Sequence[str]) -> None:
    told = [*lines[:_SHOWN], *([f"{len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else [])]
    for index, line in enumerate(told):
        click.echo(f"  {head if index == 0 else '':<10} {line}")


def _told(deed: Deed) -> str:
    record = deed.record
    change = record.added.rows - record.removed.rows
    when = time_text(record.committed_ms)
    return f"{record.snapshot_id}  {when}  {record.operation} by {author_text(deed)}, {change:+,} rows"


def _rows(snapshot: Any) -> int:
    from lakeward.sinks.iceberg.attempt import totals_of  # noqa: PLC0415 - the help does without

    return totals_of(snapshot).rows


def _letters(rewind: Rewind) -> dict[str, int]:
    before = rewind.before.account.letters if rewind.before is not None else 0
    return {"before": before, "after": rewind.entry.account.letters}


def _document(name: str, rewind: Rewind, undone: Sequence[Deed], receipt: CommitReceipt | None) -> dict[str, Any]:
    known = rewind.before.positions if rewind.before is not None else {}
    others: Mapping[str, LedgerEntry | None] = rewind.others
    return {
        "table": name,
        "to": rewind.target.snapshot_id,
        "head": rewind.head.snapshot_id,
        "rows": {"before": _rows(rewind.head), "after": _rows(rewind.target)},
        "dead_letters": _letters(rewind),
        "undone": [describe(deed, rewind.head.snapshot_id) for deed in undone],
        "restored": list(rewind.restored),
        "positions": [
            {"topic": p.topic, "partition": p.number, "from": known[p].next if p in known else None, "to": at.next}
            for p, at in sorted(rewind.entry.positions.items())
        ],
        "pipelines": {
            other: None
            if entry is None
            else [{"topic": p.topic, "partition": p.number, "to": at.next} for p, at in sorted(entry.positions.items())]
            for other, entry in others.items()
        },
        "done": receipt is not None,
        "snapshot_id": receipt.snapshot_id if receipt is not None else None,
    }
