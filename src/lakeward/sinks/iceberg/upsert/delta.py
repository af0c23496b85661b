"""What becomes of the rows that the keys of a batch held until now, on whatever head the batch is committed to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from lakeward.keys import Hashes
from lakeward.sinks.iceberg.find import head_of
from lakeward.sinks.iceberg.manifests import Amendment, Manifests
from lakeward.sinks.iceberg.upsert.deletes import Gone, concerns, write_deletes
from lakeward.sinks.iceberg.upsert.departed import Departed
from lakeward.sinks.iceberg.upsert.index import Arrived, KeyIndex


@dataclass(slots=True)
class Delta:
    """The other half of an upsert, beside its new files: old rows go, by position.

    ``keys``: whose rows go, each once. ``arrived``: the staged files and whose rows they hold. ``truncates``: all rows
    that the table holds go. ``read_at``: the head whose values are in the staged files, where some were read back; 0
    where they were looked for in a table without a head.
    ``deleted``: so many of the last ``keys`` hold no row afterwards; ``departed`` is told where theirs lie.
    """

    index: KeyIndex
    manifests: Manifests
    keys: Hashes
    arrived: Sequence[Arrived]
    truncates: bool = False
    read_at: int | None = None
    deleted: int = 0
    departed: Departed = field(default_factory=Departed)
    _touched: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)
    """What the last attempt takes away: files by their number in the index, and positions."""
    _deletes: Sequence[DataFile] = ()
    _held: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None
    """Where the keys held their rows."""

    def stands(self, table: Table) -> bool:
        """Whether what was read back still is what ``table`` holds (PROTOCOL C2e)."""
        head = head_of(table.metadata)
        return self.read_at is None or self.read_at == (head.snapshot_id if head is not None else 0)

    def against(self, table: Table, commit: str) -> Amendment:
        """The change of ``table`` at its head; its delete files are written, under names that no other attempt has."""
        files = [one.file for one in self.arrived]
        head = head_of(table.metadata)
        self._touched, self._deletes, self._held = [], (), None
        if self.truncates:
            return Amendment(files, (), list(self._live(table, head)))
        self.index.advance(table)
        shrunk: list[Gone] = []
        gone: list[DataFile] = []
        for number, positions in self._found():
            file = self.index.file(number)
            self._touched.append((number, positions))
            deleted = _merged(self.index.deleted(number), positions)
            if len(deleted) == file.record_count:
                gone.append(file)
            else:
                shrunk.append(Gone(file, deleted))
        paths = {file.file_path for file in gone} | {one.file.file_path for one in shrunk}
        gone += self._superseded(table, head, paths) if paths else []
        self._deletes = write_deletes(table, shrunk, f"{commit}-{table.metadata.new_snapshot_id()}")
        return Amendment(files, self._deletes, gone)

    def landed(self, table: Table) -> None:
        """The last attempt is the head of ``table`` now: the index follows without reading anything."""
        self._tell_departed()
        if self.truncates:
            self.index.emptied(table)
        self.index.landed(table, self.arrived, self._touched, self._deletes)

    def _tell_departed(self) -> None:
        if self._held is None or not self.deleted:
            return
        files, positions = self._held[0][-self.deleted :], self._held[1][-self.deleted :]
        there = np.flatnonzero(files >= 0)
        held, numbers = np.unique(files[there], return_inverse=True)
        keys = self.keys[-self.deleted :][there]
        self.departed.note(keys, [self.index.file(number) for number in held.tolist()], numbers, positions[there])

    def _found(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The rows that the keys hold, by file, positions ascending."""
        files, positions = self.index.find(self.keys)
        self._held = files, positions
        held = np.flatnonzero(files >= 0)
        files, positions = files[held], positions[held]
        order = np.lexsort((positions, files))
        files, positions = files[order], positions[order]
        bounds = [0, *(np.flatnonzero(files[1:] != files[:-1]) + 1).tolist(), len(files)]
        for start, end in pairwise(bounds):
            if end > start:
                yield int(files[start]), positions[start:end].astype(np.int64, copy=False)

    def _superseded(self, table: Table, head: Snapshot | None, paths: Collection[str]) -> Iterator[DataFile]:
        """The delete files of the files at ``paths``, and those of files that other tools took away without them."""
        for file in self._live(table, head, deletes=True):
            path = concerns(file)
            if path is not None and (path in paths or self.index.number(path) is None):
                yield file

    def _live(self, table: Table, head: Snapshot | None, *, deletes: bool = False) -> Iterator[DataFile]:
        """The files of the head; ``deletes``: only those of deletes."""
        for manifest in self.manifests.of(head, table.io):
            if not deletes or manifest.content == ManifestContent.DELETES:
                yield from (entry.data_file for entry in self.manifests.entries(manifest, table.io))


def _merged(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Both, ascending, none twice."""
    if not len(one):
        return other
    both = np.concatenate((one, other))
    both.sort(kind="stable")  # merges what is in order already
    return both[np.concatenate(([True], both[1:] != both[:-1]))]
