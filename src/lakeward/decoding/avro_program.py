"""From a schema to a program: Python source for numba that decodes messages straight into Arrow buffers.

The source depends on the shape of the schema alone. Names, docs and enum symbols never enter it: fields are numbers,
buffers are arguments by position. Schemas of one shape share one compiled program.

The program walks the messages. ``w`` is the row being written; array number ``k`` counts its items in ``c<k>``, and in
``s<k>`` those of the messages before. A message that fails leaves ``w`` and every ``s<k>`` as they were, so what it
wrote is overwritten by the next. How failures travel is told in `avro_native`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum as Choice
from textwrap import indent

from lakeward.decoding.avro_types import (
    Array,
    Decimal,
    Duration,
    Enum,
    Field,
    Fixed,
    FixedUuid,
    Map,
    Node,
    OneOf,
    Record,
    Scalar,
    Union,
    loops,
    recursive,
    smallest,
)

HEADER = '''\
"""Decodes Avro messages of one shape. Written by lakeward."""

import numpy as np

from lakeward.decoding.avro_native import (
    DUPLICATE_KEY, HEADER, binary, block, boolean, branch, fixed, float32, float64, framed, int32, int64, millis, room,
    size, string, symbol, time_micros, time_millis,
)
from lakeward.decoding.avro_values import distinct, duration, fixed_uuid, short_unscaled, unscaled, uuid
from lakeward.decoding.native import compiled

ZERO = np.uint64(0)
ONE = np.uint64(1)
U = np.uint64
'''

READERS = {
    "boolean": ("boolean", "u1"),
    "int": ("int32", "i4"),
    "long": ("int64", "i8"),
    "float": ("float32", "u4"),
    "double": ("float64", "u8"),
    "date": ("int32", "i4"),
    "time-millis": ("time_millis", "i8"),
    "time-micros": ("time_micros", "i8"),
    "timestamp-millis": ("millis", "i8"),
    "timestamp-micros": ("int64", "i8"),
    "local-timestamp-millis": ("millis", "i8"),
    "local-timestamp-micros": ("int64", "i8"),
}
"""The primitive that reads each scalar of fixed width, and the type of its buffer."""

WIDE = 24
"""A record with more fields is read by functions, one for each shape of field, which costs some speed and saves minutes
of compiling."""
MOST_LOOPS = 16
"""So many arrays and maps may lie in one another: Python takes no more than twenty loops."""
LINE = "\n"

TEXTS = {"string": "string", "bytes": "binary", "uuid": "uuid"}
UUID_LENGTH = 36


class Extent(Choice):
    """What the size of a buffer follows from."""

    ITEMS = "width elements an item"
    OFFSETS = "one element an item, and one"
    BYTES = "as many bytes as the messages have"


@dataclass(frozen=True, slots=True)
class Slot:
    """A buffer that the program fills: ``dtype`` as numpy spells it, for the items of array ``scope`` (0: the rows)."""

    dtype: str
    scope: int
    extent: Extent = Extent.ITEMS
    width: int = 1


@dataclass(frozen=True, slots=True)
class Column:
    """Where the values of a type, never a `Union`, lie; ``valid`` is the slot whose bytes are 0 for null."""

    node: Node
    scope: int
    slots: tuple[int, ...] = ()
    children: tuple[Column, ...] = ()
    valid: int | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A decoder as source, and what its arguments mean.

    The source defines ``decode(b, start, length, schema_id, status, where, rows, counts, symbols, *slots)``. Message
    ``m`` is ``length[m]`` (int32) bytes of ``b`` at ``start[m]`` (int64), header included. Those that are not framed
    with ``schema_id`` (uint64) are passed over. ``status`` (int8) becomes -1 for a row and for a failed message an
    index into `avro_native.FAILURES`, with ``where`` (int32) an index into ``paths``. ``rows`` (int64) tells the
    message of each row, ``counts`` (int64) the number of rows, then of the items of each array. ``symbols`` (int64)
    are the sizes of the enums.
    """

    source: str
    slots: tuple[Slot, ...]
    smallest: tuple[int, ...]
    """The least number of bytes of an item of each scope; of scope 0, a message."""
    columns: tuple[Column, ...]
    paths: tuple[str, ...]
    symbols: tuple[int, ...]


def programmable(record: Record) -> bool:
    """Whether there can be a program: no record holds itself, and not too many loops lie in one another."""
    return not recursive(record) and loops(record) <= MOST_LOOPS


def generate(record: Record) -> Program:
    """Write the program that decodes messages of ``record``, which is `programmable`."""
    return _Writer().program(record)


