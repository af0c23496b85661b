"""Avro schemas: from their JSON text to a tree that holds what decoding needs, named types resolved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lakeward.errors import SchemaMismatchError

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "string", "bytes"})
LOGICAL = {
    ("int", "date"): "date",
    ("int", "time-millis"): "time-millis",
    ("long", "time-micros"): "time-micros",
    ("long", "timestamp-millis"): "timestamp-millis",
    ("long", "timestamp-micros"): "timestamp-micros",
    ("long", "local-timestamp-millis"): "local-timestamp-millis",
    ("long", "local-timestamp-micros"): "local-timestamp-micros",
    ("string", "uuid"): "uuid",
}
"""Logical types with a meaning of their own. All others are read as the type that they annotate, as Avro demands."""

SMALLEST = {"null": 0, "float": 4, "double": 8, "uuid": 37}
"""The least number of bytes of those scalars that never fit one."""

MAX_DIGITS = 38
MAX_DEPTH = 64
MAX_NODES = 10_000
"""Named types that are used twice are two columns: a small text can describe a tree of any size."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A primitive, or a primitive with a logical type: ``kind`` is a member of `PRIMITIVES` or a value of `LOGICAL`."""

    kind: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """``size`` bytes."""

    size: int


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
class Union:
    """A union of ``branches`` branches: ``value`` and perhaps a null, which is branch ``null``."""

    value: Node
    branches: int
    null: int | None


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a record. ``path`` is its name from the top, such as ``legs[].price``."""

    name: str
    path: str
    type: Node
    doc: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """Fields, one after the other."""

    fields: tuple[Field, ...]


Node: TypeAlias = Scalar | Fixed | Enum | Decimal | Array | Union | Record


def parse(text: str, origin: str) -> Record:
    """Read an Avro schema whose top level is a record with at least one field.

    Args:
        text: the schema as JSON.
        origin: what errors call it, such as ``schema id 7``.

    Raises:
        SchemaMismatchError: it is no Avro schema, or uses something that cannot become a column; names the field.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaMismatchError(f"{origin} is not valid JSON", "register the schema again") from error
    node = _Parser(origin).node(schema, "", "", 0)
    if not isinstance(node, Record):
        raise _unavailable(origin, "a top level that is not a record", "")
    if not node.fields:
        raise _unavailable(origin, "a record without fields", "")
    return node


def smallest(node: Node) -> int:
    """The least number of bytes that a value of ``node`` takes."""
    match node:
        case Scalar(kind):
            return SMALLEST.get(kind, 1)
        case Fixed(size) | Decimal(size=int(size)):
            return size
        case Record(fields):
            return sum(smallest(f.type) for f in fields)
        case Union(value, null=None):
            return 1 + smallest(value)
        case _:
            return 1


def _unavailable(origin: str, construct: str, path: str) -> SchemaMismatchError:
    place = f" at field {path}" if path else ""
    return SchemaMismatchError(
        f"{origin}: {construct}{place} is not available in this version",
        "write the topic with a schema that avoids it, or leave the topic out",
    )


