"""The types that a JSON field can have, and how they are written in a configuration."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """What a value is. The compiled reader branches on these numbers."""

    STRING = 0
    INT = 1
    LONG = 2
    FLOAT = 3
    DOUBLE = 4
    BOOLEAN = 5
    DATE = 6
    TIMESTAMP = 7
    TIMESTAMPTZ = 8
    DECIMAL = 9
    TEXT = 10
    """A string as it is; any other value as compact JSON text."""
    TIME = 11
    UUID = 12
    BINARY = 13
    JSON = 14
    """Any value as compact JSON text, strings too."""
    NULL = 15
    """Only null so far: it has no column."""
    STRUCT = 16
    LIST = 17
    MAP = 18


PLAIN = {
    "string": Kind.STRING,
    "int": Kind.INT,
    "long": Kind.LONG,
    "float": Kind.FLOAT,
    "double": Kind.DOUBLE,
    "boolean": Kind.BOOLEAN,
    "date": Kind.DATE,
    "time": Kind.TIME,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMPTZ,
    "uuid": Kind.UUID,
    "binary": Kind.BINARY,
    "json": Kind.JSON,
}
"""Types by the word that a configuration has for them."""
WORDS = (*PLAIN, "decimal(18,6)", "list<long>", "map<string,long>", "struct<a:long>")
"""What is offered to somebody who wrote something else."""
MAX_PRECISION = 38
MAX_NESTING = 32
"""How many types may lie in one another."""
_DECIMAL = re.compile(r"decimal\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*\)", re.ASCII)
_MEMBER = re.compile(r"[^<>:,]+")


@dataclass(frozen=True, slots=True)
class FieldType:
    """One value's type: a decimal's ``precision`` and ``scale``, a struct's ``members``, a list's or map's ``element``.

    The keys of a map are strings.
    """

    kind: Kind
    precision: int = 0
    scale: int = 0
    members: tuple[Field, ...] = ()
    element: FieldType | None = None

    @property
    def nested(self) -> bool:
        """Whether a value holds other values."""
        return self.kind in {Kind.STRUCT, Kind.LIST, Kind.MAP}

    def __str__(self) -> str:
        inside = ",".join(f"{one.name}:{one.type}" for one in self.members if one.type.kind is not Kind.NULL)
        match self.kind:
            case Kind.DECIMAL:
                return f"decimal({self.precision},{self.scale})"
            case Kind.STRUCT:
                return f"struct<{inside}>"
            case Kind.LIST:
                return f"list<{self.element}>"
            case Kind.MAP:
                return f"map<string,{self.element}>"
            case Kind.TEXT:
                return "string"
            case _:
                return self.kind.name.lower()


@dataclass(frozen=True, slots=True)
class Field:
    """A name and the type of its values."""

    name: str
    type: FieldType


def parse_type(text: str) -> FieldType:
    """Read a type: ``long``, ``decimal(18,6)``, ``list<long>``, ``map<string,long>``, ``struct<a:long,b:list<date>>``.

    Blanks around words do not matter. The names of a struct's members hold none of ``<>:,``.

    Raises:
        ValueError: there is no such type; says why.
    """
    found, rest = _type(text.strip(), 1)
    if rest:
        raise _unknown(text)
    return found


def _type(text: str, depth: int) -> tuple[FieldType, str]:
    """The type that ``text`` begins with, and what is behind it."""
    if depth > MAX_NESTING:
        raise ValueError(f"more than {MAX_NESTING} types lie in one another")
    decimal = _DECIMAL.match(text)
    if decimal is not None:
        precision, scale = int(decimal[1]), int(decimal[2])
        if not (1 <= precision <= MAX_PRECISION and scale <= precision):
            raise ValueError(f'"{decimal[0]}": the precision must be 1 to 38 and the scale 0 to the precision')
        return FieldType(Kind.DECIMAL, precision, scale), text[decimal.end() :].lstrip()
    match = _MEMBER.match(text)
    word = match[0].strip() if match else ""
    rest = text[match.end() :] if match else text
    if rest.startswith("<"):
        return _holding(word, text, rest[1:].lstrip(), depth + 1)
    if word not in PLAIN:
        raise _unknown(text)
    return FieldType(PLAIN[word]), rest


def _holding(word: str, text: str, rest: str, depth: int) -> tuple[FieldType, str]:
    """A list, map or struct, whose inside ``rest`` begins with."""
    if word == "list":
        element, rest = _type(rest, depth)
        found = FieldType(Kind.LIST, element=element)
    elif word == "map":
        key, rest = _type(rest, depth)
        if key.kind is not Kind.STRING or not rest.startswith(","):
            raise ValueError(f'"{text}": a map is written map<string,TYPE>; keys of JSON objects are strings')
        element, rest = _type(rest[1:].lstrip(), depth)
        found = FieldType(Kind.MAP, element=element)
    elif word == "struct":
        members, rest = _members(text, rest, depth)
        found = FieldType(Kind.STRUCT, members=members)
    else:
        raise _unknown(text)
    if not rest.startswith(">"):
        raise ValueError(f'"{text}": a > is missing')
    return found, rest[1:].lstrip()


def _members(text: str, rest: str, depth: int) -> tuple[tuple[Field, ...], str]:
    members: list[Field] = []
    while True:
        match = _MEMBER.match(rest)
        if match is None or rest[match.end() : match.end() + 1] != ":":
            raise ValueError(f'"{text}": a struct is written struct<NAME:TYPE,NAME:TYPE>')
        name = match[0].strip()
        if name in {member.name for member in members}:
            raise ValueError(f'"{text}": two members are called "{name}"')
        inner, rest = _type(rest[match.end() + 1 :].lstrip(), depth)
        members.append(Field(name, inner))
        if not rest.startswith(","):
            return tuple(members), rest
        rest = rest[1:].lstrip()


def _unknown(text: str) -> ValueError:
    near = difflib.get_close_matches(text, WORDS, 1)
    return ValueError(
        f'unknown type "{text}"; ' + (f'did you mean "{near[0]}"?' if near else f"there is {', '.join(WORDS)}")
    )
