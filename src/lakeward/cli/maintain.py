"""``lakeward maintain``: small files, old snapshots, files that nobody refers to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakeward.cli.configuration import file_argument, read
from lakeward.cli.output import json_option, print_error, print_json, print_table
from lakeward.errors import ConfigurationError, LakewardError

if TYPE_CHECKING:
    from lakeward.sinks.iceberg.target import IcebergTarget


@click.command(short_help="Merge small files, expire snapshots, find orphan files.")
@file_argument
@click.option("--older-than", "age", default="24h", show_default=True, help="How old an orphan file is at least.")
@click.option("--delete-orphans", is_flag=True, help="Delete orphan files. Without, they are only counted.")
@json_option
@click.pass_context
def command(ctx: click.Context, file: Path, *, age: str, delete_orphans: bool, as_json: bool) -> None:
    """Maintain the tables of FILE (default: lakeward.yaml): what `run` does beside the stream, done now and to the end.

    Small files of a partition become large ones, sorted as the table says; snapshots are thinned out by age; files that
    nothing refers to are counted, and deleted with --delete-orphans. Rows and positions stay as they are, and writers
    and readers may go on meanwhile.
    """
    from lakeward.cli.tables import quiet_assembly, targets  # noqa: PLC0415 - the help does without

    older_than_ms = _milliseconds(age)
    failures: list[LakewardError] = []
    documents: list[dict[str, Any]] = []
    with quiet_assembly(read(file)) as assembly:
        for target in targets(assembly):
            try:
                documents.append(_maintained(target, older_than_ms, delete_orphans=delete_orphans))
            except LakewardError as error:  # the other tables still have their turn
                failures.append(error)
    if as_json:
        told = [{"what": failure.what, "way_out": failure.way_out} for failure in failures]
        print_json({"pipeline": assembly.config.name, "tables": documents, "errors": told})
    else:
        _print(documents, deleted=delete_orphans)
        for failure in failures:
            print_error(failure, as_json=False)
    ctx.exit(max((failure.exit_code for failure in failures), default=0))


def _maintained(target: IcebergTarget, older_than_ms: int, *, delete_orphans: bool) -> dict[str, Any]:
    if target.load() is None:
        return {"table": target.name, "exists": False}
    merged = target.compact()
    expired = target.expire()
    orphans = target.find_orphans(older_than_ms)
    gone = target.delete_orphans(orphans) if delete_orphans else 0
    after = target.history()[-1].after
    return {
        "table": target.name,
        "exists": True,
        "files_merged": merged,
        "files": after.files,
        "snapshots_expired": expired,
        "orphans": len(orphans.files),
        "orphan_bytes": orphans.size,
        "orphans_deleted": gone,
        "too_young": orphans.young,
        "files_listed": orphans.seen,
    }


def _print(documents: list[dict[str, Any]], *, deleted: bool) -> None:
    print_table(
        ("TABLE", "FILES MERGED", "FILES NOW", "SNAPSHOTS EXPIRED", "ORPHANS", "BYTES", "DELETED"),
        [
            (
                d["table"],
                d["files_merged"],
                d["files"],
                d["snapshots_expired"],
                d["orphans"],
                d["orphan_bytes"],
                d["orphans_deleted"],
            )
            if d["exists"]
            else (d["table"], "not there yet", "", "", "", "", "")
            for d in documents
        ],
    )
    if not deleted and any(d.get("orphans") for d in documents):
        click.echo("\norphan files were only counted: `lakeward maintain --delete-orphans` deletes them")


def _milliseconds(age: str) -> int:
    from lakeward.config.units import parse_interval  # noqa: PLC0415 - the help does without

    try:
        return int(parse_interval(age).total_seconds() * 1000)
    except ValueError as error:
        raise ConfigurationError(f"--older-than {age}: {error}", "Write it as 24h or 3d.") from error
