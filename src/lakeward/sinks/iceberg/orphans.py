"""Files below a table's location that nothing refers to: left by processes that died, and by commits that lost.

Nothing here is guessed: a file is an orphan when no retained snapshot, no metadata file of the log, no archive and no
kept state names it, and when it is older than any batch that could still be on its way, by the store's own clock
(PROTOCOL M3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlparse

import structlog
from pyarrow.fs import FileSelector, FileType
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from lakeward.errors import ConfigurationError, OperatorError
from lakeward.sinks.iceberg import shelf
from lakeward.sinks.iceberg.archive import files_of
from lakeward.sinks.iceberg.references import GC_ENABLED
from lakeward.sinks.iceberg.store import delete_files

if TYPE_CHECKING:
    from pyiceberg.io.fsspec import FsspecFileIO

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LEAST_AGE_MS = 24 * 3600 * 1000
"""Younger files may belong to a commit that is under way, here or in another program."""
_FOLDERS = ("data", "metadata", "_lakeward")


class Stray(NamedTuple):
    """A file in the store: where, how large, and when it was written, milliseconds since the epoch."""

    path: str
    size: int
    written_ms: int


@dataclass(frozen=True, slots=True)
class Orphans:
    """What was found: ``files`` nobody refers to and old enough, out of ``seen`` in all; ``young`` are too new."""

    files: tuple[Stray, ...]
    seen: int
    young: int

    @property
    def size(self) -> int:
        """Bytes of all orphans."""
        return sum(file.size for file in self.files)


def find_orphans(table: Table, pipeline: str, older_than_ms: int = LEAST_AGE_MS) -> Orphans:
    """List the table's folders and compare; changes nothing but a probe that tells the store's time.

    Raises:
        ConfigurationError: ``older_than_ms`` is less than a day. OperatorError: the store cannot be listed.
    """
    if older_than_ms < LEAST_AGE_MS:
        raise ConfigurationError(
            "files younger than 24 hours may belong to commits under way", "Give a longer age, such as 24h or 3d."
        )
    # Listed first, compared afterwards: what is committed meanwhile is found referred to.
    now_ms = _now_ms(table, pipeline)
    found = [stray for folder in _FOLDERS for stray in listed(table.io, f"{table.location().rstrip('/')}/{folder}")]
    fresh = table.refresh()
    referred = {_key(path) for path in _referred(fresh)}
    loose = [stray for stray in found if _key(stray.path) not in referred]
    old = tuple(stray for stray in loose if now_ms - stray.written_ms > older_than_ms)
    return Orphans(old, len(found), len(loose) - len(old))


def delete_orphans(table: Table, orphans: Orphans) -> int:
    """Delete them; return how many went. What cannot be deleted is logged, and found again next time.

    Raises:
        OperatorError: the table says that others use its files.
    """
    if table.properties.get(GC_ENABLED, "true").lower() == "false":
        raise OperatorError(
            f"{'.'.join(table.name())} has {GC_ENABLED}=false: other tables may use its files",
            f"Nothing was deleted. Remove the property {GC_ENABLED} if that is not so.",
        )
    failures = delete_files(table.io, [stray.path for stray in orphans.files])
    for path, error in failures.items():
        log.warning("not deleted", file=path, error=type(error).__name__)
    return len(orphans.files) - len(failures)


def _referred(table: Table) -> Iterator[str]:
    """Every path that the table's metadata leads to."""
    metadata = table.metadata
    yield table.metadata_location
    yield from (entry.metadata_file for entry in metadata.metadata_log)
    yield from (file.statistics_path for file in [*metadata.statistics, *metadata.partition_statistics])
    read: set[str] = set()
    for snapshot in metadata.snapshots:
        yield snapshot.manifest_list
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path in read:
                continue
            read.add(manifest.manifest_path)
            yield manifest.manifest_path
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                yield entry.data_file.file_path
    yield from files_of(table.io, metadata)
    yield from shelf.named(metadata)


def _key(path: str) -> str:
    """A path without its scheme: ``s3`` and ``s3a``, ``file:`` and no scheme name the same file."""
    parsed = urlparse(path)
    return f"{parsed.netloc}{parsed.path}".lstrip("/") if parsed.scheme else path.lstrip("/")


def _now_ms(table: Table, pipeline: str) -> int:
    """The store's clock, read from a file that is written for it."""
    probe = f"{shelf.folder(table.metadata, pipeline)}/clock"
    shelf.put(table.io, probe, b"")
    try:
        folder = shelf.folder(table.metadata, pipeline)
        return next(stray.written_ms for stray in listed(table.io, folder) if _key(stray.path) == _key(probe))
    finally:
        with contextlib.suppress(Exception):  # a file of no bytes
            table.io.delete(probe)


def listed(io: FileIO, folder: str) -> Iterable[Stray]:
    """Every file below ``folder``, in the store's own words.

    Raises:
        OperatorError: the store cannot be listed.
    """
    from pyiceberg.io.fsspec import FsspecFileIO  # noqa: PLC0415 -- writers do without

    if isinstance(io, PyArrowFileIO):
        return _by_pyarrow(io, folder)
    if isinstance(io, FsspecFileIO):
        return _by_fsspec(io, folder)
    raise OperatorError(
        f"files of {type(io).__name__} cannot be listed", "Use PyIceberg's own FileIO (py-io-impl), or another tool."
    )


def _by_pyarrow(io: PyArrowFileIO, folder: str) -> Iterator[Stray]:
    scheme, netloc, path = io.parse_location(folder, io.properties)
    for info in io.fs_by_scheme(scheme, netloc).get_file_info(FileSelector(path, True, True)):
        if info.type == FileType.File:
            # A path in a bucket begins with the bucket's name already.
            full = f"{scheme}://{info.path}" if netloc else f"file://{info.path}"
            yield Stray(full, info.size, info.mtime_ns // 1_000_000)


def _by_fsspec(io: FsspecFileIO, folder: str) -> Iterator[Stray]:
    scheme = urlparse(folder).scheme or "file"
    fs = io.get_fs(scheme)
    fs.invalidate_cache()
    for path, info in fs.find(folder, detail=True).items():
        yield Stray(f"{scheme}://{path}", int(info["size"]), _written_ms(info))


def _written_ms(info: dict[str, Any]) -> int:
    written = info.get("LastModified", info.get("last_modified", info.get("mtime")))
    if isinstance(written, datetime):
        return int(written.astimezone(UTC).timestamp() * 1000)
    if isinstance(written, (int, float)):
        return int(written * 1000)
    raise OperatorError("the store does not say how old its files are", "Use another tool to remove orphan files.")
