"""A hash table from keys to the rows that hold them, of bounded memory: 16 bytes an entry, some three quarters full.

It is split into segments by the first byte of the hash, so that growing it copies one of them at a time, and many keys
are looked up segment by segment, each in the processor's nearer caches. Segments beyond the limit of memory lie in
files without a name, which go with the process whatever ends it; their pages are given back after each use.

Rows are numbered by *ordinals*, and a set of bits says which are dead. Entries of dead rows are stale: they are passed
over when found, overwritten when their key comes again, and dropped when their segment grows.

An entry has 92 bits of the hash, its segment 8 more: at a billion keys, the odds that any two agree in all hundred are
1 in 10^12, and at a hundred million keys those that a given new key agrees with any of them 1 in 10^22.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lakeward.compiled import compiled, inlined, read_only
from lakeward.keys import Hashes

SEGMENTS = 256
MOST_ORDINALS = (1 << 36) - 1
_ENTRY = 16
_SMALLEST = 32
_FULL, _GROWN, _RESERVED = 0.75, 0.5, 0.68
"""Shares of a segment in use: when it grows, after it has, and where its keys were announced."""

_Word: TypeAlias = np.uint64
_U = np.uint64
_TAG = _U(36)
"""An entry's words: the hash's second; and 28 low bits of its first above the ordinal + 1, which is 0 in no entry."""
_ORDINAL = _U(MOST_ORDINALS)
_AHEAD = _U(31)
_NO_ENTRIES = np.zeros((0, 2), np.uint64)
_AS_THEY_ARE = read_only(np.zeros(0, np.int64))

Bits = NDArray[np.uint8]
"""Bit o % 8 of byte o // 8 is that of ordinal o."""


