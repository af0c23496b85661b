"""Where the row of each key lies in a table: file and position, at one head (PROTOCOL C2e, R5).

::

    index = KeyIndex(("id",), limit=256 << 20, folder=None)
    index.advance(table)                     # to the head of `table`, whoever moved it there
    numbers, positions = index.find(hashes)  # of `lakeward.keys.hashes`; -1 where no living row has the key
    index.file(number), index.deleted(number)
    index.landed(table, arrived, touched, deletes)   # our own commit: nothing is read

`advance` compares the files of two heads, not their histories: what is there no more is dead, what is new is read (its
key columns alone), and where deletes were taken back, rows live again. So it is exact over commits of anyone, rollbacks
and expiry too, and costs what has changed. From nothing, all is new.

Numbers of files stay the same until the next `advance`, `landed` or `emptied`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from lakeward.errors import OperatorError
from lakeward.keys import Hashes
from lakeward.sinks.iceberg.failures import translated
from lakeward.sinks.iceberg.find import head_of
from lakeward.sinks.iceberg.upsert.deletes import concerns, read_positions
from lakeward.sinks.iceberg.upsert.index_bulk import Bulk
from lakeward.sinks.iceberg.upsert.index_files import Listed, Lister, Listing, slim
from lakeward.sinks.iceberg.upsert.index_reading import KeyColumns
from lakeward.sinks.iceberg.upsert.index_rows import Rows
from lakeward.sinks.iceberg.upsert.index_table import KeyTable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Ordinals = NDArray[np.int64]

DEFAULT_LIMIT = 256 << 20
_READERS = 4
"""Files read at once: a store's answers are waited for side by side."""
_PUT_ROWS = 1 << 20
"""Keys that are put in at once: enough that each part of the table is worth visiting."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A data file that a commit adds, and the hashes of its rows' keys, in their order: uint64[rows, 2].

    ``dead``: positions of rows that the same commit deletes.
    """

    file: DataFile
    hashes: Hashes
    dead: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class _Head:
    """What the index is valid for."""

    uuid: str
    schema_id: int
    snapshot_id: int | None

    @staticmethod
    def of(table: Table) -> _Head:
        head = head_of(table.metadata)
        at = None if head is None else head.snapshot_id
        return _Head(str(table.metadata.table_uuid), table.metadata.current_schema_id, at)


