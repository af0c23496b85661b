"""Remembers expired snapshots: their ledger entries and totals, for `history` and `verify`.

A gzipped file of JSON lines below ``<table location>/_lakeward/<pipeline>/``: a header that names the file before it,
then one record a snapshot. The property ``lakeward-history.<pipeline>``, set by the commit that expires the
snapshots, names the newest file, so nothing is ever listed. Each expiry copies the newest file and adds a gzip member,
until it holds `RECORDS_A_FILE`; then a new one begins. The folder's underscore hides it from orphan removal.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from pyiceberg.io import FileIO
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from lakeward.errors import LedgerError
from lakeward.sinks.iceberg.find import ARCHIVE_PREFIX
from lakeward.sinks.iceberg.shelf import folder, get, put

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RECORDS_A_FILE = 4096
"""Each expiry writes the newest file anew, some hundred KiB at most."""


@dataclass(frozen=True, slots=True)
class Archived:
    """One expired snapshot. ``child``: the snapshot built on it, where one was retained at that time."""

    snapshot_id: int
    parent_id: int | None
    child: int | None
    sequence_number: int
    time_ms: int
    operation: str
    summary: Mapping[str, str]

    @staticmethod
    def of(snapshot: Snapshot, children: Mapping[int, int]) -> Archived:
        """What is kept of ``snapshot``; ``children`` maps a parent to the snapshot on the ancestry that follows it."""
        summary = snapshot.summary
        return Archived(
            snapshot_id=snapshot.snapshot_id,
            parent_id=snapshot.parent_snapshot_id,
            child=children.get(snapshot.snapshot_id),
            sequence_number=snapshot.sequence_number or 0,
            time_ms=snapshot.timestamp_ms,
            operation=summary.operation.value if summary else "",
            summary=dict(summary.additional_properties) if summary else {},
        )

    def line(self) -> str:
        """One line of JSON."""
        row = [self.snapshot_id, self.parent_id, self.child, self.sequence_number, self.time_ms, self.operation]
        return json.dumps([*row, dict(self.summary)], separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Pointer:
    """The newest file of a pipeline's archive, and how many records it holds."""

    file: str
    records: int

    def text(self) -> str:
        """As a table property."""
        return json.dumps({"file": self.file, "records": self.records})


def property_of(pipeline: str) -> str:
    """The table property that holds the pipeline's pointer."""
    return ARCHIVE_PREFIX + pipeline


def pointer_in(metadata: TableMetadata, pipeline: str) -> Pointer | None:
    """The pointer that the table holds.

    Raises:
        LedgerError: it does not parse.
    """
    text = metadata.properties.get(property_of(pipeline))
    if text is None:
        return None
    try:
        document = json.loads(text)
        return Pointer(str(document["file"]), int(document["records"]))
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"the property {property_of(pipeline)} of {metadata.location} cannot be read",
            "Something else wrote it. Remove it; the history of expired snapshots is then lost, positions are not.",
        ) from error


def append(io: FileIO, metadata: TableMetadata, pipeline: str, records: Sequence[Archived]) -> Pointer:
    """Write the newest file anew with ``records`` added; it counts once its pointer is committed.

    Its name follows from the head, so that trying again on the same head writes the same file.
    """
    held = pointer_in(metadata, pipeline)
    before = _read(io, held.file) if held is not None and held.records < RECORDS_A_FILE else None
    lines = [record.line() for record in records]
    if before is None:
        lines.insert(0, json.dumps({"previous": held.file if held is not None else None}))
    name = f"history-{metadata.current_snapshot_id}.records"  # ".gz" makes PyArrow compress again
    path = f"{folder(metadata, pipeline)}/{name}"
    # No time inside: the same records make the same bytes.
    member = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    put(io, path, (before or b"") + member)
    return Pointer(path, len(records) + (held.records if before is not None and held is not None else 0))


def read_all(io: FileIO, metadata: TableMetadata) -> Iterator[Archived]:
    """Every record of every pipeline's archive, each pipeline's newest file first; a missing file ends its chain."""
    for rows, _ in _chain(io, metadata):
        yield from _parse(rows)


def files_of(io: FileIO, metadata: TableMetadata) -> Iterator[str]:
    """The paths of every pipeline's archive, the newest file of each first."""
    for _, path in _chain(io, metadata):
        yield path


def _chain(io: FileIO, metadata: TableMetadata) -> Iterator[tuple[list[str], str]]:
    """The rows and the path of each file, from the newest back."""
    for key in sorted(metadata.properties):
        if not key.startswith(ARCHIVE_PREFIX):
            continue
        pointer = pointer_in(metadata, key.removeprefix(ARCHIVE_PREFIX))
        path = pointer.file if pointer is not None else None
        while path is not None:
            content = _read(io, path)
            if content is None:
                break
            header, *rows = gzip.decompress(content).decode().splitlines()
            yield rows, path
            path = json.loads(header)["previous"]


def _parse(rows: Iterable[str]) -> Iterator[Archived]:
    for row in rows:
        values: list[Any] = json.loads(row)
        yield Archived(*values)


def _read(io: FileIO, path: str) -> bytes | None:
    content = get(io, path)
    if content is None:
        log.warning("history file missing", file=path)
    return content
