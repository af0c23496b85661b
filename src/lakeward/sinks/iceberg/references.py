"""Which files go with expired snapshots: what they refer to and no retained snapshot does (PROTOCOL M2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestEntry, ManifestFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Snapshot

GC_ENABLED = "gc.enabled"
"""Iceberg's property: false where another table refers to the same data files."""
_READERS = 8
_CACHED_FILES = 1_000_000
_MOST_KEPT = 1024
"""Files of a manifest that are kept by their paths."""

_File = tuple[str, int]
"""A path, and the sequence number of its file."""
Written = Mapping[str, Sequence[ManifestEntry]]
"""The live entries of manifests, by the manifests' paths."""
_NOTHING: Written = {}


@dataclass(slots=True)
class References:
    """Which manifests each snapshot lists, and which data files are live in them.

    Neither ever changes, so each is read once at most.
    """

    known: dict[int, frozenset[str]] = field(default_factory=dict)
    _manifests: dict[str, ManifestFile] = field(default_factory=dict)
    _live: OrderedDict[str, frozenset[int]] = field(default_factory=OrderedDict)
    """Hashes of the paths of a manifest's live files; that two paths share one only keeps a file longer."""
    _files: dict[str, list[_File]] = field(default_factory=dict)
    """The live files of manifests that we wrote ourselves: they need not be read again."""

    def note(self, snapshot_id: int, manifests: Iterable[ManifestFile], written: Written = _NOTHING) -> None:
        """Our own commit listed these; ``written`` has the live entries of some, by path."""
        listed = {manifest.manifest_path: manifest for manifest in manifests}
        self.known[snapshot_id] = frozenset(listed)
        for path, manifest in listed.items():
            entries = written.get(path) if path not in self._manifests else None
            if entries is not None and len(entries) <= _MOST_KEPT:
                self._files[path] = [(e.data_file.file_path, e.sequence_number or 0) for e in entries]
            self._manifests.setdefault(path, manifest)

    def garbage(self, gone: Sequence[Snapshot], metadata: TableMetadata, io: FileIO) -> set[str]:
        """Manifest lists, manifests and data files of ``gone`` that no snapshot of ``metadata`` refers to.

        Data files of a table whose commits only ever appended are never among them, and are not looked at.

        Raises:
            Exception: a list or a manifest cannot be read; then nothing may be deleted.
        """
        retained = metadata.snapshots
        self._learn([*gone, *retained], io)
        held = {path for snapshot in retained for path in self.known[snapshot.snapshot_id]}
        lost = {path for snapshot in gone for path in self.known[snapshot.snapshot_id]} - held
        litter = lost | {snapshot.manifest_list for snapshot in gone}
        if any(_takes_away(snapshot) for snapshot in [*gone, *retained]) and _may_delete_data(metadata):
            litter |= self._dead_files(lost, held, metadata, io)
        ids = {snapshot.snapshot_id for snapshot in retained}
        self.known = {key: value for key, value in self.known.items() if key in ids}
        self._manifests = {path: manifest for path, manifest in self._manifests.items() if path in held}
        self._files = {path: files for path, files in self._files.items() if path in held}
        for path in [path for path in self._live if path not in held]:
            del self._live[path]
        return litter

    def _dead_files(self, lost: set[str], held: set[str], metadata: TableMetadata, io: FileIO) -> set[str]:
        candidates: dict[int, str] = {}
        newest = 0
        home = metadata.location.rstrip("/") + "/"
        for path in lost:
            for file, sequence_number in self._files_in(self._manifests[path], io):
                if file.startswith(home):  # what was added from elsewhere is not ours to delete
                    candidates[hash(file)] = file
                    newest = max(newest, sequence_number)
        for path in held:
            if not candidates:
                break
            manifest = self._manifests[path]
            if manifest.min_sequence_number <= newest:  # else all of its files are younger
                for live in self._live_in(manifest, io) & candidates.keys():
                    del candidates[live]
        return set(candidates.values())

    def _live_in(self, manifest: ManifestFile, io: FileIO) -> frozenset[int]:
        path = manifest.manifest_path
        if path not in self._live:
            self._live[path] = frozenset(hash(file) for file, _ in self._files_in(manifest, io))
            while sum(map(len, self._live.values())) > _CACHED_FILES and len(self._live) > 1:
                self._live.popitem(last=False)
        return self._live[path]

    def _files_in(self, manifest: ManifestFile, io: FileIO) -> list[_File]:
        held = self._files.get(manifest.manifest_path)
        if held is not None:
            return held
        entries = manifest.fetch_manifest_entry(io, discard_deleted=True)
        return [(entry.data_file.file_path, entry.sequence_number or 0) for entry in entries]

    def _learn(self, snapshots: Sequence[Snapshot], io: FileIO) -> None:
        unknown = [snapshot for snapshot in snapshots if snapshot.snapshot_id not in self.known]
        if not unknown:
            return
        with ThreadPoolExecutor(_READERS, thread_name_prefix="manifests") as pool:
            for snapshot, listed in zip(unknown, pool.map(lambda s: s.manifests(io), unknown), strict=True):
                self.note(snapshot.snapshot_id, listed)


def _takes_away(snapshot: Snapshot) -> bool:
    return snapshot.summary is None or snapshot.summary.operation != Operation.APPEND


def _may_delete_data(metadata: TableMetadata) -> bool:
    return metadata.properties.get(GC_ENABLED, "true").lower() != "false"
