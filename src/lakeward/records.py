"""Raw messages and decoded rows, as columns from the first moment (DESIGN, section 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.changes import Changes, Events
from lakeward.positions import Partition

NULL = -1
"""The length that stands for a null key or a null value (a tombstone)."""


@dataclass(frozen=True, slots=True)
class Blobs:
    """``n`` byte strings in one buffer: the i-th is ``data[start[i] : start[i] + length[i]]``; length -1 is null.

    Shapes and types: ``data`` uint8[any], ``start`` int64[n], ``length`` int32[n].
    The i-th never overlaps another, but they need not be adjacent nor in order.
    """

    data: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.start)

    def get(self, i: int) -> bytes | None:
        """The i-th byte string, copied; None for null."""
        length = int(self.length[i])
        if length == NULL:
            return None
        start = int(self.start[i])
        return self.data[start : start + length].tobytes()

    def select(self, rows: NDArray[np.int64]) -> Blobs:
        """The byte strings at ``rows``, sharing the buffer."""
        return Blobs(self.data, self.start[rows], self.length[rows])

    def to_arrow(self) -> pa.Array:
        """The byte strings as a binary array, copied."""
        null = self.length == NULL
        sizes = np.where(null, 0, self.length).astype(np.int64)
        offsets = np.zeros(len(self) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        # Byte k of the joined data comes from start[i] + (k - offsets[i]) of the string i that it belongs to.
        source = np.repeat(self.start - offsets[:-1], sizes) + np.arange(offsets[-1])
        data = np.ascontiguousarray(self.data[source])
        valid = pa.py_buffer(np.packbits(~null, bitorder="little"))
        buffers = [valid if null.any() else None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.binary(), len(self), buffers)

    @staticmethod
    def of(values: Sequence[bytes | None]) -> Blobs:
        """Join ``values`` into one buffer."""
        length = np.fromiter((NULL if v is None else len(v) for v in values), np.int32, len(values))
        sizes = np.maximum(length, 0).astype(np.int64)
        start = np.cumsum(sizes) - sizes
        return Blobs(np.frombuffer(b"".join(v for v in values if v is not None), np.uint8), start, length)


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of ``n`` messages, kept as columns: a list of (name, value) is made only for a message looked at.

    Shapes and types: message i has ``count[i]`` (int32[n]) headers from ``first[i]`` (int64[n]) in ``names`` and
    ``values``, both Blobs of all headers.
    """

    first: NDArray[np.int64]
    count: NDArray[np.int32]
    names: Blobs
    values: Blobs

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, i: int) -> list[tuple[str, bytes | None]]:
        first = int(self.first[i])
        places = range(first, first + int(self.count[i]))
        return [((self.names.get(k) or b"").decode(errors="replace"), self.values.get(k)) for k in places]

    def __iter__(self) -> Iterator[list[tuple[str, bytes | None]]]:
        return (self[i] for i in range(len(self)))

    def select(self, rows: NDArray[np.int64]) -> Headers:
        """The headers of the messages at ``rows``, sharing the buffers."""
        return Headers(self.first[rows], self.count[rows], self.names, self.values)


class LateHeaders:
    """The headers of ``n`` messages, not read before somebody asks: of most messages nobody ever does.

    Args:
        read: the headers of the messages with these numbers, int64[any]; it works as long as this object is there.
        rows: int64[n], the numbers of the messages.
    """

    __slots__ = ("_headers", "_read", "_rows")

    def __init__(self, read: Callable[[NDArray[np.int64]], Headers], rows: NDArray[np.int64]) -> None:
        self._read = read
        self._rows = rows
        self._headers: Headers | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> list[tuple[str, bytes | None]]:
        return self._all()[i]

    def __iter__(self) -> Iterator[list[tuple[str, bytes | None]]]:
        return iter(self._all())

    def select(self, rows: NDArray[np.int64]) -> LateHeaders:
        """The headers of the messages at ``rows``; what is read already is not shared."""
        return LateHeaders(self._read, self._rows[rows])

    def _all(self) -> Headers:
        if self._headers is None:
            self._headers = self._read(self._rows)
        return self._headers


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Messages of one topic, in arrival order; within a partition offsets only grow.

    Shapes and types: ``partition`` int32[n], ``offset`` int64[n], ``timestamp`` int64[n] in milliseconds since the
    epoch (-1: none), ``keys`` and ``values`` Blobs of n, ``headers`` one list of (name, value) a message, or None
    where nobody asked the source for headers.
    """

    topic: str
    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    keys: Blobs
    values: Blobs
    headers: Sequence[Sequence[tuple[str, bytes | None]]] | Headers | LateHeaders | None = None

    def __len__(self) -> int:
        return len(self.offset)

    def select(self, rows: NDArray[np.int64]) -> RawBatch:
        """The messages at ``rows`` (indices, ascending), sharing the buffers."""
        headers = self.headers
        if headers is not None:
            headers = headers.select(rows) if isinstance(headers, Headers | LateHeaders) else [headers[i] for i in rows]
        return RawBatch(
            self.topic,
            self.partition[rows],
            self.offset[rows],
            self.timestamp[rows],
            self.keys.select(rows),
            self.values.select(rows),
            headers,
        )


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll of a source brought.

    ``reached`` says that everything below an offset of that partition has been handed over, by this poll at the
    latest: it passes control records and compacted holes, which no message tells. ``assigned`` partitions wait for
    `Source.begin`; ``revoked`` ones are no longer ours, and their uncommitted rows must go (PROTOCOL R2).
    """

    batches: Sequence[RawBatch] = ()
    reached: Mapping[Partition, int] = field(default_factory=dict)
    assigned: frozenset[Partition] = frozenset()
    revoked: frozenset[Partition] = frozenset()


@dataclass(frozen=True, slots=True)
class Reject:
    """A message that could not be decoded: its index in the raw batch, a stable code, and a sentence without values."""

    index: int
    code: str
    reason: str
    schema_id: int | None = None


@dataclass(frozen=True, slots=True)
class DecodedPart:
    """Rows that share one writer schema. ``index`` int64[rows]: which raw message each row came from, ascending.

    ``schema_id``: the writer schema's, where it has one. ``changes``: what the rows do to those of their keys, where
    the decoder knows keys. ``events``: what change events tell besides the rows.
    """

    rows: pa.Table
    index: NDArray[np.int64]
    schema_id: int | None = None
    changes: Changes | None = None
    events: Events | None = None

    def select(self, rows: NDArray[np.int64]) -> DecodedPart:
        """The part with the rows at ``rows`` (indices, ascending) alone."""
        changes = None if self.changes is None else self.changes.select(rows)
        events = None if self.events is None else self.events.select(rows)
        return DecodedPart(self.rows.take(pa.array(rows)), self.index[rows], self.schema_id, changes, events)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder made of a raw batch: every message is a row, a reject or skipped, exactly once.

    ``skipped`` int64[k]: indices of the messages that have no row (tombstones).
    """

    parts: Sequence[DecodedPart]
    rejects: Sequence[Reject]
    skipped: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """Where the rows of one part came from, row by row; the arrays are those of `RawBatch`, at the rows' messages."""

    topic: str
    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    timestamp: NDArray[np.int64]

    @staticmethod
    def of(raw: RawBatch, index: NDArray[np.int64]) -> Trace:
        """The trace of rows that came from the messages at ``index``; shares nothing with ``raw``."""
        return Trace(raw.topic, raw.partition[index], raw.offset[index], raw.timestamp[index])
