"""Messages out of librdkafka natively: no Python object a message.

The consumer is an ordinary `confluent_kafka.Consumer`, which keeps the group, the callbacks and the connections. Only
the partitions' queues are forwarded to a queue of our own, which is emptied by compiled code, thousands of messages a
call. librdkafka itself drops what an earlier seek or assignment had fetched, whichever queue it waits in.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, cast
from weakref import ReferenceType, ref

import llvmlite.binding
import numpy as np
from confluent_kafka import Consumer
from numba import njit, types
from numpy.typing import NDArray

from lakeward.positions import Partition
from lakeward.records import NULL, Blobs, Headers, LateHeaders, RawBatch
from lakeward.sources.kafka_intake import END, Event, Taken, event_of
from lakeward.sources.librdkafka import Library, Message, handle_of, load

LINGER_MS = 5
"""After the first message of a quiet stream, so long for its neighbours: bounds the polls a second."""

WORDS = ctypes.sizeof(Message) // 8
"""A message's head, in 8-byte words: err, topic, partition, payload, length, key, length, offset, private."""

_LOW = np.uint64(0xFFFFFFFF)


def _linked(name: str, result: types.Type, *arguments: types.Type) -> Any:
    """A C function under a name of our own, which compiled code kept on disk finds again in the next process."""
    return types.ExternalFunction(name, result(*arguments))


_copy = _linked("lakeward_memcpy", types.uint64, types.uint64, types.uint64, types.uintp)
_destroy = _linked("lakeward_message_destroy", types.void, types.uint64)
_headers_of = _linked("lakeward_message_headers", types.int32, types.uint64, types.uint64)
_header = _linked(
    "lakeward_header_get_all", types.int32, types.uint64, types.uintp, types.uint64, types.uint64, types.uint64
)
_strlen = _linked("lakeward_strlen", types.uintp, types.uint64)
_timestamp = _linked("lakeward_message_timestamp", types.int64, types.uint64, types.uint64)


def _link(library: Library) -> None:
    """Say where the functions are; before anything compiled is loaded."""
    for name in ("memcpy", "strlen"):
        llvmlite.binding.add_symbol(
            f"lakeward_{name}", ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
        )
    llvmlite.binding.add_symbol("lakeward_message_headers", library.address("rd_kafka_message_headers"))
    llvmlite.binding.add_symbol("lakeward_header_get_all", library.address("rd_kafka_header_get_all"))
    llvmlite.binding.add_symbol("lakeward_message_destroy", library.address("rd_kafka_message_destroy"))
    llvmlite.binding.add_symbol("lakeward_message_timestamp", library.address("rd_kafka_message_timestamp"))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast("Callable[..., Any]", njit(nogil=True, cache=True)(function))


@_compiled
def _unpack(count, pointers, heads, times, topics, topic):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Read ``count`` heads; number the topics. Returns (topics, bytes of values, bytes of keys, errors)."""
    known, values, keys, errors = 0, np.uint64(0), np.uint64(0), 0
    last = 0
    for i in range(count):
        _copy(heads[i].ctypes.data, pointers[i], heads.shape[1] * 8)
        if heads[i, 0] & _LOW != 0:
            errors += 1
        else:
            values += heads[i, 4]
            keys += heads[i, 6]
        times[i] = _timestamp(pointers[i], np.uint64(0))
        which = heads[i, 1]
        if known == 0 or topics[last] != which:
            last = 0
            while last < known and topics[last] != which:
                last += 1
            if last == known:
                topics[known] = which
                known += 1
        topic[i] = last
    return known, values, keys, errors


@_compiled
def _move(count, heads, values, keys, start, length):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Copy payloads (column 0) and keys (column 1) into their buffers."""
    for column in range(2):
        buffer = (values if column == 0 else keys).ctypes.data
        at = np.int64(0)
        for i in range(count):
            source, size = heads[i, 3 + 2 * column], np.int64(heads[i, 4 + 2 * column])
            start[column, i] = at
            if heads[i, 0] & _LOW != 0 or source == 0:
                length[column, i] = NULL
            else:
                length[column, i] = size
                if size:
                    _copy(buffer + at, source, size)
                at += size


@_compiled
def _give_back(pointers):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Destroy messages."""
    for i in range(len(pointers)):
        _destroy(pointers[i])


@_compiled
def _count_headers(pointers, lists, counts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Find lists of headers; null pointers have none. Returns (headers, bytes of names, bytes of values)."""
    headers, names, values = 0, np.uint64(0), np.uint64(0)
    found = np.zeros(3, np.uint64)  # name, value, size
    at, slots = found.ctypes.data, lists.ctypes.data
    for i in range(len(pointers)):
        counts[i] = 0
        if pointers[i] == 0 or _headers_of(pointers[i], slots + 8 * i) != 0:
            lists[i] = 0
            continue
        while _header(lists[i], np.uint64(counts[i]), at, at + 8, at + 16) == 0:
            names += _strlen(found[0])
            if found[1] != 0:
                values += found[2]
            counts[i] += 1
        headers += counts[i]
    return headers, names, values


