"""Reads Avro a record at a time, in plain Python, by the same rules as the compiled programs.

For what they do not cover: records that hold themselves. Audits and tests hold it against the programs, too.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal as Exact
from typing import Any
from uuid import UUID

from lakeward.decoding.avro_arrow import DURATION
from lakeward.decoding.avro_native import (
    DAY_MICROS,
    DAY_MILLIS,
    DECIMAL_OVERFLOW,
    DUPLICATE_KEY,
    INT_MAX,
    INT_MIN,
    INT_OVERFLOW,
    INVALID_BOOLEAN,
    INVALID_ENUM_INDEX,
    INVALID_UNION_INDEX,
    INVALID_UTF8,
    INVALID_UUID,
    MAX_MILLIS,
    MAX_SIZELESS_ITEMS,
    NEGATIVE_LENGTH,
    TIME_OUT_OF_RANGE,
    TIMESTAMP_OVERFLOW,
    TOO_DEEP,
    TOO_MANY_ITEMS,
    TRUNCATED,
    VARINT_TOO_LONG,
    failure,
)
from lakeward.decoding.avro_text import TextWriter
from lakeward.decoding.avro_types import (
    Array,
    Decimal,
    Duration,
    Enum,
    Field,
    Fixed,
    FixedUuid,
    Itself,
    Map,
    Node,
    OneOf,
    Record,
    Scalar,
    Union,
    records,
    smallest,
)

MOST_LEVELS = 64
"""A record may hold itself in so many levels."""
CANONICAL = re.compile(rb"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class DamagedError(Exception):
    """A record cannot be read. ``code`` is stable; ``reason`` is a sentence without values."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class RecordReader:
    """Reads records of one schema."""

    def __init__(self, record: Record) -> None:
        found = records(record)
        building = _Building(TextWriter(found))
        # One after the other, so that what holds itself finds the reader of what it holds.
        building.whole = {name: building.members(inner) for name, inner in found.items()}
        self._members = building.members(record)
        self._names = [member.name for member in record.fields]

    def read(self, data: bytes, at: int) -> list[Any]:
        """The values of the record at ``data[at:]``, one a column.

        Dates are days, times and timestamps microseconds since their zero, decimals exact, maps lists of pairs.

        Raises:
            DamagedError: it is no such record, or not all of these bytes.
        """
        cursor = _Cursor(data, at)
        try:
            row = self._members(cursor)
        except _StopError as stop:
            code, reason = failure(stop.number)
            raise DamagedError(code, f"field {cursor.place}: {reason}") from None
        except RecursionError:
            code, reason = failure(int(TOO_DEEP))
            raise DamagedError(code, f"field {cursor.place}: {reason}") from None
        if cursor.at != len(data):
            raise DamagedError(*failure(~0))
        return [row[name] for name in self._names]


class _StopError(Exception):
    """A failure, as `avro_native` numbers them."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@dataclass(slots=True)
class _Cursor:
    """Where a record is being read, and for which field."""

    data: bytes
    at: int
    place: str = ""
    levels: int = 0
    sizeless: dict[int, int] = field(default_factory=dict)
    """Items that take no bytes so far, by the array's reader."""

    def stop(self, number: Any) -> _StopError:
        return _StopError(int(number))

    def varint(self) -> int:
        data, at, end = self.data, self.at, len(self.data)
        found = shift = 0
        while True:
            if at >= end:
                raise self.stop(TRUNCATED)
            byte = data[at]
            at += 1
            if shift == 63 and byte > 1:
                raise self.stop(VARINT_TOO_LONG)
            found |= (byte & 127) << shift
            if byte < 128:
                self.at = at
                return (found >> 1) ^ -(found & 1)
            shift += 7

    def size(self) -> int:
        found = self.varint()
        if found < 0:
            raise self.stop(NEGATIVE_LENGTH)
        if found > len(self.data) - self.at:
            raise self.stop(TRUNCATED)
        return found

    def take(self, size: int) -> bytes:
        if len(self.data) - self.at < size:
            raise self.stop(TRUNCATED)
        self.at += size
        return self.data[self.at - size : self.at]

    def string(self) -> str:
        try:
            return self.take(self.size()).decode()
        except UnicodeDecodeError:
            raise self.stop(INVALID_UTF8) from None

    def block(self, least: int, items: int) -> int:
        """How many items come next; ``items`` names the array."""
        count = self.varint()
        if count < 0:
            count = -count
            self.size()
        if least:
            if count > (len(self.data) - self.at) // least:
                raise self.stop(TOO_MANY_ITEMS)
        else:
            so_far = self.sizeless.get(items, 0) + count
            if so_far > MAX_SIZELESS_ITEMS:
                raise self.stop(TOO_MANY_ITEMS)
            self.sizeless[items] = so_far
        return count


Read = Callable[[_Cursor], Any]


