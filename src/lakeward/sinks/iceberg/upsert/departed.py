"""Where rows lie that the last commits deleted: the row of a changed key may ask for what its former one held.

A change of a key is a deletion and a creation, and a commit may come between the two. The deleted row is no longer in
the table, and is still in its file. A writer remembers where; after its death, files are searched for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table import Table

from lakeward.keys import Hashes
from lakeward.sinks.iceberg.find import ancestry
from lakeward.sinks.iceberg.upsert.index_reading import KeyColumns

COMMITS = 64
ROWS = 200_000
"""So many commits, and so many rows of them, are remembered at most."""
SNAPSHOTS = 16
"""The files of so many snapshots are searched."""


@dataclass(frozen=True, slots=True)
class _Commit:
    keys: Hashes
    files: Sequence[DataFile]
    numbers: NDArray[np.int64]
    positions: NDArray[np.int64]


@dataclass(slots=True)
class Departed:
    """The rows that were deleted last, by key."""

    _commits: deque[_Commit] = field(default_factory=lambda: deque(maxlen=COMMITS))

    def note(
        self, keys: Hashes, files: Sequence[DataFile], numbers: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> None:
        """A commit has deleted the rows of ``keys``: those at ``positions`` in ``files``, by their ``numbers``."""
        if not len(keys):
            return
        self._commits.append(_Commit(keys, files, numbers, positions))
        while len(self._commits) > 1 and sum(len(commit.keys) for commit in self._commits) > ROWS:
            self._commits.popleft()

    def find(self, key: NDArray[np.uint64]) -> tuple[DataFile, int] | None:
        """Where the row of ``key`` (uint64[2]) was when it was deleted; None where nobody remembers."""
        for commit in reversed(self._commits):
            at = np.flatnonzero((commit.keys[:, 0] == key[0]) & (commit.keys[:, 1] == key[1]))
            if len(at):
                return commit.files[int(commit.numbers[at[-1]])], int(commit.positions[at[-1]])
        return None


def search(table: Table, key: tuple[str, ...], wanted: Hashes) -> dict[bytes, tuple[DataFile, int]]:
    """Where the rows of the keys ``wanted`` lay last, living or deleted, in the files of the last snapshots.

    All of their keys are read: this is for what nobody remembers.
    """
    files: dict[str, tuple[int, DataFile]] = {}
    for snapshot in islice(ancestry(table.metadata), SNAPSHOTS):
        for manifest in snapshot.manifests(table.io):
            if manifest.content == ManifestContent.DATA:
                for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                    files.setdefault(entry.data_file.file_path, (entry.sequence_number or 0, entry.data_file))
    columns = KeyColumns.of(table, key)
    found: dict[bytes, tuple[DataFile, int]] = {}
    for _, file in sorted(files.values(), key=lambda one: one[0]):
        try:
            for first, hashes in columns.read(file):
                for row in np.flatnonzero(np.isin(hashes[:, 0], wanted[:, 0])).tolist():
                    found[hashes[row].tobytes()] = file, first + row
        except FileNotFoundError:
            continue
    return found
