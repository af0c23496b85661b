"""Writes manifests, and merges small ones so that their number grows with the logarithm of the number of commits.

Manifests are kept in tiers by how many live files they list (1-15, 16-255, …). As soon as a tier of the default
partition spec holds `FANOUT` of them, they become one manifest of the next tier. Each file is thus rewritten once a
tier. Carried files are EXISTING entries with the snapshot and sequence numbers they always had.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyiceberg.io import FileIO
from pyiceberg.manifest import (
    UNASSIGNED_SEQ,
    DataFile,
    DataFileContent,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriter,
    ManifestWriterV2,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.table import TableProperties
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from lakeward.sinks.iceberg.manifest_blocks import Described, in_blocks
from lakeward.sinks.iceberg.store import WholeFile

FANOUT = 16
GATHERED = 8192
"""Files that a manifest lists at most when manifests are gathered: some MiB."""
_CACHED_ENTRIES = 4096
_LARGEST_MERGED = 16**4
"""Manifests of so many files stay as they are: rewriting them would cost more than reading past them."""


@dataclass(slots=True)
class Paper:
    """Where one attempt writes its manifests. ``written`` lists every path, also of files that failed half-way."""

    io: FileIO
    metadata: TableMetadata
    snapshot_id: int
    sequence_number: int
    stem: str
    """Path and beginning of every manifest's name; unique to the attempt."""
    written: list[str] = field(default_factory=list)

    @property
    def compression(self) -> str:
        """The Avro codec that the table asks for."""
        key, default = TableProperties.WRITE_AVRO_COMPRESSION, TableProperties.WRITE_AVRO_COMPRESSION_DEFAULT
        return self.metadata.properties.get(key, default)

    def path(self, ending: str) -> str:
        """A path of this attempt, noted as written."""
        path = f"{self.stem}{ending}"
        self.written.append(path)
        return path

    def writer(self, spec_id: int, content: ManifestContent) -> ManifestWriter:
        """A manifest of files of one spec, either of data or of deletes."""
        write = write_manifest if content == ManifestContent.DATA else _delete_manifest
        return write(
            format_version=self.metadata.format_version,
            spec=self.metadata.specs()[spec_id],
            schema=self.metadata.schema(),
            output_file=WholeFile(self.io.new_output(self.path(f"-m{len(self.written)}.avro"))),
            snapshot_id=self.snapshot_id,
            avro_compression=self.compression,  # type: ignore[arg-type]
        )