@_compiled
def _move_headers(count, lists, counts, names, values, start, length):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913, PLR0917
    """Copy names (column 0) and values (column 1) of all headers into their buffers."""
    found = np.zeros(3, np.uint64)
    at = found.ctypes.data
    which, name_at, value_at = 0, np.int64(0), np.int64(0)
    for i in range(count):
        for k in range(counts[i]):
            _header(lists[i], np.uint64(k), at, at + 8, at + 16)
            size = np.int64(_strlen(found[0]))
            start[0, which], length[0, which] = name_at, size
            if size:
                _copy(names.ctypes.data + name_at, found[0], size)
            name_at += size
            start[1, which] = value_at
            if found[1] == 0:
                length[1, which] = NULL
            else:
                size = np.int64(found[2])
                length[1, which] = size
                if size:
                    _copy(values.ctypes.data + value_at, found[1], size)
                value_at += size
            which += 1


class _Lying:
    """Messages that were taken and still lie with librdkafka, which alone can read their headers.

    They lie there until the next messages are taken: by then those that are rejected have been set aside.
    """

    def __init__(self, pointers: NDArray[np.uint64]) -> None:
        self._pointers = pointers
        self._copied: Headers | None = None

    def headers(self, rows: NDArray[np.int64]) -> Headers:
        """The headers of the messages ``rows``."""
        return _headers(self._pointers[rows]) if self._copied is None else self._copied.select(rows)

    def copy(self) -> None:
        """Read all of them, for whoever still holds on to some: the messages are about to go."""
        self._copied = _headers(self._pointers)


def _headers(pointers: NDArray[np.uint64]) -> Headers:
    """Copy the headers of messages."""
    lists, counts = np.empty(len(pointers), np.uint64), np.empty(len(pointers), np.int32)
    total, name_bytes, value_bytes = _count_headers(pointers, lists, counts)
    names, values = np.empty(int(name_bytes), np.uint8), np.empty(int(value_bytes), np.uint8)
    start, length = np.empty((2, total), np.int64), np.empty((2, total), np.int32)
    if total:
        _move_headers(len(pointers), lists, counts, names, values, start, length)
    first = np.cumsum(counts, dtype=np.int64) - counts
    return Headers(first, counts, Blobs(names, start[0], length[0]), Blobs(values, start[1], length[1]))


def native_intake(consumer: Consumer, client_id: str, *, headers: bool) -> NativeIntake | None:
    """The native way for ``consumer``, made with ``client.id`` = ``client_id``; None where it cannot be trusted.

    It is trusted where the wheel's own library is found, is the one that the binding runs on, and knows the handle
    inside the consumer by that name.
    """
    library = load()
    handle = handle_of(consumer, client_id) if library is not None else None
    if library is None or handle is None:
        return None
    return NativeIntake(consumer, library, handle, headers=headers)


