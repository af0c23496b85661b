"""``lakeward history``: a table's transaction log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lakeward.cli.configuration import read
from lakeward.cli.naming import file_and_table, table_argument, target_named, time_text
from lakeward.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from lakeward.outcomes import Totals
    from lakeward.sinks.iceberg.authorship import Deed, Move

_SHOWN = 3
"""Partitions that a line of text names; `--json` has all."""


@click.command(short_help="Show a table's commits: who, when, from where to where, how much.")
@table_argument
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="The newest N.")
@click.option("--all", "everything", is_flag=True, help="All of them, those of expired snapshots too.")
@json_option
def command(words: tuple[str, ...], *, limit: int, everything: bool, as_json: bool) -> None:
    """Show the commits of TABLE in FILE (default: lakeward.yaml), newest first.

    Positions are the offsets that continue each partition, before and after. STATE: `head` is what readers see,
    `retained` can be rolled back to, `archived` has expired, `rewound` was undone and does not lead to the head.
    """
    from lakeward.cli.tables import quiet_assembly  # noqa: PLC0415 - the help does without
    from lakeward.sinks.iceberg.authorship import deeds  # noqa: PLC0415

    file, name = file_and_table(words)
    with quiet_assembly(read(file)) as assembly:
        target = target_named(assembly, name)
        table = target.load()
        head = table.metadata.current_snapshot_id if table is not None else None
        done = deeds(target.history(), assembly.config.name)[::-1]
    shown = done if everything else done[:limit]
    commits = [describe(deed, head) for deed in shown]
    if as_json:
        document = {"pipeline": assembly.config.name, "table": name, "commits": commits, "total": len(done)}
        print_json(document)
        return
    headings = ("SNAPSHOT", "SEQ", "COMMITTED", "BY", "OPERATION", "POSITIONS", "ROWS", "FILES", "BYTES", "STATE")
    print_table(headings, [_line(deed, commit) for deed, commit in zip(shown, commits, strict=True)])
    if len(shown) < len(done):
        click.echo(f"the newest {len(shown):,} of {len(done):,} commits; --all shows the others")


def describe(deed: Deed, head: int | None) -> dict[str, Any]:
    """One commit as plain data; ``head`` is the snapshot that readers see."""
    record = deed.record
    return {
        "snapshot_id": record.snapshot_id,
        "parent_id": record.parent_id,
        "sequence_number": record.sequence_number,
        "committed_at": time_text(record.committed_ms),
        "operation": record.operation,
        "by": {"kind": deed.kind.value, "name": deed.name},
        "positions": [
            {"topic": move.partition.topic, "partition": move.partition.number, "from": move.start, "to": move.end}
            for move in deed.moves
        ],
        "rows": _amounts(record.added.rows, record.removed.rows, record.before.rows, record.after.rows),
        "files": _amounts(record.added.files, record.removed.files, record.before.files, record.after.files),
        "bytes": _amounts(record.added.bytes, record.removed.bytes, record.before.bytes, record.after.bytes),
        "state": _state(deed, head),
        "retained": record.retained,
        "on_ancestry": record.on_ancestry,
    }


def _state(deed: Deed, head: int | None) -> str:
    record = deed.record
    if record.snapshot_id == head:
        return "head"
    kept = "retained" if record.retained else "archived"
    return kept if record.on_ancestry else f"rewound, {kept}"


def _amounts(added: int, removed: int, before: int, after: int) -> dict[str, int]:
    return {"added": added, "removed": removed, "before": before, "after": after}


def _line(deed: Deed, commit: dict[str, Any]) -> tuple[Any, ...]:
    record = deed.record
    return (
        str(record.snapshot_id),
        record.sequence_number,
        commit["committed_at"],
        author_text(deed),
        record.operation,
        moves_text(deed.moves),
        *(_change(record.added, record.removed, record.after, of) for of in ("rows", "files", "bytes")),
        commit["state"],
    )


def author_text(deed: Deed) -> str:
    """Who made a commit, in a few words."""
    match deed.kind.value:
        case "stream":
            return deed.name or ""
        case "foreign":
            return deed.name or "another program"
        case kind:
            return f"{kind} ({deed.name})" if deed.name else kind


def moves_text(moves: tuple[Move, ...]) -> str:
    """From where to where: the first partitions, and how many more there are."""
    told = [f"{m.partition} {'-' if m.start is None else f'{m.start:,}'} → {m.end:,}" for m in moves[:_SHOWN]]
    more = len(moves) - len(told)
    return ", ".join(told) + (f", {more} more" if more else "")


def _change(added: Totals, removed: Totals, after: Totals, of: str) -> str:
    gained, lost, total = (getattr(totals, of) for totals in (added, removed, after))
    changes = " ".join([*([f"+{gained:,}"] if gained else []), *([f"-{lost:,}"] if lost else [])])
    return f"{changes} → {total:,}" if changes else f"{total:,}"