@dataclass(slots=True)
class _Building:
    """Makes readers; ``whole`` are those of whole records, by full name."""

    texts: TextWriter
    whole: dict[str, Read] = field(default_factory=dict)
    arrays: int = 0

    def members(self, record: Record) -> Read:
        if not record.fields:
            return lambda _: True
        readers = [(member.name, self.reader(member.type, member.path)) for member in record.fields]
        return lambda cursor: {name: read(cursor) for name, read in readers}

    def reader(self, node: Node, path: str) -> Read:  # noqa: PLR0911 - one case a type
        read: Read
        match node:
            case Record():
                return self.members(node)
            case Array(items):
                return self.array((Field("", f"{path}[]", items),), path)
            case Map(values):
                return self.map(values, path)
            case Union():
                return self.union(node, path)
            case OneOf():
                return self.one_of(node, path)
            case Itself():
                return self.itself(node, path)
            case Enum(symbols):
                read = _enum(symbols)
            case _:
                read = _simple(node)

        def placed(cursor: _Cursor) -> Any:
            cursor.place = path
            return read(cursor)

        return placed

    def array(self, parts: Sequence[Field], path: str) -> Read:
        readers = [self.reader(part.type, part.path) for part in parts]
        least = sum(smallest(part.type) for part in parts)
        self.arrays += 1
        own = self.arrays

        def read(cursor: _Cursor) -> Any:
            found: list[Any] = []
            while True:
                cursor.place = path
                count = cursor.block(least, own)
                if not count:
                    return found
                if len(readers) == 1:
                    found += [readers[0](cursor) for _ in range(count)]
                else:
                    found += [tuple(one(cursor) for one in readers) for _ in range(count)]

        return read

    def map(self, values: Node, path: str) -> Read:
        own = f"{path}{{}}"
        pairs = self.array((Field("", own, Scalar("string")), Field("", own, values)), path)

        def read(cursor: _Cursor) -> Any:
            found = pairs(cursor)
            cursor.place = path
            if len({key for key, _ in found}) < len(found):
                raise cursor.stop(DUPLICATE_KEY)
            return found

        return read

    def union(self, node: Union, path: str) -> Read:
        inner = self.reader(node.value, path)

        def read(cursor: _Cursor) -> Any:
            return None if _branch(cursor, node.branches, path) == node.null else inner(cursor)

        return read

    def one_of(self, node: OneOf, path: str) -> Read:
        readers = [
            None if branch is None else (branch.name, self.reader(branch.type, branch.path)) for branch in node.branches
        ]

        def read(cursor: _Cursor) -> Any:
            chosen = readers[_branch(cursor, len(readers), path)]
            return None if chosen is None else {chosen[0]: chosen[1](cursor)}

        return read

    def itself(self, node: Itself, path: str) -> Read:
        def read(cursor: _Cursor) -> Any:
            cursor.place = path
            if cursor.levels >= MOST_LEVELS:
                raise cursor.stop(TOO_DEEP)
            cursor.levels += 1
            value = self.whole[node.name](cursor)
            cursor.levels -= 1
            return value if cursor.levels else self.texts.text(node, value)

        return read


def _branch(cursor: _Cursor, branches: int, path: str) -> int:
    cursor.place = path
    found = cursor.varint()
    if not 0 <= found < branches:
        raise cursor.stop(INVALID_UNION_INDEX)
    return found


def _simple(node: Node) -> Read:
    match node:
        case Scalar(kind):
            return SCALARS[kind]
        case Fixed(size):
            return lambda cursor: cursor.take(size)
        case FixedUuid():
            return lambda cursor: str(UUID(bytes=cursor.take(16)))
        case Duration():
            return lambda cursor: dict(zip(DURATION, struct.unpack("<3I", cursor.take(12)), strict=True))
        case Decimal():
            return _decimal(node)
        case _:
            raise TypeError(type(node).__name__)


def _enum(symbols: Sequence[str]) -> Read:
    def read(cursor: _Cursor) -> Any:
        found = cursor.varint()
        if not 0 <= found < len(symbols):
            raise cursor.stop(INVALID_ENUM_INDEX)
        return symbols[found]

    return read


def _decimal(node: Decimal) -> Read:
    def read(cursor: _Cursor) -> Any:
        content = cursor.take(cursor.size() if node.size is None else node.size)
        unscaled = int.from_bytes(content, "big", signed=True)
        if abs(unscaled) >= 10**node.precision:
            raise cursor.stop(DECIMAL_OVERFLOW)
        return Exact((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -node.scale))

    return read


def _boolean(cursor: _Cursor) -> bool:
    (found,) = cursor.take(1)
    if found > 1:
        raise cursor.stop(INVALID_BOOLEAN)
    return bool(found)


def _int(cursor: _Cursor) -> int:
    found = cursor.varint()
    if not INT_MIN <= found <= INT_MAX:
        raise cursor.stop(INT_OVERFLOW)
    return found


def _millis(cursor: _Cursor) -> int:
    found = cursor.varint()
    if abs(found) > MAX_MILLIS:
        raise cursor.stop(TIMESTAMP_OVERFLOW)
    return found * 1000


def _time(day: int, factor: int) -> Read:
    def read(cursor: _Cursor) -> int:
        found = cursor.varint()
        if not 0 <= found < day:
            raise cursor.stop(TIME_OUT_OF_RANGE)
        return found * factor

    return read


def _uuid(cursor: _Cursor) -> str:
    content = cursor.take(cursor.size())
    if CANONICAL.fullmatch(content) is None:
        raise cursor.stop(INVALID_UUID)
    return content.decode()


SCALARS: dict[str, Read] = {
    "null": lambda _: None,
    "boolean": _boolean,
    "int": _int,
    "long": _Cursor.varint,
    "float": lambda cursor: struct.unpack("<f", cursor.take(4))[0],
    "double": lambda cursor: struct.unpack("<d", cursor.take(8))[0],
    "string": _Cursor.string,
    "bytes": lambda cursor: cursor.take(cursor.size()),
    "date": _int,
    "time-millis": _time(int(DAY_MILLIS), 1000),
    "time-micros": _time(int(DAY_MICROS), 1),
    "timestamp-millis": _millis,
    "timestamp-micros": _Cursor.varint,
    "local-timestamp-millis": _millis,
    "local-timestamp-micros": _Cursor.varint,
    "uuid": _uuid,
}
