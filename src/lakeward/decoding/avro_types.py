"""What an Avro schema says, as a tree of what decoding needs: named types resolved, logical types known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

SMALLEST = {"null": 0, "float": 4, "double": 8, "uuid": 37}
"""The least number of bytes of those scalars that never fit one."""
DURATION_SIZE, UUID_SIZE = 12, 16


@dataclass(frozen=True, slots=True)
class Scalar:
    """A primitive, or one with a logical type: ``kind`` is a member of `PRIMITIVES` or a value of `LOGICAL`."""

    kind: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """``size`` bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class FixedUuid:
    """A uuid as its 16 bytes."""


@dataclass(frozen=True, slots=True)
class Duration:
    """Months, days and milliseconds, each an unsigned number of four bytes, the lowest first."""


@dataclass(frozen=True, slots=True)
class Enum:
    """One of ``symbols``."""

    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decimal:
    """An exact number; on bytes where ``size`` is None, else on fixed."""

    precision: int
    scale: int
    size: int | None


@dataclass(frozen=True, slots=True)
class Array:
    """Any number of ``items``."""

    items: Node


@dataclass(frozen=True, slots=True)
class Map:
    """Any number of ``values``, each under a string of its own."""

    values: Node


@dataclass(frozen=True, slots=True)
class Union:
    """A union of ``branches`` branches: ``value`` and perhaps a null, which is branch ``null``."""

    value: Node
    branches: int
    null: int | None


@dataclass(frozen=True, slots=True)
class OneOf:
    """A union of several types: one field a branch, named after its type; None for the null."""

    branches: tuple[Field | None, ...]


@dataclass(frozen=True, slots=True)
class Itself:
    """A record inside itself; ``name`` is the full name of a `Record` around it. Read as JSON text."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a record. ``path`` is its name from the top, as in ``legs[].price``; ``aliases`` its older names."""

    name: str
    path: str
    type: Node
    doc: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """Fields, one after the other; inside another record perhaps none. ``name`` is its full name."""

    fields: tuple[Field, ...]
    name: str = ""


Node: TypeAlias = Scalar | Fixed | FixedUuid | Duration | Enum | Decimal | Array | Map | Union | OneOf | Itself | Record


def children(node: Node) -> tuple[Node, ...]:
    """The types that ``node`` is made of."""
    match node:
        case Array(inner) | Map(inner) | Union(inner):
            return (inner,)
        case OneOf(branches):
            return tuple(branch.type for branch in branches if branch is not None)
        case Record(fields):
            return tuple(member.type for member in fields)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """``node`` and everything inside it."""
    yield node
    for child in children(node):
        yield from walk(child)


def records(node: Node) -> Mapping[str, Record]:
    """The records in ``node`` by full name: what `Itself` refers to."""
    return {inner.name: inner for inner in walk(node) if isinstance(inner, Record)}


def recursive(node: Node) -> bool:
    """Whether a record in ``node`` holds itself."""
    return any(isinstance(inner, Itself) for inner in walk(node))


def loops(node: Node) -> int:
    """How many arrays and maps lie in one another."""
    return isinstance(node, Array | Map) + max((loops(child) for child in children(node)), default=0)


def nullable(node: Node) -> bool:
    """Whether a value of ``node`` can be null."""
    match node:
        case Union(value, null=None):
            return nullable(value)
        case OneOf(branches):
            return None in branches
        case _:
            return isinstance(node, Union) or node == Scalar("null")


def smallest(node: Node) -> int:  # noqa: PLR0911 - one case a type
    """The least number of bytes that a value of ``node`` takes."""
    match node:
        case Scalar(kind):
            return SMALLEST.get(kind, 1)
        case Fixed(size) | Decimal(size=int(size)):
            return size
        case FixedUuid():
            return UUID_SIZE
        case Duration():
            return DURATION_SIZE
        case Record(fields):
            return sum(smallest(f.type) for f in fields)
        case Union(value, null=None):
            return 1 + smallest(value)
        case OneOf(branches):
            return 1 + min(0 if branch is None else smallest(branch.type) for branch in branches)
        case _:
            return 1