class KeyTable:
    """Where the row of each key lies; used by one thread at a time.

    Args:
        limit: bytes of entries that are kept in memory.
        folder: where the others go; None: the system's folder for temporary files.
    """

    def __init__(self, limit: int, folder: Path | None) -> None:
        self._limit, self._folder = limit, folder
        self.clear()

    def clear(self) -> None:
        """Forget all keys, and give back memory and files."""
        self._segments = [_NO_ENTRIES] * SEGMENTS
        self._maps: list[mmap.mmap | None] = [None] * SEGMENTS
        self._used = np.zeros(SEGMENTS, np.int64)

    @property
    def in_memory(self) -> int:
        """Bytes of entries in memory."""
        return sum(s.nbytes for s, file in zip(self._segments, self._maps, strict=True) if file is None)

    @property
    def in_files(self) -> int:
        """Bytes of entries in files."""
        return sum(s.nbytes for s, file in zip(self._segments, self._maps, strict=True) if file is not None)

    def reserve(self, rows: int, dead: Bits) -> None:
        """Make room for so many rows of keys that are not here yet, so that nothing is copied while they come."""
        for number in range(SEGMENTS):
            wanted = int((self._used[number] + rows / SEGMENTS) / _RESERVED)
            if wanted > max(_SMALLEST, len(self._segments[number])):
                self._resize(number, wanted, dead)

    def fits(self, rows: int) -> bool:
        """Whether so many keys fit into the memory that there is for them."""
        return rows / _RESERVED * _ENTRY <= self._limit

    def fill(self, number: int, hashes: Hashes, ordinals: NDArray[np.int64], dead: Bits) -> int:
        """As `put`, for all keys of a segment that has none yet."""
        segment = np.zeros((max(_SMALLEST, int(len(hashes) / _RESERVED)), 2), np.uint64)
        rows = np.arange(len(hashes))
        added, refused, _ = _put(segment, read_only(hashes), read_only(ordinals), rows, dead)
        self._segments[number], self._maps[number] = segment, None
        self._used[number] = added
        if self.in_memory > self._limit:
            self._segments[number], self._maps[number] = _stored(segment, self._folder)
        return refused

    def put(self, hashes: Hashes, ordinals: NDArray[np.int64], dead: Bits) -> int:
        """Say that the rows ``ordinals`` hold the keys with ``hashes``; dead ones do not.

        Returns how many did not become what their key leads to, because it leads to another row that lives.
        """
        twice = 0
        hashes, ordinals = read_only(hashes), read_only(ordinals)
        for number, rows in _grouped(hashes):
            if self._used[number] + len(rows) > _FULL * len(self._segments[number]):
                alive = _alive(self._segments[number], dead)
                self._resize(number, int((alive + len(rows)) / _GROWN), dead)
            added, refused, _ = _put(self._segments[number], hashes, ordinals, rows, dead)
            self._used[number] += added
            twice += refused
            self._give_back(number)
        return twice

    def find(self, hashes: Hashes, dead: Bits) -> NDArray[np.int64]:
        """The ordinals of the living rows that hold the keys; -1 where none does."""
        out = np.full(len(hashes), -1, np.int64)
        hashes = read_only(hashes)
        for number, rows in _grouped(hashes):
            if len(self._segments[number]):
                _find(self._segments[number], hashes, rows, dead, out)
                self._give_back(number)
        return out

    def renumber(self, dead: Bits, before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        """Drop stale entries; of the others, ordinals from ``before[i]`` on now begin at ``after[i]``."""
        for number, segment in enumerate(self._segments):
            if len(segment):
                room = max(_SMALLEST, int(_alive(segment, dead) / _RESERVED))
                self._resize(number, room, dead, read_only(before), read_only(after))

    def _resize(
        self,
        number: int,
        room: int,
        dead: Bits,
        before: NDArray[np.int64] = _AS_THEY_ARE,
        after: NDArray[np.int64] = _AS_THEY_ARE,
    ) -> None:
        old, file = self._segments[number], self._maps[number]
        memory = self.in_memory - (old.nbytes if file is None else 0)
        new, mapped = _allocated(max(_SMALLEST, room), self._limit - memory, self._folder)
        self._used[number] = _move(old, new, dead, before, after)
        self._segments[number], self._maps[number] = new, mapped
        self._give_back(number)

    def _give_back(self, number: int) -> None:
        """Let the system take back the pages of a segment in a file: what was written stays in the file."""
        file = self._maps[number]
        if file is not None and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


def _allocated(room: int, memory: int, folder: Path | None) -> tuple[NDArray[np.uint64], mmap.mmap | None]:
    size = room * _ENTRY
    if size <= memory:
        return np.zeros((room, 2), np.uint64), None
    with tempfile.TemporaryFile(prefix="lakeward-keys-", dir=folder) as file:  # it has no name from here on
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk shall be an error here, not a signal later
        else:
            file.truncate(size)
        return _mapped(mmap.mmap(file.fileno(), size))


def _stored(segment: NDArray[np.uint64], folder: Path | None) -> tuple[NDArray[np.uint64], mmap.mmap]:
    """``segment`` in a file."""
    with tempfile.TemporaryFile(prefix="lakeward-keys-", dir=folder) as file:
        file.write(segment.data.cast("B"))
        file.flush()
        return _mapped(mmap.mmap(file.fileno(), segment.nbytes))


def _mapped(file: mmap.mmap) -> tuple[NDArray[np.uint64], mmap.mmap]:
    return np.frombuffer(file, np.uint64).reshape(-1, 2), file


def by_segment(hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys ordered by segment: where each segment's end, int64[segments], and the order, int64[keys]."""
    ends, order = np.zeros(SEGMENTS + 1, np.int64), np.empty(len(hashes), np.int64)
    _sort(read_only(hashes), ends, order)
    return ends[:SEGMENTS], order


def _grouped(hashes: Hashes) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """The segments that hold or would hold the keys, and which of the keys those are."""
    ends, order = by_segment(hashes)
    start = 0
    for number, end in enumerate(ends.tolist()):
        if end > start:
            yield number, order[start:end]
        start = end


@compiled
def _sort(hashes: Hashes, ends: NDArray[np.int64], order: NDArray[np.int64]) -> None:
    """Order rows by segment; ``ends``, all zero, tells where each segment's end then."""
    count = _U(len(hashes))
    for i in range(count):
        ends[(hashes[i, 0] >> _U(56)) + _U(1)] += 1
    for k in range(1, len(ends)):
        ends[k] += ends[k - 1]
    for i in range(count):
        segment = hashes[i, 0] >> _U(56)
        order[_U(ends[segment])] = i
        ends[segment] += 1


@inlined
def _is_dead(dead: Bits, ordinal: _Word) -> bool:
    return bool((dead[ordinal >> _U(3)] >> np.uint8(ordinal & _U(7))) & np.uint8(1))


@inlined
def _slot(word: _Word, room: _Word) -> _Word:
    """Where to look first: hashes in their order are slots in their order."""
    return ((word >> _U(32)) * room) >> _U(32)


@inlined
def _touch(segment: NDArray[np.uint64], hashes: Hashes, rows: NDArray[np.int64], n: _Word) -> _Word:
    """Bring what the next rows need into the cache, all at once: one by one, each would be waited for."""
    touched = _U(0)
    for k in range(n, min(n + _AHEAD + _U(1), _U(len(rows)))):
        touched ^= segment[_slot(hashes[_U(rows[k]), 1], _U(len(segment))), 1]
    return touched


@compiled
def _put(
    segment: NDArray[np.uint64],
    hashes: Hashes,
    ordinals: NDArray[np.int64],
    rows: NDArray[np.int64],
    dead: Bits,
) -> tuple[int, int, _Word]:
    """Put in the ``rows`` of the batch; return how many entries were added, and how many rows refused.

    The third number means nothing.
    """
    room = _U(len(segment))
    added, refused, touched = 0, 0, _U(0)
    for n in range(_U(len(rows))):
        if n & _AHEAD == _U(0):
            touched ^= _touch(segment, hashes, rows, _U(n))
        row = _U(rows[n])
        ordinal = _U(ordinals[row])
        if _is_dead(dead, ordinal):
            continue
        word, tag = hashes[row, 1], hashes[row, 0] << _TAG
        slot = _slot(word, room)
        while True:
            held = segment[slot, 1]
            if held == _U(0):
                added += 1
            elif segment[slot, 0] != word or (held >> _TAG) << _TAG != tag:
                slot += _U(1)
                if slot == room:
                    slot = _U(0)
                continue
            elif (held & _ORDINAL) - _U(1) != ordinal and not _is_dead(dead, (held & _ORDINAL) - _U(1)):
                refused += 1
                break
            segment[slot, 0] = word
            segment[slot, 1] = tag | (ordinal + _U(1))
            break
    return added, refused, touched


@compiled
def _find(
    segment: NDArray[np.uint64], hashes: Hashes, rows: NDArray[np.int64], dead: Bits, out: NDArray[np.int64]
) -> _Word:
    """Find the ``rows`` of the batch. The number returned means nothing."""
    room = _U(len(segment))
    touched = _U(0)
    for n in range(_U(len(rows))):
        if n & _AHEAD == _U(0):
            touched ^= _touch(segment, hashes, rows, _U(n))
        row = _U(rows[n])
        word, tag = hashes[row, 1], hashes[row, 0] << _TAG
        slot = _slot(word, room)
        while True:
            held = segment[slot, 1]
            if held == _U(0):
                break
            if segment[slot, 0] == word and (held >> _TAG) << _TAG == tag:
                ordinal = (held & _ORDINAL) - _U(1)
                if not _is_dead(dead, ordinal):
                    out[row] = np.int64(ordinal)
                break
            slot += _U(1)
            if slot == room:
                slot = _U(0)
    return touched


@compiled
def _alive(segment: NDArray[np.uint64], dead: Bits) -> int:
    """How many entries lead to rows that live."""
    count = 0
    for slot in range(_U(len(segment))):
        held = segment[slot, 1]
        if held != _U(0) and not _is_dead(dead, (held & _ORDINAL) - _U(1)):
            count += 1
    return count


@compiled
def _move(
    old: NDArray[np.uint64],
    new: NDArray[np.uint64],
    dead: Bits,
    before: NDArray[np.int64],
    after: NDArray[np.int64],
) -> int:
    """Copy the entries that are not stale into an empty segment; return how many they are."""
    room = _U(len(new))
    count = 0
    for place in range(_U(len(old))):
        held = old[place, 1]
        if held == _U(0) or _is_dead(dead, (held & _ORDINAL) - _U(1)):
            continue
        if len(before) > 0:
            ordinal = np.int64((held & _ORDINAL) - _U(1))
            run = np.searchsorted(before, ordinal, side="right") - 1
            held = ((held >> _TAG) << _TAG) | _U(ordinal - before[run] + after[run] + 1)
        slot = _slot(old[place, 0], room)
        while new[slot, 1] != _U(0):
            slot += _U(1)
            if slot == room:
                slot = _U(0)
        new[slot, 0] = old[place, 0]
        new[slot, 1] = held
        count += 1
    return count