class _DeleteManifestWriter(ManifestWriterV2):
    """PyIceberg has none."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def _delete_manifest(format_version: int, **settings: Any) -> ManifestWriter:
    del format_version  # delete files begin with version 2, and no other is written
    return _DeleteManifestWriter(**settings)


@dataclass(frozen=True, slots=True)
class Amendment:
    """What a commit changes: files of data and of deletes that come, and files of both kinds that go."""

    files: Sequence[DataFile] = ()
    deletes: Sequence[DataFile] = ()
    gone: Sequence[DataFile] = ()

    @property
    def appends(self) -> bool:
        """Whether it only adds rows."""
        return not self.deletes and not self.gone


class Manifests:
    """Knows the manifests of the head, and the entries of recent ones, so that a commit seldom reads any."""

    def __init__(self) -> None:
        self._head: tuple[int, list[ManifestFile]] | None = None
        self._entries: OrderedDict[str, list[ManifestEntry]] = OrderedDict()
        self._described = Described()

    def of(self, snapshot: Snapshot | None, io: FileIO) -> list[ManifestFile]:
        """The manifests of ``snapshot`` that list any live file."""
        if snapshot is None:
            return []
        if self._head is None or self._head[0] != snapshot.snapshot_id:
            self._head = (snapshot.snapshot_id, snapshot.manifests(io))
        return [m for m in self._head[1] if m.has_added_files() or m.has_existing_files()]

    def compose(self, paper: Paper, files: Sequence[DataFile], carried: Sequence[ManifestFile]) -> list[ManifestFile]:
        """Write what is new, merge what is due; return the new snapshot's manifests, newest first."""
        merged = list(carried)
        while (due := _due(merged, paper.metadata.default_spec_id)) is not None:
            paths = {manifest.manifest_path for manifest in due}
            joined = self._write(paper, (entry for manifest in due for entry in self._entries_of(manifest, paper.io)))
            merged = [joined, *(m for m in merged if m.manifest_path not in paths)]
        if not files:
            return merged
        return [self._write(paper, [_added(file, paper.snapshot_id) for file in files]), *merged]

    def amend(self, paper: Paper, change: Amendment, carried: Sequence[ManifestFile]) -> list[ManifestFile] | None:
        """The new snapshot's manifests after ``change``; None where not all files that are to go are live.

        The manifests that a file goes from have to say so. Those of deletes are joined with what is new: nearly all of
        their files go with every commit that touches many data files.
        """
        missing = {file.file_path for file in change.gone}
        of_data = any(file.content == DataFileContent.DATA for file in change.gone)
        of_deletes = any(file.content != DataFileContent.DATA for file in change.gone)
        rest: list[ManifestFile] = []
        written: list[ManifestFile] = []
        deletes: dict[int, list[ManifestEntry]] = {}
        for manifest in carried:
            is_data = manifest.content == ManifestContent.DATA
            held = self._entries_of(manifest, paper.io) if missing and (of_data if is_data else of_deletes) else []
            here = {entry.data_file.file_path for entry in held} & missing
            if not here:
                rest.append(manifest)
                continue
            missing -= here
            entries = [_deleted(e, paper) if e.data_file.file_path in here else e for e in held]
            if is_data:
                written.append(self._write(paper, entries, manifest.partition_spec_id))
            else:
                deletes.setdefault(manifest.partition_spec_id, []).extend(entries)
        if missing:
            return None
        for file in change.deletes:
            deletes.setdefault(file.spec_id, []).append(_added(file, paper.snapshot_id))
        for spec_id, entries in deletes.items():
            beside = [m for m in rest if m.content == ManifestContent.DELETES and m.partition_spec_id == spec_id]
            if len(beside) >= FANOUT:
                rest = [manifest for manifest in rest if manifest not in beside]
                entries += [entry for manifest in beside for entry in self._entries_of(manifest, paper.io)]
            written.append(self._write(paper, entries, spec_id, ManifestContent.DELETES))
        return [*written, *self.compose(paper, change.files, rest)]

    def gatherable(self, carried: Sequence[ManifestFile], spec_id: int) -> list[ManifestFile]:
        """Those that list data files of one spec."""
        return [m for m in carried if m.content == ManifestContent.DATA and m.partition_spec_id == spec_id]

    def needed(self, manifests: Sequence[ManifestFile]) -> int:
        """How many manifests the files of ``manifests`` need."""
        return -(-sum(map(live_files, manifests)) // GATHERED)

    def gather(self, paper: Paper, carried: Sequence[ManifestFile]) -> list[ManifestFile]:
        """The manifests of data files of the default spec written anew: few, each with neighbouring partitions."""
        own = self.gatherable(carried, paper.metadata.default_spec_id)
        entries = [entry for manifest in own for entry in self._entries_of(manifest, paper.io)]
        entries.sort(key=lambda e: (repr(e.data_file.partition), e.sequence_number or 0, e.data_file.file_path))
        new = [self._write(paper, entries[start : start + GATHERED]) for start in range(0, len(entries), GATHERED)]
        return [*new, *(manifest for manifest in carried if manifest not in own)]

    @property
    def remembered(self) -> Mapping[str, Sequence[ManifestEntry]]:
        """The live files of some manifests of the head, by the manifests' paths."""
        return self._entries

    def entries(self, manifest: ManifestFile, io: FileIO) -> list[ManifestEntry]:
        """The live files of a manifest, as a later one carries them."""
        return self._entries_of(manifest, io)

    def replace(
        self, paper: Paper, gone: Collection[str], files: Sequence[DataFile], carried: Sequence[ManifestFile]
    ) -> list[ManifestFile] | None:
        """The new snapshot's manifests where ``files`` take the place of those whose paths are ``gone``.

        None where not all of those are live. Nothing is merged: the manifests that a file goes from have to say so.
        """
        kept, missing = [], set(gone)
        for manifest in carried:
            held = self._entries_of(manifest, paper.io) if manifest.content == ManifestContent.DATA else []
            here = {entry.data_file.file_path for entry in held} & missing
            if not here:
                kept.append(manifest)
                continue
            missing -= here
            entries = [_deleted(e, paper) if e.data_file.file_path in here else e for e in held]
            kept.append(self._write(paper, entries))
        return None if missing else [self._write(paper, [_added(file, paper.snapshot_id) for file in files]), *kept]

    def landed(self, snapshot_id: int, manifests: list[ManifestFile]) -> None:
        """The attempt that composed these is the head now."""
        self._head = (snapshot_id, manifests)
        present = {manifest.manifest_path for manifest in manifests}
        for path in [path for path in self._entries if path not in present]:
            del self._entries[path]

    def _write(
        self,
        paper: Paper,
        entries: Iterable[ManifestEntry],
        spec_id: int | None = None,
        content: ManifestContent = ManifestContent.DATA,
    ) -> ManifestFile:
        kept: list[ManifestEntry] = []
        read = list(entries)  # before a file is begun: closing it empty would raise another error than reading did
        with paper.writer(paper.metadata.default_spec_id if spec_id is None else spec_id, content) as writer:
            in_blocks(writer, self._described)
            for entry in read:
                writer.add_entry(entry)
                if entry.status != ManifestEntryStatus.DELETED:
                    kept.append(_existing(entry, paper.sequence_number))
        manifest = writer.to_manifest_file()
        # The sequence number is known already; with it the same objects serve as the next commit's carried ones.
        manifest.sequence_number = paper.sequence_number
        if manifest.min_sequence_number == UNASSIGNED_SEQ:
            manifest.min_sequence_number = paper.sequence_number
        self._remember(manifest.manifest_path, kept)
        return manifest

    def _entries_of(self, manifest: ManifestFile, io: FileIO) -> list[ManifestEntry]:
        held = self._entries.get(manifest.manifest_path)
        if held is None:
            held = [_existing(entry, None) for entry in manifest.fetch_manifest_entry(io, discard_deleted=True)]
            self._remember(manifest.manifest_path, held)
        return held

    def _remember(self, path: str, entries: list[ManifestEntry]) -> None:
        self._entries[path] = entries
        while sum(map(len, self._entries.values())) > _CACHED_ENTRIES:
            self._entries.popitem(last=False)


def write_list(paper: Paper, manifests: list[ManifestFile], parent: int | None, path: str) -> None:
    """Write the manifest list of the attempt's snapshot to ``path``."""
    paper.written.append(path)
    with write_manifest_list(
        format_version=paper.metadata.format_version,
        output_file=paper.io.new_output(path),
        snapshot_id=paper.snapshot_id,
        parent_snapshot_id=parent,
        sequence_number=paper.sequence_number,
        avro_compression=paper.compression,  # type: ignore[arg-type]
    ) as writer:
        writer.add_manifests(manifests)


def live_files(manifest: ManifestFile) -> int:
    """How many live files a manifest lists."""
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)