@dataclass(slots=True)
class _Writer:
    slots: list[Slot] = field(default_factory=list)
    smallest: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    symbols: list[int] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)
    """Functions for fields of wide records: what follows the name, and the name."""

    def program(self, record: Record) -> Program:
        self.smallest.append(smallest(record))
        columns, body = self.members(record, 0, "")
        arrays = range(1, len(self.smallest))
        arguments = "".join(f", a{k}" for k in range(len(self.slots)))
        source = (
            f"{HEADER}\n\n"
            f"{''.join(f'@compiled{LINE}def {name}{code}{LINE}{LINE}' for code, name in self.parts.items())}"
            f"def decode(b, start, length, schema_id, status, where, rows, counts, symbols{arguments}):\n"
            "    w = ZERO\n"
            "    first = ZERO\n"
            f"{_each('    s{0} = ZERO', arrays)}"
            "    for n in range(len(start)):\n"
            "        m = U(n)\n"
            "        p = U(start[m])\n"
            "        if not framed(b, p, length[m], schema_id):\n"
            "            continue\n"
            "        end = p + U(length[m])\n"
            "        p += U(HEADER)\n"
            "        at = 0\n"
            f"{_each('        c{0} = s{0}', arrays)}"
            "        while True:\n"
            f"{indent(body, ' ' * 12)}"
            "            break\n"
            "        if p == end:\n"
            "            status[m] = -1\n"
            "            rows[w] = n\n"
            "            w += ONE\n"
            f"{_each('            s{0} = c{0}', arrays)}"
            "        elif p < end:\n"
            "            status[m] = 0\n"
            "        else:\n"
            "            status[m] = ~p\n"
            "            where[m] = at\n"
            "    counts[ZERO] = w\n"
            f"{_each('    counts[U({0})] = s{0}', arrays)}"
        )
        return Program(source, tuple(self.slots), tuple(self.smallest), columns, tuple(self.paths), tuple(self.symbols))

    def members(self, record: Record, scope: int, path: str) -> tuple[tuple[Column, ...], str]:
        """The columns of a record and the code that reads it."""
        wide = len(record.fields) > WIDE
        columns, code = [], ""
        for member in record.fields:
            place = f"{path}.{member.name}" if path else member.name
            column, reading = (self.part if wide else self.value)(member.type, scope, place)
            columns.append(column)
            code += reading
        return tuple(columns), code

    def part(self, node: Node, scope: int, path: str) -> tuple[Column, str]:
        """As `value`, by a function of its own that all fields of this shape share: compiling time follows shapes."""
        own = _Writer(smallest=[0], parts=self.parts)  # scope 0 is the item that it is called for
        column, body = own.value(node, 0, path)
        place = _Place(scope, len(self.smallest) - 1, len(self.slots))
        paths, symbols = len(self.paths), len(self.symbols)
        self.smallest += own.smallest[1:]
        self.slots += [replace(slot, scope=place.scope_of(slot.scope)) for slot in own.slots]
        self.paths += own.paths
        self.symbols += own.symbols
        if not body:
            return place.moved(column), ""
        inside = range(1, len(own.smallest))
        named = "".join(f", c{k}" for k in inside)
        arguments = f"{named}{''.join(f', s{k}' for k in inside)}{''.join(f', a{k}' for k in range(len(own.slots)))}"
        code = (
            f"(b, p, end, w, symbols, first{arguments}):\n"
            "    at = 0\n"
            "    while True:\n"
            f"{indent(body, ' ' * 8)}"
            "        break\n"
            f"    return p, at{named}\n"
        )
        name = self.parts.setdefault(code, f"part{len(self.parts)}")
        scopes = [place.scope_of(k) for k in inside]
        counts = "".join(f", c{k}" for k in scopes)
        passed = f"{counts}{''.join(f', s{k}' for k in scopes)}"
        passed += "".join(f", a{place.slots + k}" for k in range(len(own.slots)))
        call = f"p, at{counts} = {name}(b, p, end, {item_of(scope)}, symbols, first + U({symbols}){passed})\n"
        return place.moved(column), f"{call}if p > end:\n    at += {paths}\n    break\n"

    def value(self, node: Node, scope: int, path: str) -> tuple[Column, str]:  # noqa: C901, PLR0912 - one case a type
        """The column for ``node`` and the code that reads one of it; ``break`` leaves it with a failure in ``p``."""
        match node:
            case Scalar("null"):
                read = Column(node, scope), ""
            case Scalar(kind) if kind in TEXTS:
                read = self.text(node, TEXTS[kind], scope, path)
            case Scalar(kind):
                reader, dtype = READERS[kind]
                read = self.flat(node, Slot(dtype, scope), reader, path)
            case Fixed(width):
                read = self.flat(node, Slot("u1", scope, width=width), "fixed", path, f"U({width}), ")
            case Enum(symbols):
                self.symbols.append(len(symbols))
                known = f"symbols[first + U({len(self.symbols) - 1})], "
                read = self.flat(node, Slot("i4", scope), "symbol", path, known)
            case Decimal():
                read = self.decimal(node, scope, path)
            case Array(items):
                read = self.repeated(node, (Field("", f"{path}[]", items),), scope, path)
            case Map(values):
                read = self.map(node, values, scope, path)
            case Union():
                read = self.union(node, scope, path)
            case OneOf():
                read = self.one_of(node, scope, path)
            case Duration() | FixedUuid():
                read = self.special(node, scope, path)
            case Record(()):
                present = self.slot(Slot("u1", scope))
                read = Column(node, scope, (present,)), f"a{present}[{item_of(scope)}] = 1\n"
            case Record():
                children, code = self.members(node, scope, path)
                read = Column(node, scope, children=children), code
            case _:
                raise TypeError(type(node).__name__)
        return read

    def flat(self, node: Node, slot: Slot, reader: str, path: str, argument: str = "") -> tuple[Column, str]:
        number = self.slot(slot)
        code = f"p = {reader}(b, p, end, {argument}a{number}, {item_of(slot.scope)})\n" + self.check(path)
        return Column(node, slot.scope, (number,)), code

    def text(self, node: Scalar, reader: str, scope: int, path: str) -> tuple[Column, str]:
        offsets = self.slot(Slot("i4", scope, Extent.OFFSETS))
        data = self.slot(Slot("u1", scope, Extent.BYTES))
        code = f"p = {reader}(b, p, end, a{offsets}, a{data}, {item_of(scope)})\n" + self.check(path)
        return Column(node, scope, (offsets, data)), code

    def decimal(self, node: Decimal, scope: int, path: str) -> tuple[Column, str]:
        slot = self.slot(Slot("u8", scope, width=2))
        limit = 10**node.precision
        reader, bound = "short_unscaled", f"U({limit})"
        if node.precision > 18:  # beyond 64 signed bits
            reader, bound = "unscaled", f"(U({limit >> 64}), U({limit & (2**64 - 1)}))"
        length = "size(b, p, end)" if node.size is None else f"room(p, end, U({node.size}))"
        code = (
            f"n{slot}, p = {length}\n"
            f"if p <= end:\n    p = {reader}(b, p, n{slot}, {bound}, a{slot}, {item_of(scope)})\n"
        ) + self.check(path)
        return Column(node, scope, (slot,)), code

    def special(self, node: Duration | FixedUuid, scope: int, path: str) -> tuple[Column, str]:
        if isinstance(node, Duration):
            reader, slots = "duration", [self.slot(Slot("i8", scope)) for _ in range(3)]
        else:
            offsets = self.slot(Slot("i4", scope, Extent.OFFSETS))
            reader, slots = "fixed_uuid", [offsets, self.slot(Slot("u1", scope, width=UUID_LENGTH))]
        arguments = ", ".join(f"a{slot}" for slot in slots)
        code = f"p = {reader}(b, p, end, {arguments}, {item_of(scope)})\n" + self.check(path)
        return Column(node, scope, tuple(slots)), code

    def repeated(self, node: Node, parts: tuple[Field, ...], scope: int, path: str) -> tuple[Column, str]:
        """The column for items that are ``parts``, one after the other, in blocks."""
        offsets = self.slot(Slot("i4", scope, Extent.OFFSETS))
        least = sum(smallest(part.type) for part in parts)
        self.smallest.append(least)
        k = len(self.smallest) - 1
        check = self.check(path)
        items, code = [], ""
        for part in parts:
            column, reading = self.value(part.type, k, part.path)
            items.append(column)
            code += reading
        loop = (
            f"if r{k} == ZERO:\n"
            f"    r{k}, p = block(b, p, end, U({least}), c{k} - s{k})\n"
            f"{indent(check, '    ')}"
            f"    if r{k} == ZERO:\n"
            "        break\n"
            f"r{k} -= ONE\n"
            f"{code}"
            f"c{k} += ONE\n"
        )
        code = (
            f"r{k} = ZERO\n"
            "while True:\n"
            f"{indent(loop, '    ')}"
            "if p > end:\n"
            "    break\n"
            f"a{offsets}[{item_of(scope)} + ONE] = c{k}\n"
        )
        return Column(node, scope, (offsets,), tuple(items)), code

    def map(self, node: Map, values: Node, scope: int, path: str) -> tuple[Column, str]:
        inside = f"{path}{{}}"
        parts = (Field("", inside, Scalar("string")), Field("", inside, values))
        column, code = self.repeated(node, parts, scope, path)
        (offsets,), key = column.slots, column.children[0]
        table = self.slot(Slot("u4", key.scope, width=4))
        first, last = f"U(a{offsets}[{item_of(scope)}])", f"c{key.scope}"
        keys = f"a{key.slots[0]}, a{key.slots[1]}, {first}, {last}, a{table}"
        code += f"if {last} - {first} > ONE and not distinct({keys}):\n    p = DUPLICATE_KEY\n"
        return column, code + self.check(path)

    def union(self, node: Union, scope: int, path: str) -> tuple[Column, str]:
        prologue = f"u, p = branch(b, p, end, {node.branches})\n" + self.check(path)
        column, code = self.value(node.value, scope, path)
        if node.null is None:
            return column, prologue + code
        valid = self.slot(Slot("u1", scope))
        column = Column(column.node, scope, column.slots, column.children, valid)
        code = (
            f"{prologue}"
            f"if u == {node.null}:\n"
            f"{indent(blank(column), '    ')}"
            "else:\n"
            f"    a{valid}[{item_of(scope)}] = 1\n"
            f"{indent(code, '    ')}"
        )
        return column, code

    def one_of(self, node: OneOf, scope: int, path: str) -> tuple[Column, str]:
        """Every member is null, then the one that is there is read over it."""
        code = f"u, p = branch(b, p, end, {len(node.branches)})\n" + self.check(path)
        valid = self.slot(Slot("u1", scope)) if None in node.branches else None
        members, chosen = [], ""
        for number, member in enumerate(node.branches):
            if member is None:
                chosen += f"{'elif' if chosen else 'if'} u == {number}:\n    a{valid}[{item_of(scope)}] = 0\n"
                continue
            column, reading = self.value(member.type, scope, f"{path}.{member.name}")
            there = self.slot(Slot("u1", scope))
            members.append(Column(column.node, scope, column.slots, column.children, there))
            reading = f"a{there}[{item_of(scope)}] = 1\n{reading}"
            chosen += f"{'elif' if chosen else 'if'} u == {number}:\n{indent(reading, '    ')}"
        code += "".join(blank(member) for member in members)
        if valid is not None:
            code += f"a{valid}[{item_of(scope)}] = 1\n"
        return Column(node, scope, children=tuple(members), valid=valid), code + chosen

    def slot(self, slot: Slot) -> int:
        self.slots.append(slot)
        return len(self.slots) - 1

    def check(self, path: str) -> str:
        """Code that leaves with a failure, if there is one, and says that it happened at ``path``."""
        self.paths.append(path)
        return f"if p > end:\n    at = {len(self.paths) - 1}\n    break\n"


