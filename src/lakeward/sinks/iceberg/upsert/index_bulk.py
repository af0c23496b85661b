"""Many keys into a table that does not fit into memory: sorted by segment on disk first, then segment by segment.

Put in as they come, each batch of keys would visit every page of every segment: the pages would come and go, and cost
several times what the keys do.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lakeward.keys import Hashes
from lakeward.sinks.iceberg.upsert.index_table import SEGMENTS, Bits, KeyTable, by_segment

_WORDS = 3
"""Of a key in the file: its hash's two, and the ordinal."""


class Bulk:
    """All keys of ``table``, which has none yet; a context, at whose end nothing is left but what was put in."""

    def __init__(self, table: KeyTable, folder: Path | None) -> None:
        self._table = table
        self._file = tempfile.TemporaryFile(prefix="lakeward-keys-", dir=folder)  # noqa: SIM115 -- closed by `__exit__`
        self._ends: list[NDArray[np.int64]] = []
        """For each batch, where each segment's keys end in the file, in keys; the first is where the batch begins."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, hashes: Hashes, ordinals: NDArray[np.int64]) -> None:
        """Take in some keys and the rows that hold them."""
        ends, order = by_segment(hashes)
        keys = np.empty((len(hashes), _WORDS), np.uint64)
        keys[:, :2] = hashes[order]
        keys[:, 2] = ordinals.view(np.uint64)[order]
        begin = int(self._ends[-1][-1]) if self._ends else 0
        self._file.write(keys.data.cast("B"))
        self._ends.append(np.concatenate(([0], ends)) + begin)

    def settle(self, dead: Bits) -> int:
        """Put all of them in; returns what `KeyTable.put` would have."""
        self._file.flush()
        return sum(self._settle(number, dead) for number in range(SEGMENTS))

    def _settle(self, number: int, dead: Bits) -> int:
        spans = [(int(ends[number]), int(ends[number + 1])) for ends in self._ends]
        keys = np.empty((sum(end - start for start, end in spans), _WORDS), np.uint64)
        at = 0
        for start, end in spans:
            if end > start:
                into = keys[at : at + end - start].data.cast("B")
                read = os.preadv(self._file.fileno(), [into], start * _WORDS * 8)
                if read != len(into):
                    raise OSError(f"a temporary file gave {read} bytes instead of {len(into)}")
                at += end - start
        hashes = np.ascontiguousarray(keys[:, :2])
        return self._table.fill(number, hashes, np.ascontiguousarray(keys[:, 2]).view(np.int64), dead)
