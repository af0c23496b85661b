"""All rows of a table's data files, numbered through, and which of them are dead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lakeward.compiled import compiled, read_only
from lakeward.errors import StorageError
from lakeward.sinks.iceberg.upsert.index_files import Listed
from lakeward.sinks.iceberg.upsert.index_table import MOST_ORDINALS, Bits

_SPARE = 1 << 22
"""Ordinals of files that are gone may be so many before it is worth a thought."""


@dataclass(slots=True)
class Held:
    """A data file and the ordinal of its first row, a multiple of eight.

    ``applied``: the delete files by which its dead rows died, by path; None where that is not known.
    """

    listed: Listed
    first: int
    applied: frozenset[str] | None = frozenset()

    @property
    def rows(self) -> int:
        """Its rows, dead ones too."""
        return int(self.listed.file.record_count)

    @property
    def bytes(self) -> slice:
        """Where its bits lie."""
        return slice(self.first // 8, -(-(self.first + self.rows) // 8))


@dataclass(slots=True)
class Rows:
    """The files, numbered in the order in which they came. ``bits``: which ordinals are dead, those of no row too."""

    bits: Bits = field(default_factory=lambda: np.zeros(0, np.uint8))
    by_path: dict[str, int] = field(default_factory=dict)
    _files: list[Held | None] = field(default_factory=list)
    _begins: list[int] = field(default_factory=list)
    """Each file's first ordinal, also of those that are gone: they tell where their neighbours end."""
    _firsts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _end: int = 0
    _rows: int = 0

    def __len__(self) -> int:
        """Rows of all files, dead ones too."""
        return self._rows

    def __iter__(self) -> Iterator[int]:
        """The files' numbers."""
        return iter(self.by_path.values())

    def __getitem__(self, number: int) -> Held:
        held = self._files[number]
        if held is None:
            raise KeyError(number)
        return held

    def add(self, listed: Listed) -> int:
        """Take in a file, its rows all alive; return its number."""
        held = Held(listed, self._end)
        end = held.bytes.stop
        if end * 8 > MOST_ORDINALS:
            raise StorageError("a table has more rows than an index of keys can number", "Split it into several.")
        if end > len(self.bits):
            grown = np.zeros(max(end, len(self.bits) * 3 // 2), np.uint8)
            grown[: len(self.bits)] = self.bits
            self.bits = grown
        if held.rows % 8:
            self.bits[end - 1] = 0xFF << (held.rows % 8) & 0xFF
        number = len(self._files)
        self._files.append(held)
        self._begins.append(held.first)
        self.by_path[listed.file.file_path] = number
        self._end, self._rows = end * 8, self._rows + held.rows
        return number

    def remove(self, number: int) -> None:
        """A file is no more: all its rows are dead."""
        held = self[number]
        self.bits[held.bytes] = 0xFF
        self._files[number] = None
        del self.by_path[held.listed.file.file_path]
        self._rows -= held.rows

    def kill(self, number: int, positions: NDArray[np.int64]) -> None:
        """The rows at ``positions`` are dead; positions beyond the file's end mean nothing."""
        held = self[number]
        _set(self.bits[held.bytes], read_only(positions), held.rows)

    def bury(self, number: int, positions: NDArray[np.int64]) -> bool:
        """The rows at ``positions``, and no others, are dead; whether a row lives again that was dead."""
        held = self[number]
        bits = np.zeros(-(-held.rows // 8), np.uint8)
        _set(bits, read_only(positions), held.rows)
        if held.rows % 8:
            bits[-1] |= 0xFF << (held.rows % 8) & 0xFF
        revived = bool((self.bits[held.bytes] & ~bits).any())
        self.bits[held.bytes] = bits
        return revived

    def dead(self, number: int) -> NDArray[np.int64]:
        """The positions of dead rows, ascending."""
        held = self[number]
        bits = self.bits[held.bytes]
        out = np.empty(int(np.bitwise_count(bits).sum()), np.int64)
        _positions(bits, out)
        return out[: np.searchsorted(out, held.rows)]

    def living(self, number: int) -> int:
        """How many rows of a file live."""
        bits = self.bits[self[number].bytes]
        return len(bits) * 8 - int(np.bitwise_count(bits).sum())

    def ordinals(self, number: int, position: int, rows: int) -> NDArray[np.int64]:
        """The ordinals of ``rows`` rows from a position on."""
        first = self[number].first + position
        return np.arange(first, first + rows, dtype=np.int64)

    def locate(self, ordinals: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """File numbers and positions; -1 and -1 for the ordinal -1."""
        if len(self._firsts) != len(self._files):
            self._firsts = np.array(self._begins, np.int64)
        numbers, positions = np.empty(len(ordinals), np.int32), np.empty(len(ordinals), np.int64)
        _locate(read_only(ordinals), read_only(self._firsts), numbers, positions)
        return numbers, positions

    @property
    def sparse(self) -> bool:
        """Whether most ordinals are those of files that are gone."""
        return self._end > 2 * self._rows + _SPARE

    def renumber(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number files and rows afresh; return where the ordinals of each file began, and where they begin now."""
        before, kept = self.bits, [held for held in self._files if held is not None]
        firsts = np.array([held.first for held in kept], np.int64)
        self.bits, self._files, self._begins = np.zeros(0, np.uint8), [], []
        self._firsts = np.zeros(0, np.int64)
        self._end = self._rows = 0
        self.bits = np.zeros(sum(held.bytes.stop - held.bytes.start for held in kept), np.uint8)
        for held in kept:
            number = self.add(held.listed)
            self[number].applied = held.applied
            self.bits[self[number].bytes] = before[held.bytes]
        return firsts, np.array([held.first for held in self._files if held is not None], np.int64)


@compiled
def _set(bits: Bits, positions: NDArray[np.int64], rows: int) -> None:
    for i in range(len(positions)):
        position = positions[i]
        if 0 <= position < rows:
            bits[position >> 3] |= np.uint8(1 << (position & 7))


@compiled
def _positions(bits: Bits, out: NDArray[np.int64]) -> None:
    """Where the bits are that are set; ``out`` has room for as many."""
    count = 0
    for at in range(len(bits)):
        byte = bits[at]
        if byte:
            for k in range(8):
                if (byte >> k) & 1:
                    out[count] = at * 8 + k
                    count += 1


@compiled
def _locate(
    ordinals: NDArray[np.int64], firsts: NDArray[np.int64], numbers: NDArray[np.int32], positions: NDArray[np.int64]
) -> None:
    for i in range(len(ordinals)):
        if ordinals[i] < 0:
            numbers[i], positions[i] = -1, -1
            continue
        number = np.searchsorted(firsts, ordinals[i], side="right") - 1
        numbers[i], positions[i] = number, ordinals[i] - firsts[number]