def item_of(scope: int) -> str:
    """Code for the index of the item that is being written to the buffers of ``scope``."""
    return f"c{scope}" if scope else "w"


def _each(line: str, arrays: range) -> str:
    return "".join(f"{line.format(k)}\n" for k in arrays)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part is called: its item is of ``scope``, its arrays are counted from ``scopes`` on, its slots too."""

    scope: int
    scopes: int
    slots: int

    def scope_of(self, own: int) -> int:
        """The program's number for a scope of the part."""
        return self.scopes + own if own else self.scope

    def moved(self, column: Column) -> Column:
        """A column of the part as one of the program."""
        return Column(
            column.node,
            self.scope_of(column.scope),
            tuple(self.slots + slot for slot in column.slots),
            tuple(self.moved(child) for child in column.children),
            None if column.valid is None else self.slots + column.valid,
        )


def blank(column: Column) -> str:
    """Code that writes a null: every column of the same scope needs an item for it."""
    i = item_of(column.scope)
    code = "" if column.valid is None else f"a{column.valid}[{i}] = 0\n"
    match column.node:
        case Array() | Map():
            code += f"a{column.slots[0]}[{i} + ONE] = c{column.children[0].scope}\n"
        case Scalar("string" | "bytes" | "uuid") | FixedUuid():
            code += f"a{column.slots[0]}[{i} + ONE] = a{column.slots[0]}[{i}]\n"
        case Decimal():
            code += f"a{column.slots[0]}[{i} * U(2)] = 0\na{column.slots[0]}[{i} * U(2) + ONE] = 0\n"
        case Scalar() | Enum() | Duration() | Record(()):
            code += "".join(f"a{slot}[{i}] = 0\n" for slot in column.slots)
        case _:
            code += "".join(blank(child) for child in column.children)
    return code
