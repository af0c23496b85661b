"""``lakeward maintain``: small files, old snapshots, files that nobody refers to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakeward.cli.configuration import file_argument, read
from lakeward.cli.output import json_option, print_error, print_json, print_table
from lakeward.errors import ConfigurationError, LakewardError

if TYPE_CHECKING:
    from lakeward.sinks.iceberg.target import IcebergTarget


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be done with each table. ``partition``: which to rewrite; None for none. ``keep``: snapshots left."""

    partition: str | None
    keep: int | None
    older_than_ms: int
    delete_orphans: bool
    dry_run: bool


@click.command(short_help="Merge small files, rewrite partitions, expire snapshots, find orphan files.")
@file_argument
@click.option(
    "--rewrite",
    "partition",
    metavar="PARTITION",
    help="Also write a partition anew, sorted, in files of the target size: such as ts_day=2026-01-31, or `all`.",
)
@click.option("--keep-snapshots", "keep", type=click.IntRange(min=1), help="Expire all but so many snapshots.")
@click.option("--older-than", "age", default="24h", show_default=True, help="How old an orphan file is at least.")
@click.option("--delete-orphans", is_flag=True, help="Delete orphan files. Without, they are only counted.")
@click.option("--dry-run", is_flag=True, help="Say what there is to do, and change nothing.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, file: Path, *, as_json: bool, **options: Any) -> None:
    """Maintain the tables of FILE (default: lakeward.yaml): what `run` does beside the stream, done now and to the end.

    Small files of a partition become large ones, sorted as the table says; manifests become few; snapshots are thinned
    out by age; files that nothing refers to are counted, and deleted with --delete-orphans. Rows and positions stay as
    they are, and writers and readers may go on meanwhile.
    """
    from lakeward.cli.tables import quiet_assembly, targets  # noqa: PLC0415 - the help does without

    wanted = _Wanted(older_than_ms=_milliseconds(options.pop("age")), **options)
    failures: list[LakewardError] = []
    documents: list[dict[str, Any]] = []
    with quiet_assembly(read(file)) as assembly:
        for target in targets(assembly):
            try:
                documents.append(_maintained(target, wanted))
            except LakewardError as error:  # the other tables still have their turn
                failures.append(error)
    if wanted.partition not in {None, "all"} and not failures and not any(d.get("partitions_found") for d in documents):
        failures.append(
            ConfigurationError(
                f"no table has a partition {wanted.partition}",
                "Partitions are called as in the paths of their files, such as exchange_timestamp_day=2026-01-31.",
            )
        )
    if as_json:
        told = [{"what": failure.what, "way_out": failure.way_out} for failure in failures]
        print_json({"pipeline": assembly.config.name, "dry_run": wanted.dry_run, "tables": documents, "errors": told})
    else:
        _print(documents, wanted)
        for failure in failures:
            print_error(failure, as_json=False)
    ctx.exit(max((failure.exit_code for failure in failures), default=0))


def _maintained(target: IcebergTarget, wanted: _Wanted) -> dict[str, Any]:
    table = target.load()
    if table is None:
        return {"table": target.name, "exists": False}
    rewriter = target.rewriter
    wholes = rewriter.partitions(wanted.partition) if wanted.partition is not None else []
    if wanted.dry_run:
        merged, manifests, expired = rewriter.mergeable(table), rewriter.scattered(table), target.expirable(wanted.keep)
        rewritten = sum(len(whole.job.files) for whole in wholes if not whole.sound)
    else:
        rewritten = sum(rewriter.rewrite(whole.path) for whole in wholes)
        merged, manifests, expired = target.compact(), rewriter.gather(), target.expire(wanted.keep)
    orphans = target.find_orphans(wanted.older_than_ms)
    gone = target.delete_orphans(orphans) if wanted.delete_orphans and not wanted.dry_run else 0
    return {
        "table": target.name,
        "exists": True,
        "partitions_found": len(wholes),
        "files_rewritten": rewritten,
        "files_merged": merged,
        "files": target.held().files,
        "manifests_gathered": manifests,
        "snapshots_expired": expired,
        "orphans": len(orphans.files),
        "orphan_bytes": orphans.size,
        "orphans_deleted": gone,
        "too_young": orphans.young,
        "files_listed": orphans.seen,
    }


_COLUMNS = {
    "REWRITTEN": "files_rewritten",
    "MERGED": "files_merged",
    "FILES NOW": "files",
    "MANIFESTS": "manifests_gathered",
    "SNAPSHOTS": "snapshots_expired",
    "ORPHANS": "orphans",
    "BYTES": "orphan_bytes",
    "DELETED": "orphans_deleted",
}


def _print(documents: list[dict[str, Any]], wanted: _Wanted) -> None:
    print_table(
        ("TABLE", *_COLUMNS),
        [
            (d["table"], *(d[key] for key in _COLUMNS.values()))
            if d["exists"]
            else (d["table"], "not there yet", *[""] * (len(_COLUMNS) - 1))
            for d in documents
        ],
    )
    if wanted.dry_run:
        click.echo("\nnothing was changed: without --dry-run so many files, manifests and snapshots go")
    elif not wanted.delete_orphans and any(d.get("orphans") for d in documents):
        click.echo("\norphan files were only counted: `lakeward maintain --delete-orphans` deletes them")


def _milliseconds(age: str) -> int:
    from lakeward.config.units import parse_interval  # noqa: PLC0415 - the help does without

    try:
        return int(parse_interval(age).total_seconds() * 1000)
    except ValueError as error:
        raise ConfigurationError(f"--older-than {age}: {error}", "Write it as 24h or 3d.") from error