class KeyIndex:
    """One table's keys; used by one thread at a time.

    Args:
        key: the names of the key's columns.
        limit: bytes of entries (16 a key, some 23 with the room between them) that are kept in memory.
        folder: where the others go, in files without a name; None: the system's folder for temporary files.
    """

    def __init__(self, key: tuple[str, ...], limit: int = DEFAULT_LIMIT, folder: Path | None = None) -> None:
        self.key = key
        self._folder = folder
        self._entries = KeyTable(limit, folder)
        self.forget()

    def forget(self) -> None:
        """As new: the next `advance` reads all keys again. Memory and files are given back."""
        self._entries.clear()
        self._rows = Rows()
        self._lister = Lister()
        self._scopes: dict[str, tuple[str, ...]] = {}
        self._head: _Head | None = None
        self._of: tuple[str, tuple[int, ...]] = ("", ())
        """The table's uuid, and the field ids of the key's columns."""
        self._unread: set[int] = set()
        """Files whose keys have not all been put in."""

    @property
    def at(self) -> int | None:
        """The snapshot that the index is valid at; None where the table has none, or nothing was read yet."""
        return None if self._head is None else self._head.snapshot_id

    @property
    def in_memory(self) -> int:
        """Bytes that keys and dead rows take in memory."""
        return self._entries.in_memory + self._rows.bits.nbytes

    @property
    def in_files(self) -> int:
        """Bytes that keys take on disk."""
        return self._entries.in_files

    def find(self, hashes: Hashes) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The living row of each key: the number of its file, and its position there; -1 where there is none.

        Raises:
            ValueError: the index was not brought to any head.
        """
        if self._head is None:
            raise ValueError("an index of keys is asked before it was brought to a head")
        return self._rows.locate(self._entries.find(hashes, self._rows.bits))

    def file(self, number: int) -> DataFile:
        """A file by its number, without the statistics of its columns."""
        return self._rows[number].listed.file

    def number(self, path: str) -> int | None:
        """The number of the file at ``path``; None where the head that the index is at has no such file."""
        return self._rows.by_path.get(path)

    def deleted(self, number: int) -> NDArray[np.int64]:
        """The positions of a file's rows that are deleted, ascending."""
        return self._rows.dead(number)

    def advance(self, table: Table) -> None:
        """Bring the index to the head of ``table``; nothing is done where it is there already.

        Raises:
            OperatorError: two living rows have one key, a row has none, or there are files that cannot be read.
            UnreachableError, StorageError, PermissionDeniedError: the store does not give the files. Whatever is
                raised, the index is at no head, and goes on from there when it is called again.
        """
        head = _Head.of(table)
        if head == self._head:
            return
        with translated(f"reading the keys of {'.'.join(table.name())}", table.location()):
            self._bring(table, head)

    def landed(
        self,
        table: Table,
        arrived: Sequence[Arrived],
        touched: Sequence[tuple[int, NDArray[np.int64]]],
        deletes: Sequence[DataFile] = (),
    ) -> None:
        """Follow a commit of our own, made on the head that the index is at: the head of ``table``. Nothing is read.

        Args:
            table: as the commit left it.
            arrived: the data files that it added.
            touched: by file number, positions of rows that it deleted; a file of which no row is left has gone.
            deletes: the delete files that it added, each with all dead rows of one file.
        """
        now, head = _Head.of(table), head_of(table.metadata)
        if (
            head is None
            or self._head is None
            or (self._head.uuid, self._head.snapshot_id)
            != (
                now.uuid,
                head.parent_snapshot_id,
            )
        ):
            return  # somebody has committed since: `advance` will see what
        by_file = {concerns(file): file.file_path for file in deletes}
        for number, positions in touched:
            self._rows.kill(number, positions)
            if not self._rows.living(number):
                self._rows.remove(number)
                continue
            path = by_file.get(self._rows[number].listed.file.file_path)
            self._rows[number].applied = None if path is None else frozenset((path,))
        sequence = head.sequence_number or 0
        numbers = [self._rows.add(Listed(slim(one.file, one.file.spec_id), sequence)) for one in arrived]
        waiting = _Waiting()
        for number, one in zip(numbers, arrived, strict=True):
            if len(one.dead):
                self._rows.kill(number, one.dead)
                self._rows[number].applied = frozenset((by_file[one.file.file_path],))
            waiting.add(one.hashes, self._rows.ordinals(number, 0, len(one.hashes)))
        twice = self._entries.put(*waiting.taken(), self._rows.bits)
        self._head = now
        self._tidy()
        if twice:  # the next one to ask will be told by `advance`
            log.error("keys held twice", table=".".join(table.name()), rows=twice)
            self.forget()

    def emptied(self, table: Table) -> None:
        """Follow a commit of our own, the head of ``table``, that took away all rows; `landed` tells what it added."""
        head = head_of(table.metadata)
        columns = KeyColumns.of(table, self.key)
        self.forget()
        now = _Head.of(table)
        self._head = _Head(now.uuid, now.schema_id, None if head is None else head.parent_snapshot_id)
        self._of = now.uuid, columns.ids

    def _bring(self, table: Table, head: _Head) -> None:
        columns = KeyColumns.of(table, self.key)
        of = head.uuid, columns.ids
        if self._of != of:
            self.forget()
        self._head, self._of = None, of
        listing = self._lister.list(table)
        for number in [n for path, n in self._rows.by_path.items() if path not in listing.data]:
            self._rows.remove(number)
        self._unread &= set(self._rows)
        self._unread |= {self._rows.add(one) for path, one in listing.data.items() if path not in self._rows.by_path}
        self._unread |= set(self._delete(table, listing))
        wanted = sorted(number for number in self._unread if self._rows.living(number))
        twice = self._put(columns, wanted)
        if twice:
            self.forget()
            raise _held_twice(table, columns, twice)
        self._head, self._unread = head, set()
        self._tidy()
        log.debug("keys read", table=".".join(table.name()), files=len(wanted), of=len(listing.data))

    def _delete(self, table: Table, listing: Listing) -> list[int]:
        """Let rows die as the delete files of ``listing`` say; return the files of which rows live again."""
        whole = [path for path, one in listing.deletes.items() if one.only is None and path not in self._scopes]
        loaded = dict(_positions(table, listing, whole))
        self._scopes = {path: scope for path, scope in self._scopes.items() if path in listing.deletes}
        self._scopes |= {path: tuple(positions) for path, positions in loaded.items()}
        wanted: dict[str, list[int]] = {}
        afresh: dict[int, list[NDArray[np.int64]]] = {}
        covering = self._covering(listing)
        for number, paths in covering.items():
            held = self._rows[number]
            if held.applied is None or not held.applied <= paths:
                afresh[number] = [np.zeros(0, np.int64)]
            for path in paths if number in afresh else paths - (held.applied or set()):
                wanted.setdefault(path, []).append(number)
        unread = _positions(table, listing, [path for path in wanted if path not in loaded])
        for path, positions in chain(loaded.items(), unread):
            for number in wanted.get(path, ()):
                there = positions.get(self.file(number).file_path)
                if there is None:
                    continue
                if number in afresh:
                    afresh[number].append(there)
                else:
                    self._rows[number].applied = None  # until all is read: the next file may fail
                    self._rows.kill(number, there)
        revived = [number for number, parts in afresh.items() if self._rows.bury(number, np.concatenate(parts))]
        for number, paths in covering.items():  # all of it was read
            self._rows[number].applied = frozenset(paths)
        return revived

    def _covering(self, listing: Listing) -> dict[int, set[str]]:
        """By file number: the delete files that delete, or may delete, rows of it."""
        covering: dict[int, set[str]] = {number: set() for number in self._rows}
        for path, one in listing.deletes.items():
            for target in self._scopes[path] if one.only is None else (one.only,):
                number = self._rows.by_path.get(target)
                if number is not None and one.covers(self._rows[number].listed):
                    covering[number].add(path)
        return covering

    def _put(self, columns: KeyColumns, numbers: Sequence[int]) -> int:
        """Read the keys of files and put them in; return how many living rows have the key of another."""
        bits, rows = self._rows.bits, sum(map(self._rows.living, numbers))
        empty = not self._entries.in_memory and not self._entries.in_files
        if empty and not self._entries.fits(rows):
            with Bulk(self._entries, self._folder) as bulk:
                self._read(columns, numbers, bulk.add)
                return bulk.settle(bits)
        if empty:
            self._entries.reserve(rows, bits)
        twice: list[int] = []
        self._read(columns, numbers, lambda keys, ordinals: twice.append(self._entries.put(keys, ordinals, bits)))
        return sum(twice)

    def _read(self, columns: KeyColumns, numbers: Sequence[int], take: Callable[[Hashes, Ordinals], None]) -> None:
        """Hand over the keys of files, and the rows that hold them, many at a time; one call after the other."""
        lock = threading.Lock()
        waiting = _Waiting()

        def read(number: int) -> None:
            for position, hashes in columns.read(self.file(number)):
                ordinals = self._rows.ordinals(number, position, len(hashes))
                with lock:
                    if waiting.add(hashes, ordinals) >= _PUT_ROWS:
                        take(*waiting.taken())

        with ThreadPoolExecutor(_READERS, "reading keys") as pool:
            futures = [pool.submit(read, number) for number in numbers]
            try:
                for future in futures:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)
        take(*waiting.taken())

    def _tidy(self) -> None:
        """Forget the numbers of rows that are gone, once they are most of them."""
        if self._rows.sparse:
            dead = self._rows.bits
            self._entries.renumber(dead, *self._rows.renumber())