def _tier(files: int) -> int:
    tier = 0
    while files >= FANOUT:
        files //= FANOUT
        tier += 1
    return tier


def _due(manifests: Sequence[ManifestFile], spec_id: int) -> list[ManifestFile] | None:
    """The manifests of the lowest tier that is full; delete manifests and those of other specs are left alone."""
    tiers: dict[int, list[ManifestFile]] = {}
    for manifest in manifests:
        files = live_files(manifest)
        mergeable = manifest.content == ManifestContent.DATA and manifest.partition_spec_id == spec_id
        if mergeable and 0 < files < _LARGEST_MERGED:
            tiers.setdefault(_tier(files), []).append(manifest)
    return next((full for _, full in sorted(tiers.items()) if len(full) >= FANOUT), None)


def _added(file: DataFile, snapshot_id: int) -> ManifestEntry:
    return ManifestEntry.from_args(
        status=ManifestEntryStatus.ADDED,
        snapshot_id=snapshot_id,
        sequence_number=None,
        file_sequence_number=None,
        data_file=file,
    )


def _deleted(entry: ManifestEntry, paper: Paper) -> ManifestEntry:
    """``entry`` as the manifest that takes it away has it: in this snapshot, with the sequence numbers it had."""
    return ManifestEntry.from_args(
        status=ManifestEntryStatus.DELETED,
        snapshot_id=paper.snapshot_id,
        sequence_number=entry.sequence_number,
        file_sequence_number=entry.file_sequence_number,
        data_file=entry.data_file,
    )


def _existing(entry: ManifestEntry, assigned: int | None) -> ManifestEntry:
    """``entry`` as a later manifest carries it; ``assigned`` stands in for a sequence number that was inherited."""
    sequence, file_sequence = entry.sequence_number, entry.file_sequence_number
    return ManifestEntry.from_args(
        status=ManifestEntryStatus.EXISTING,
        snapshot_id=entry.snapshot_id,
        sequence_number=sequence if sequence is not None else assigned,
        file_sequence_number=file_sequence if file_sequence is not None else assigned,
        data_file=entry.data_file,
    )
