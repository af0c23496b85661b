"""``lakeward status``: rows, positions, lag and the last commit of each table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakeward.cli.configuration import file_argument, read
from lakeward.cli.output import json_option, print_error, print_json, print_table
from lakeward.errors import LakewardError

if TYPE_CHECKING:
    from lakeward.positions import Bounds, Partition
    from lakeward.sinks.iceberg.target import IcebergTarget


@click.command(short_help="Show rows, positions, lag and the last commit of each table.")
@file_argument
@json_option
@click.pass_context
def command(ctx: click.Context, file: Path, *, as_json: bool) -> None:
    """Show what the tables of FILE (default: lakeward.yaml) hold and how far behind their topics they are.

    Asks tables and brokers; changes nothing. Without brokers it shows the tables and exits with 3.
    """
    from lakeward.cli.tables import quiet_assembly, targets  # noqa: PLC0415 - the help does without

    with quiet_assembly(read(file)) as assembly:
        found = targets(assembly)
        documents = [_table(target) for target in found]
        unreachable = None
        bounds: Mapping[Partition, Bounds] = {}
        try:
            bounds = assembly.survey({topic for document in documents for topic in document["sources"]})
        except LakewardError as error:
            unreachable = error
        for document in documents:
            _add_lag(document, bounds)
    if as_json:
        print_json({"pipeline": assembly.config.name, "tables": documents})
    else:
        _print(documents)
        if unreachable:
            print_error(unreachable, as_json=False)
    ctx.exit(unreachable.exit_code if unreachable else 0)


def _table(target: IcebergTarget) -> dict[str, Any]:
    records = target.history()
    found = target.find()
    head = records[-1] if records else None
    ours = [record for record in records if record.entry is not None and record.entry.claim]
    entry = found.entry
    return {
        "table": target.name,
        "exists": found.exists,
        "rows": head.after.rows if head else 0,
        "files": head.after.files if head else 0,
        "bytes": head.after.bytes if head else 0,
        "snapshot_id": head.snapshot_id if head else None,
        "last_commit": _time(ours[-1].committed_ms) if ours else None,
        "commits": entry.number if entry else 0,
        "sources": sorted({p.topic for p in entry.positions}) if entry else [],
        "positions": [
            {"topic": p.topic, "partition": p.number, "next": at.next}
            for p, at in sorted(entry.positions.items() if entry else ())
        ],
        "dead_letters": entry.account.letters if entry else 0,
        "gaps": asdict(entry.gaps.counts) if entry and entry.gaps else None,
    }


def _add_lag(document: dict[str, Any], bounds: Mapping[Partition, Bounds]) -> None:
    ends = {tuple(partition): held.end for partition, held in bounds.items()}
    lags = []
    for position in document["positions"]:
        end = ends.get((position["topic"], position["partition"]))
        position["end"] = end
        position["lag"] = None if end is None else max(0, end - position["next"])
        lags.append(position["lag"])
    document["lag"] = None if None in lags or not lags else sum(lags)


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _print(documents: list[dict[str, Any]]) -> None:
    followed = any(d["gaps"] for d in documents)
    gaps = ("GAPS",) if followed else ()
    print_table(
        ("TABLE", "ROWS", "FILES", "LAG", "DEAD", *gaps, "COMMITS", "LAST COMMIT", "SNAPSHOT"),
        [
            (
                d["table"],
                d["rows"] if d["exists"] else "not there yet",
                d["files"],
                "?" if d["lag"] is None and d["positions"] else d["lag"],
                d["dead_letters"],
                *((d["gaps"]["gaps"] if d["gaps"] else "",) if followed else ()),
                d["commits"],
                d["last_commit"],
                str(d["snapshot_id"] or ""),
            )
            for d in documents
        ],
    )
    rows = [
        (d["table"], p["topic"], p["partition"], p["next"], p["end"], p["lag"])
        for d in documents
        for p in d["positions"]
    ]
    if rows:
        click.echo()
        print_table(("TABLE", "TOPIC", "PARTITION", "NEXT", "END", "LAG"), rows)