@dataclass(slots=True)
class _Waiting:
    """Keys that were read and are not put in yet."""

    runs: list[tuple[Hashes, NDArray[np.int64]]] = field(default_factory=list)
    rows: int = 0

    def add(self, hashes: Hashes, ordinals: NDArray[np.int64]) -> int:
        """Take in some more; return how many wait."""
        self.runs.append((hashes, ordinals))
        self.rows += len(hashes)
        return self.rows

    def taken(self) -> tuple[Hashes, NDArray[np.int64]]:
        """All that wait, joined; none waits any more."""
        runs, self.runs, self.rows = self.runs, [], 0
        if not runs:
            return np.zeros((0, 2), np.uint64), np.zeros(0, np.int64)
        return np.concatenate([one for one, _ in runs]), np.concatenate([one for _, one in runs])


def _positions(
    table: Table, listing: Listing, paths: Sequence[str]
) -> Iterator[tuple[str, dict[str, NDArray[np.int64]]]]:
    """What delete files say, by data file."""
    with ThreadPoolExecutor(_READERS, "reading deletes") as pool:
        read = pool.map(lambda path: read_positions(table.io, listing.deletes[path].file), paths)
        yield from zip(paths, read, strict=True)


def _held_twice(table: Table, columns: KeyColumns, rows: int) -> OperatorError:
    name, key = ".".join(table.name()), ", ".join(f'"{one.name}"' for one in columns.schema.fields)
    return OperatorError(
        f"in table {name}, {rows} rows have a key ({key}) that another row has too: none of them can be chosen",
        f"Find them: SELECT {key}, count(*) FROM {name} GROUP BY {key} HAVING count(*) > 1. "  # noqa: S608 -- to read
        "Delete all but one of each, or name the columns that tell the rows apart under `key:`.",
    )