@dataclass(slots=True)
class _Parser:
    """One pass over one schema."""

    origin: str
    named: dict[str, tuple[Mapping[str, Any], str]] = field(default_factory=dict)
    """Full name to the definition and the namespace that holds inside it."""
    open: set[str] = field(default_factory=set)
    nodes: int = 0

    def node(self, schema: Any, namespace: str, path: str, depth: int) -> Node:
        """The tree of ``schema``, found at ``path`` inside ``namespace``."""
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise _unavailable(self.origin, f"more than {MAX_DEPTH} levels or {MAX_NODES:,} types", path)
        match schema:
            case str():
                found = self._reference(schema, namespace, path, depth)
            case list():
                found = self._union(schema, namespace, path, depth)
            case {"type": "record" | "error" | "enum" | "fixed", "name": str()}:
                found = self._named(schema, namespace, path, depth)
            case {"type": "array", "items": items}:
                found = Array(self.node(items, namespace, f"{path}[]", depth + 1))
            case {"type": "map"}:
                raise _unavailable(self.origin, "a map", path)
            case {"type": "bytes", "logicalType": "decimal"}:
                found = self._decimal(schema, None, path)
            case {"type": str(primitive), "logicalType": str(logical)} if (primitive, logical) in LOGICAL:
                found = Scalar(LOGICAL[primitive, logical])
            case {"type": inner}:
                found = self.node(inner, namespace, path, depth + 1)
            case _:
                raise self._malformed("a type is expected", path)
        return found

    def _malformed(self, what: str, path: str) -> SchemaMismatchError:
        place = f" at field {path}" if path else ""
        return SchemaMismatchError(f"{self.origin} is not a valid Avro schema: {what}{place}", "register it again")

    def _reference(self, name: str, namespace: str, path: str, depth: int) -> Node:
        if name in PRIMITIVES:
            return Scalar(name)
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        found = full if full in self.named else name
        if found not in self.named:
            raise self._malformed(f"type {name} is not defined", path)
        return self._definition(found, path, depth)

    def _named(self, schema: Mapping[str, Any], namespace: str, path: str, depth: int) -> Node:
        name = schema["name"]
        own = schema.get("namespace", namespace)
        if "." in name:
            own, full = name.rpartition(".")[0], name
        else:
            full = f"{own}.{name}" if own else name
        if self.named.setdefault(full, (schema, own))[0] is not schema:  # a type that is used twice is read twice
            raise self._malformed(f"type {full} is defined twice", path)
        return self._definition(full, path, depth)

    def _definition(self, full: str, path: str, depth: int) -> Node:
        schema, namespace = self.named[full]
        match schema:
            case {"type": "enum", "symbols": [*symbols]} if symbols and all(isinstance(s, str) for s in symbols):
                return Enum(tuple(symbols))
            case {"type": "fixed", "size": int(size), "logicalType": "decimal"} if 0 < size < 2**31:
                return self._decimal(schema, size, path)
            case {"type": "fixed", "size": int(size)} if 0 <= size < 2**31:
                return Fixed(size)
            case {"type": "record" | "error", "fields": [*fields]}:
                return self._record(full, fields, namespace, path, depth)
        raise self._malformed(f"type {full} is incomplete", path)

    def _record(self, full: str, fields: list[Any], namespace: str, path: str, depth: int) -> Record:
        if full in self.open:
            raise _unavailable(self.origin, f"the recursive record {full}", path)
        self.open.add(full)
        members = tuple(self._field(f, namespace, path, depth) for f in fields)
        self.open.remove(full)
        if len({f.name for f in members}) < len(members):
            raise self._malformed(f"record {full} has two fields of one name", path)
        return Record(members)

    def _field(self, schema: Any, namespace: str, path: str, depth: int) -> Field:
        match schema:
            case {"name": str(name), "type": kind}:
                own = f"{path}.{name}" if path else name
                doc = schema.get("doc")
                node = self.node(kind, namespace, own, depth + 1)
                return Field(name, own, node, doc if isinstance(doc, str) else None)
        raise self._malformed("a field has no name or no type", path)

    def _union(self, branches: list[Any], namespace: str, path: str, depth: int) -> Node:
        if any(isinstance(branch, list) for branch in branches) or not branches:
            raise self._malformed("a union is empty or holds a union", path)
        nodes = [self.node(branch, namespace, path, depth + 1) for branch in branches]
        nulls = [i for i, node in enumerate(nodes) if node == Scalar("null")]
        if len(nodes) == 1:
            return Union(nodes[0], 1, None)
        if len(nodes) == 2 and len(nulls) == 1:  # null and one other
            return Union(nodes[1 - nulls[0]], 2, nulls[0])
        names = " and ".join(_name(branch) for branch in branches)
        raise _unavailable(self.origin, f"a union of {names}", path)

    def _decimal(self, schema: Mapping[str, Any], size: int | None, path: str) -> Node:
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if not isinstance(precision, int) or not isinstance(scale, int) or not 0 <= scale <= precision or not precision:
            raise self._malformed("a decimal needs a precision above 0 and a scale from 0 to the precision", path)
        if precision > MAX_DIGITS:
            raise _unavailable(self.origin, f"a decimal of {precision} digits (more than {MAX_DIGITS})", path)
        return Decimal(precision, scale, size)


def _name(branch: Any) -> str:
    if isinstance(branch, dict):
        return str(branch.get("name") or branch.get("type"))
    return str(branch)
