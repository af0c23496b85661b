"""Which data files a head has, and which position-delete files say what of them is no more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.table import Table

from lakeward.errors import OperatorError
from lakeward.sinks.iceberg.find import head_of
from lakeward.sinks.iceberg.upsert.deletes import concerns

_READERS = 4
"""Manifests read at once: a store's answers are waited for side by side."""
_WAY_OUT = "Compact the table with the tool that wrote them, then start again."


@dataclass(frozen=True, slots=True)
class Listed:
    """A live file of a head. ``only``: of a delete file, the one data file that it concerns, where it tells."""

    file: DataFile
    sequence: int
    only: str | None = None

    def covers(self, data: Listed) -> bool:
        """Whether this delete file may delete rows of ``data``: not of files that came later, nor of other places."""
        if self.sequence < data.sequence:
            return False
        if self.only is not None:
            return self.only == data.file.file_path
        return self.place == data.place

    @property
    def place(self) -> tuple[Any, ...]:
        """Spec and partition."""
        return place_of(self.file)


@dataclass(frozen=True, slots=True)
class Listing:
    """The live files of a head, by path."""

    data: dict[str, Listed]
    deletes: dict[str, Listed]


@dataclass(slots=True)
class Lister:
    """Lists heads. Remembers what the manifests of the last one said: between two heads most stay the same."""

    _manifests: dict[str, list[Listed]] = field(default_factory=dict)

    def list(self, table: Table) -> Listing:
        """The files of the table's head.

        Raises:
            OperatorError: among them are equality deletes, formats that cannot be read, or one file twice.
        """
        head = head_of(table.metadata)
        manifests = [] if head is None else head.manifests(table.io)
        manifests = [one for one in manifests if one.has_added_files() or one.has_existing_files()]
        unknown = [one for one in manifests if one.manifest_path not in self._manifests]
        with ThreadPoolExecutor(_READERS, "reading manifests") as pool:
            read = zip(unknown, pool.map(lambda one: _listed(one, table), unknown), strict=True)
            known = self._manifests | {one.manifest_path: listed for one, listed in read}
        self._manifests = {one.manifest_path: known[one.manifest_path] for one in manifests}
        listing = Listing({}, {})
        for manifest in manifests:
            listed = known[manifest.manifest_path]
            into = listing.data if manifest.content == ManifestContent.DATA else listing.deletes
            for one in listed:
                if one.file.file_path in into:
                    raise OperatorError(
                        f"table {'.'.join(table.name())} lists the file {one.file.file_path} twice, so that its rows "
                        "are there twice",
                        "Remove one of the two, or roll the table back to before it came.",
                    )
                into[one.file.file_path] = one
        return listing


def slim(file: DataFile, spec_id: int) -> DataFile:
    """``file`` without the statistics of its columns: of those there are many, and they are not needed here."""
    copied = DataFile.from_args(
        content=file.content,
        file_path=file.file_path,
        file_format=file.file_format,
        partition=file.partition,
        record_count=file.record_count,
        file_size_in_bytes=file.file_size_in_bytes,
    )
    copied.spec_id = spec_id
    return copied


def place_of(file: DataFile) -> tuple[Any, ...]:
    """Spec and partition of a file."""
    return (file.spec_id, *(file.partition[at] for at in range(len(file.partition))))


def _listed(manifest: ManifestFile, table: Table) -> list[Listed]:
    entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
    return [_checked(entry, manifest.partition_spec_id, table) for entry in entries]


def _checked(entry: ManifestEntry, spec_id: int, table: Table) -> Listed:
    file, name = entry.data_file, ".".join(table.name())
    if file.content == DataFileContent.EQUALITY_DELETES:
        raise OperatorError(f"table {name} has equality deletes, which lakeward does not read", _WAY_OUT)
    if file.file_format != FileFormat.PARQUET:
        raise OperatorError(f"table {name} has files of format {file.file_format}; lakeward reads Parquet", _WAY_OUT)
    return Listed(slim(file, spec_id), entry.sequence_number or 0, concerns(file))
