"""From fields that hold fields to a program: Python source for numba that reads records into Arrow buffers.

Where `json_kernel` takes any fields as data, a program has structs, lists and maps unrolled, in the order in which a
sample has their keys; members may be missing. What comes in another order, or is unusual in any other way, is left to
the reference decoder, whole. Names enter a program only as the numbers that their bytes make.

Buffers and counters are those of `avro_program`: ``w`` is the row being written, ``c<k>`` counts the items of list or
map ``k``, ``s<k>`` those of the records before. A record that cannot be read leaves ``w`` and every ``s<k>`` alone.
``p`` is where reading goes on, ``end`` where the record ends; every value ends before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import indent

from lakeward.decoding.avro_program import Column, Extent, Program, Slot, blank, item_of
from lakeward.decoding.avro_types import Array, Decimal, Map, Node, Record, Scalar
from lakeward.decoding.avro_types import Field as Member
from lakeward.decoding.json_columns import ESCAPED_IN_KEYS, WORD
from lakeward.decoding.json_types import Field, FieldType, Kind

HEADER = '''\
"""Reads JSON records. Written by lakeward."""

import numpy as np

from lakeward.decoding.avro_values import distinct
from lakeward.decoding.json_kernel import (
    CLOSE, COLON, COMMA, FOUR_BYTES, INT_MAX, INT_MIN, NULL, OPEN, behind_blank, day_at, double_at, integer_at,
    read_boolean, read_time, scaled_at, shaped_as_uuid, string_at, timestamp_at,
)
from lakeward.decoding.json_numbers import rounds_once
from lakeward.decoding.native import load
from lakeward.decoding.text import BAD, FOUR, ONE, ZERO, U

BRACKET, UNBRACKET = 0x5B, 0x5D


def decode(b, start, length, first, rows, unusual, counts'''

MOST_LOOPS = 12
MOST_VALUES = 32
"""Compiling takes the longer the more values a record has, half a second each; one that has more has no program."""
LEAST_ITEM, LEAST_PAIR = 2, 5
"""Bytes that an item of a list takes at least, its comma or bracket included, and a pair of a map."""

NUMBERS = {
    Kind.INT: ("int", "i4"),
    Kind.LONG: ("long", "i8"),
    Kind.FLOAT: ("float", "f4"),
    Kind.DOUBLE: ("double", "f8"),
    Kind.BOOLEAN: ("boolean", "u1"),
    Kind.DATE: ("date", "i4"),
    Kind.TIME: ("time-micros", "i8"),
    Kind.TIMESTAMP: ("local-timestamp-micros", "i8"),
    Kind.TIMESTAMPTZ: ("timestamp-micros", "i8"),
}
"""Kinds of fixed width: what `avro_columns` calls them, and the type of their buffer."""
READ = {
    Kind.INT: "p, x = integer_at(b, p, end)\nif x < INT_MIN or x > INT_MAX:\n    p = BAD\nelse:\n    {to} = x\n",
    Kind.LONG: "p, {to} = integer_at(b, p, end)\n",
    Kind.FLOAT: "p, f = double_at(b, p, end)\nif not rounds_once(f):\n    p = BAD\n{to} = f\n",
    Kind.DOUBLE: "p, {to} = double_at(b, p, end)\n",
    Kind.BOOLEAN: "p, {to} = read_boolean(b, p)\n",
    Kind.DATE: "p, {to} = day_at(b, p, end)\n",
    Kind.TIME: "p, {to} = read_time(b, p, end)\n",
    Kind.TIMESTAMP: "p, {to} = timestamp_at(b, p, end, False)\n",
    Kind.TIMESTAMPTZ: "p, {to} = timestamp_at(b, p, end, True)\n",
}
STRUCT = Record((Member("", "", Scalar("null")),))
"""What `avro_columns` makes a struct of, whatever its members are."""
TEXTS = frozenset({Kind.STRING, Kind.TEXT, Kind.UUID, Kind.BINARY, Kind.JSON})
SKIP = "if b[p] <= 0x20:\n    p = behind_blank(b, p, end)\n"
FAIL = "p = BAD\nbreak\n"


def programmable(fields: Sequence[Field]) -> bool:
    """Whether there can be a program for ``fields``: every struct has a column, and not too much lies in another."""
    whole = FieldType(Kind.STRUCT, members=tuple(fields))
    return _sound(whole) and _loops(whole) <= MOST_LOOPS and _values(whole) <= MOST_VALUES


def generate(fields: Sequence[Field], sample: Mapping[str, object]) -> Program:
    """Write the program that reads records of ``fields``, which are `programmable`; ``sample`` tells their order.

    It defines ``decode(b, start, length, first, rows, unusual, counts, *slots)``. Message ``m`` is ``length[m]``
    (int32; below 0: none) bytes of ``b`` at ``start[m]`` (int64), of which more must be readable, see `slack`. Its
    number, ``first`` + ``m``, is appended to ``rows`` (int64) or ``unusual`` (int64). ``counts`` (int64), which goes
    on from call to call, has the number of rows, then of the items of each list and map, then of ``unusual``.
    """
    return _Writer().program(fields, sample)


def slack(fields: Sequence[Field]) -> int:
    """How many bytes behind a record a program may look at, besides `text.SLACK`."""
    longest = max((len(one.name.encode()) for one in _names(fields)), default=0)
    return longest + 2 * WORD


def _names(fields: Sequence[Field]) -> list[Field]:
    found: list[Field] = []
    for one in fields:
        inner = one.type
        while inner.element is not None:
            inner = inner.element
        found += [one, *_names(inner.members)]
    return found


def _inside(kind: FieldType) -> tuple[FieldType, ...]:
    return tuple(member.type for member in kind.members) if kind.element is None else (kind.element,)


def _sound(kind: FieldType) -> bool:
    if kind.kind is Kind.STRUCT and all(member.type.kind is Kind.NULL for member in kind.members):
        return False
    if kind.element is not None and kind.element.kind is Kind.NULL:
        return False
    return all(map(_sound, _inside(kind)))


def _loops(kind: FieldType) -> int:
    return max(map(_loops, _inside(kind)), default=0) + (kind.element is not None)


def _values(kind: FieldType) -> int:
    return sum(map(_values, _inside(kind))) + 1


@dataclass(slots=True)
class _Writer:
    slots: list[Slot] = field(default_factory=list)
    smallest: list[int] = field(default_factory=lambda: [LEAST_ITEM])

    def program(self, fields: Sequence[Field], sample: Mapping[str, object]) -> Program:
        columns, body = self.members(fields, 0, sample)
        body += "good = p <= end and behind_blank(b, p, end) == end\nbreak\n"
        scopes = range(1, len(self.smallest))
        buffers = "".join(f", a{number}" for number in range(len(self.slots)))
        source = (
            f"{HEADER}{buffers}):\n"
            "    w = U(counts[ZERO])\n"
            f"    left = counts[U({len(self.smallest)})]\n"
            f"{_each('    s{0} = U(counts[U({0})])', scopes)}"
            "    for n in range(len(start)):\n"
            "        m = U(n)\n"
            "        if length[m] < 0:\n"
            "            continue\n"
            "        p = U(start[m])\n"
            "        end = p + U(length[m])\n"
            "        good = False\n"
            f"{_each('        c{0} = s{0}', scopes)}"
            "        while p < end:\n"
            f"{indent(SKIP, ' ' * 12)}"
            f"{indent(body, ' ' * 12)}"
            "        if good:\n"
            "            rows[w] = first + n\n"
            "            w += ONE\n"
            f"{_each('            s{0} = c{0}', scopes)}"
            "        else:\n"
            "            unusual[left] = first + n\n"
            "            left += 1\n"
            "    counts[ZERO] = w\n"
            f"    counts[U({len(self.smallest)})] = left\n"
            f"{_each('    counts[U({0})] = s{0}', scopes)}"
        )
        return Program(source, tuple(self.slots), tuple(self.smallest), columns, (), ())

    def members(self, fields: Sequence[Field], scope: int, sample: object) -> tuple[tuple[Column, ...], str]:
        """The columns of an object and the code that reads it, its braces included.

        ``t`` is 0 where the object must end, 1 where it may, as nothing was read yet, 2 behind a comma.
        """
        told = sample if isinstance(sample, Mapping) else {}
        places = {name: place for place, name in enumerate(told)}
        order = sorted(range(len(fields)), key=lambda g: places.get(fields[g].name, len(places)))
        columns: dict[int, Column] = {}
        t = f"t{len(self.slots)}"
        code = f"if b[p] != OPEN:\n{indent(FAIL, '    ')}p += ONE\n{SKIP}{t} = 1\n"
        for g in order:
            one = fields[g]
            if one.type.kind is Kind.NULL:
                reading, nothing = f"if load(b, p) & FOUR_BYTES != NULL:\n{indent(FAIL, '    ')}p += FOUR\n", ""
            else:
                columns[g], reading = self.value(one.type, scope, told.get(one.name))
                nothing = blank(columns[g])
            reading += f"{SKIP}if b[p] == COMMA:\n    p += ONE\n{indent(SKIP, '    ')}    {t} = 2\nelse:\n    {t} = 0\n"
            found = f"{_key(one.name)}{SKIP}{reading}"
            code += f"if {t} and {_is_key(one.name)}:\n{indent(found, '    ')}"
            if nothing:
                code += f"else:\n{indent(nothing, '    ')}"
        code += f"if {t} == 2 or b[p] != CLOSE:\n{indent(FAIL, '    ')}p += ONE\n"
        return tuple(columns[g] for g in sorted(columns)), code

    def value(self, kind: FieldType, scope: int, sample: object) -> tuple[Column, str]:
        """The column for a value and the code that reads it, or a null, and leaves where it does not end in time."""
        valid = self.slot(Slot("u1", scope))
        column, code = self.present(kind, scope, valid, sample)
        code = (
            "if b[p] == 0x6E and load(b, p) & FOUR_BYTES == NULL:\n"
            f"{indent(blank(column), '    ')}"
            "    p += FOUR\n"
            "else:\n"
            f"    a{valid}[{item_of(scope)}] = 1\n"
            f"{indent(code, '    ')}"
            f"if p >= end:\n{indent(FAIL, '    ')}"
        )
        return column, code

    def present(self, kind: FieldType, scope: int, valid: int, sample: object) -> tuple[Column, str]:
        """The column and the code for a value that is not null."""
        if kind.element is not None:
            return self.holding(kind, kind.element, scope, valid, sample)
        if kind.kind is Kind.STRUCT:
            children, code = self.members(kind.members, scope, sample)
            return Column(STRUCT, scope, (), children, valid), code
        i = item_of(scope)
        if kind.kind in TEXTS:
            return self.text(kind.kind, scope, valid)
        if kind.kind is Kind.DECIMAL:
            slot = self.slot(Slot("i8", scope, width=2))
            high, low = divmod(10**kind.precision, 2**64)
            limit = f"{kind.scale}, U({high}), U({low})"
            code = f"p = scaled_at(b, p, end, {limit}, {i} * U(2), a{slot})\n"
            return Column(Decimal(kind.precision, kind.scale, None), scope, (slot,), valid=valid), code
        name, dtype = NUMBERS[kind.kind]
        slot = self.slot(Slot(dtype, scope))
        return Column(Scalar(name), scope, (slot,), valid=valid), READ[kind.kind].format(to=f"a{slot}[{i}]")

    def text(self, kind: Kind, scope: int, valid: int | None) -> tuple[Column, str]:
        offsets = self.slot(Slot("i4", scope, Extent.OFFSETS))
        data = self.slot(Slot("u1", scope, Extent.BYTES))
        i = item_of(scope)
        code = (
            f"p, o = string_at(b, p, end, a{data}, U(a{offsets}[{i}]))\n"
            f"if p >= end:\n{indent(FAIL, '    ')}"
            f"a{offsets}[{i} + ONE] = np.int32(o)\n"
        )
        if kind in {Kind.BINARY, Kind.JSON}:  # nothing is lost: the reference reads them
            code = "p = BAD\n"
        if kind is Kind.UUID:
            code = f"if not shaped_as_uuid(b, p, end):\n{indent(FAIL, '    ')}{code}"
        return Column(Scalar("string"), scope, (offsets, data), valid=valid), code

    def holding(
        self, kind: FieldType, element: FieldType, scope: int, valid: int, sample: object
    ) -> tuple[Column, str]:
        """A list or a map: items until its bracket."""
        pairs = kind.kind is Kind.MAP
        offsets = self.slot(Slot("i4", scope, Extent.OFFSETS))
        self.smallest.append(LEAST_PAIR if pairs else LEAST_ITEM)
        k = len(self.smallest) - 1
        first, last = ("OPEN", "CLOSE") if pairs else ("BRACKET", "UNBRACKET")
        items: tuple[Column, ...] = ()
        reading = after = ""
        node: Node = Array(Scalar("null"))
        if pairs:
            key, reading = self.text(Kind.STRING, k, None)
            reading += f"{SKIP}if b[p] != COLON:\n{indent(FAIL, '    ')}p += ONE\n{SKIP}"
            table = self.slot(Slot("u4", k, width=4))
            begin = f"U(a{offsets}[{item_of(scope)}])"
            named = f"a{key.slots[0]}, a{key.slots[1]}, {begin}, c{k}, a{table}"
            after = f"if c{k} - {begin} > ONE and not distinct({named}):\n{indent(FAIL, '    ')}"
            items, node = (key,), Map(Scalar("null"))
        column, value = self.value(element, k, _first(sample))
        loop = (
            f"{reading}{value}"
            f"c{k} += ONE\n"
            f"{SKIP}"
            f"if b[p] == COMMA:\n    p += ONE\n{indent(SKIP, '    ')}    continue\n"
            f"p = p + ONE if b[p] == {last} else BAD\n"
            "break\n"
        )
        code = (
            f"if b[p] != {first}:\n{indent(FAIL, '    ')}"
            f"p += ONE\n{SKIP}"
            f"if b[p] == {last}:\n    p += ONE\n"
            f"else:\n    while True:\n{indent(loop, ' ' * 8)}"
            f"if p >= end:\n{indent(FAIL, '    ')}"
            f"a{offsets}[{item_of(scope)} + ONE] = c{k}\n"
            f"{after}"
        )
        return Column(node, scope, (offsets,), (*items, column), valid), code

    def slot(self, slot: Slot) -> int:
        self.slots.append(slot)
        return len(self.slots) - 1


def _first(sample: object) -> object:
    """One of the items of a list or map."""
    inside = list(sample.values()) if isinstance(sample, Mapping) else sample
    return inside[0] if isinstance(inside, list) and inside else None


def _token(name: str) -> bytes:
    return f'"{name}":'.encode()


def _is_key(name: str) -> str:
    """Whether the key ``name`` and its colon are at ``p``; never where it would have to be escaped."""
    if ESCAPED_IN_KEYS.search(name):
        return "False"
    token = _token(name)
    tests = []
    for at in range(0, len(token), WORD):
        word = token[at : at + WORD]
        number, mask = int.from_bytes(word, "little"), 2 ** (8 * len(word)) - 1
        tests.append(f"(load(b, p + U({at})) ^ U({number})) & U({mask}) == ZERO")
    return " and ".join(tests)


def _key(name: str) -> str:
    return f"p += U({len(_token(name))})\n"


def _each(line: str, numbers: range) -> str:
    return "".join(f"{line.format(k)}\n" for k in numbers)
