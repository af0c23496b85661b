"""Small files of a pipeline beside its table: below ``<table location>/_lakeward/<pipeline>/``, never listed."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from pyiceberg.io import FileIO
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from lakeward.ledger import KEY_PREFIX
from lakeward.sinks.iceberg.find import entry_in, mirrored, pipelines_of


def folder(metadata: TableMetadata, pipeline: str) -> str:
    """Where ``pipeline`` keeps its files. The underscore hides them from orphan removal."""
    return f"{metadata.location.rstrip('/')}/_lakeward/{quote(pipeline, safe='')}"


def put(io: FileIO, path: str, content: bytes) -> None:
    """Write a file, over the one that is there."""
    with io.new_output(path).create(overwrite=True) as stream:
        stream.write(content)


def get(io: FileIO, path: str) -> bytes | None:
    """A file's content; None where there is none."""
    try:
        with io.new_input(path).open() as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def unreferenced(metadata: TableMetadata, gone: Iterable[Snapshot], retained: Iterable[Snapshot]) -> set[str]:
    """Files that only entries of ``gone`` name: whoever goes back to a retained snapshot still finds its own."""
    litter = _named(metadata, gone)
    return litter - named(metadata, retained) if litter else litter


def named(metadata: TableMetadata, snapshots: Iterable[Snapshot] | None = None) -> set[str]:
    """The files that entries name: those of ``snapshots`` (all that the table retains), and the newest ones."""
    held = _named(metadata, metadata.snapshots if snapshots is None else snapshots)
    for pipeline in pipelines_of(metadata):
        mirror = mirrored(metadata, pipeline)
        if mirror is not None and mirror.entry.gaps is not None:
            held |= {f"{folder(metadata, pipeline)}/{kept.name}" for kept in mirror.entry.gaps.states.values()}
    return held


def _named(metadata: TableMetadata, snapshots: Iterable[Snapshot]) -> set[str]:
    found: set[str] = set()
    for snapshot in snapshots:
        summary = snapshot.summary.additional_properties if snapshot.summary else {}
        for key, text in summary.items():
            if not key.startswith(KEY_PREFIX) or '"gaps"' not in text:  # most tables follow no sequences
                continue
            pipeline = key.removeprefix(KEY_PREFIX)
            entry = entry_in(snapshot, pipeline)
            states = entry.gaps.states.values() if entry is not None and entry.gaps is not None else ()
            found |= {f"{folder(metadata, pipeline)}/{kept.name}" for kept in states}
    return found