class NativeIntake:
    """By compiled code, thousands of messages a call."""

    def __init__(self, consumer: Consumer, library: Library, handle: int, *, headers: bool) -> None:
        self._consumer = consumer
        self._library = library
        self._calls = library.calls
        self._handle = handle
        self._headers = headers
        _link(library)
        self._queue: int | None = self._calls.rd_kafka_queue_new(handle)
        self._attached: set[Partition] = set()
        self._unheard: set[Partition] = set()
        self._pointers = np.empty(0, np.uint64)
        self._taken = self._pointers
        self._lying: ReferenceType[_Lying] | None = None

    def attach(self, partition: Partition) -> None:
        """See `Intake.attach`.

        An earlier assignment of the partition may still be stopping, which ends the forwarding; its messages then
        wait in the partition's own queue. So it is forwarded again until something of the new assignment is heard.
        """
        self._forward(partition, self._queue)
        self._attached.add(partition)
        self._unheard.add(partition)

    def _hear(self, taken: Taken) -> None:
        self._unheard -= {e.partition for e in taken.events if e.partition is not None and e.code == END}
        for raw in taken.batches:
            self._unheard -= {Partition(raw.topic, int(number)) for number in np.unique(raw.partition)}

    def _forward(self, partition: Partition, to: int | None) -> None:
        source = self._calls.rd_kafka_queue_get_partition(self._handle, partition.topic.encode(), partition.number)
        if source:
            self._calls.rd_kafka_queue_forward(source, to)
            self._calls.rd_kafka_queue_destroy(source)

    def take(self, timeout: float, limit: int) -> Taken:
        """See `Intake.take`."""
        events = self.serve(0)
        for partition in self._unheard:
            self._forward(partition, self._queue)
        if len(self._pointers) != limit:
            self._pointers = np.empty(limit, np.uint64)
        count = self._fetch(0, 0, limit)
        if count == 0 and timeout > 0:
            count = self._fetch(0, round(timeout * 1000), 1)
            if 0 < count < limit:
                count += self._fetch(count, LINGER_MS, limit - count)
        if count == 0:
            return Taken((), events)
        taken = self._columns(count)
        if self._unheard:
            self._hear(taken)
        return Taken(taken.batches, [*events, *taken.events])

    def _fetch(self, at: int, wait_ms: int, limit: int) -> int:
        address = self._pointers.ctypes.data + at * self._pointers.itemsize
        return max(0, int(self._calls.rd_kafka_consume_batch_queue(self._queue, wait_ms, address, limit)))

    def _columns(self, count: int) -> Taken:
        heads, times = np.empty((count, WORDS), np.uint64), np.empty(count, np.int64)
        topics, topic = np.empty(count, np.uint64), np.empty(count, np.int32)
        known, value_bytes, key_bytes, errors = _unpack(count, self._pointers, heads, times, topics, topic)
        names: list[str] = [self._calls.rd_kafka_topic_name(int(t)).decode() if t else "" for t in topics[:known]]
        good = np.flatnonzero((heads[:, 0] & _LOW) == 0) if errors else np.arange(count)
        events = (
            [self._event(i, heads, names[topic[i]]) for i in np.flatnonzero(heads[:, 0] & _LOW).tolist()]
            if errors
            else []
        )
        values, keys = np.empty(int(value_bytes), np.uint8), np.empty(int(key_bytes), np.uint8)
        start, length = np.empty((2, count), np.int64), np.empty((2, count), np.int32)
        _move(count, heads, values, keys, start, length)
        self._taken = self._pointers[:count]
        headers = self._late_headers(good) if self._headers else None
        whole = RawBatch(
            names[0],
            (heads[:, 2] & _LOW).astype(np.int32),
            heads[:, 7].astype(np.int64),
            times,
            Blobs(keys, start[1], length[1]),
            Blobs(values, start[0], length[0]),
            headers,
        )
        if known == 1 and not errors:
            return Taken([whole])
        return Taken([b for b in _by_topic(whole, names, topic, good) if len(b)], events)

    def _event(self, i: int, heads: NDArray[np.uint64], topic: str) -> Event:
        code = int(heads[i, 0].astype(np.uint32).view(np.int32))
        reason = self._calls.rd_kafka_message_errstr(int(self._pointers[i])) or b""
        place = Partition(topic, int(heads[i, 2] & _LOW)) if topic else None
        return Event(place, code, int(heads[i, 7].view(np.int64)), reason.decode(errors="replace"))

    def _late_headers(self, good: NDArray[np.int64]) -> LateHeaders:
        messages = np.zeros_like(self._taken)
        messages[good] = self._taken[good]
        lying = _Lying(messages)
        self._lying = ref(lying)  # whoever has headers of these messages, or of some of them, keeps it alive
        return LateHeaders(lying.headers, np.arange(len(messages)))

    def _release(self) -> None:
        """Give the messages of the last `take` back to librdkafka."""
        lying = self._lying() if self._lying is not None else None
        if lying is not None:
            lying.copy()
        _give_back(self._taken)
        self._taken, self._lying = self._taken[:0], None

    def serve(self, timeout: float) -> Sequence[Event]:
        """See `Intake.serve`."""
        self._release()
        events: list[Event] = []
        message = self._consumer.poll(timeout)
        while message is not None:
            events.append(event_of(message))
            message = self._consumer.poll(0)
        return events

    def close(self) -> None:
        """See `Intake.close`."""
        self._release()
        if self._queue is None:
            return
        for partition in self._attached:
            self._forward(partition, None)
        self._calls.rd_kafka_queue_destroy(self._queue)
        self._queue = None


def _by_topic(
    whole: RawBatch, names: Sequence[str], topic: NDArray[np.int32], good: NDArray[np.int64]
) -> list[RawBatch]:
    batches = []
    for number, name in enumerate(names):
        part = whole.select(good[topic[good] == number])
        batches.append(
            RawBatch(name, part.partition, part.offset, part.timestamp, part.keys, part.values, part.headers)
        )
    return batches
