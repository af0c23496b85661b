"""Avro schemas: from their JSON text to a tree that holds what decoding needs, named types resolved."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakeward.decoding.avro_types import (
    DURATION_SIZE,
    UUID_SIZE,
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
)
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

MAX_DIGITS = 38
MAX_FIXED = 1 << 20
"""Bytes of a fixed: a null takes as much room in memory as a value."""
MAX_DEPTH = 64
MAX_NODES = 10_000
"""Named types that are used twice are two columns: a small text can describe a tree of any size."""


def parse(text: str, origin: str, references: Sequence[str] = ()) -> Record:
    """Read an Avro schema. One whose top level is no record is read as a record of one field, ``value``.

    Args:
        text: the schema as JSON.
        origin: what errors call it, such as ``schema id 7``.
        references: the schemas that it takes named types from, each after those that it takes types from itself.

    Raises:
        SchemaMismatchError: it is no Avro schema, or uses something that cannot become a column; names the field.
    """
    parser = _Parser(origin)
    for reference in references:
        parser.node(_loaded(reference, f"a schema that {origin} refers to"), "", "", 0)
    schema = _loaded(text, origin)
    if not _is_record(schema):
        value = parser.node(schema, "", "value", 0)
        return Record((Field("value", "value", value),))
    node = parser.node(schema, "", "", 0)
    if not isinstance(node, Record) or not node.fields:
        raise _unavailable(origin, "a record without fields", "")
    return node


def _loaded(text: str, origin: str) -> Any:
    if text in PRIMITIVES:  # some registries hand these over without quotes
        return text
    try:
        schema = json.loads(text)
        json.dumps(schema, ensure_ascii=False).encode()  # half a surrogate pair can be no name
    except (ValueError, RecursionError) as error:
        raise SchemaMismatchError(f"{origin} is not valid JSON", "register the schema again") from error
    return schema


def _is_record(schema: Any) -> bool:
    while isinstance(schema, dict) and isinstance(schema.get("type"), dict):
        schema = schema["type"]
    return isinstance(schema, dict) and schema.get("type") in ("record", "error")  # perhaps a list, which no set takes


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
            case {"type": "map", "values": values}:
                found = Map(self.node(values, namespace, f"{path}{{}}", depth + 1))
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

    def _definition(self, full: str, path: str, depth: int) -> Node:  # noqa: PLR0911 - one case a type
        schema, namespace = self.named[full]
        match schema:
            case {"type": "enum", "symbols": [*symbols]} if symbols and all(isinstance(s, str) for s in symbols):
                return Enum(tuple(symbols))
            case {"type": "fixed", "size": int(size), "logicalType": "decimal"} if 0 < size < 2**31:
                return self._decimal(schema, size, path)
            case {"type": "fixed", "size": int(size), "logicalType": "uuid"} if size == UUID_SIZE:
                return FixedUuid()
            case {"type": "fixed", "size": int(size), "logicalType": "duration"} if size == DURATION_SIZE:
                return Duration()
            case {"type": "fixed", "size": 0}:
                return Record((), full)  # nothing, which no file has a type for
            case {"type": "fixed", "size": int(size)} if size > MAX_FIXED:
                raise _unavailable(self.origin, f"a fixed of more than {MAX_FIXED:,} bytes", path)
            case {"type": "fixed", "size": int(size)} if size > 0:
                return Fixed(size)
            case {"type": "record" | "error", "fields": [*fields]}:
                return self._record(full, fields, namespace, path, depth)
        raise self._malformed(f"type {full} is incomplete", path)

    def _record(self, full: str, fields: list[Any], namespace: str, path: str, depth: int) -> Node:
        if full in self.open:
            return Itself(full)
        self.open.add(full)
        members = tuple(self._field(f, namespace, path, depth) for f in fields)
        self.open.remove(full)
        if len({f.name for f in members}) < len(members):
            raise self._malformed(f"record {full} has two fields of one name", path)
        return Record(members, full)

    def _field(self, schema: Any, namespace: str, path: str, depth: int) -> Field:
        match schema:
            case {"name": str(name), "type": kind}:
                own = f"{path}.{name}" if path else name
                doc = schema.get("doc")
                node = self.node(kind, namespace, own, depth + 1)
                return Field(name, own, node, doc if isinstance(doc, str) else None, _aliases(schema))
        raise self._malformed("a field has no name or no type", path)

    def _union(self, branches: list[Any], namespace: str, path: str, depth: int) -> Node:
        if any(isinstance(branch, list) for branch in branches) or not branches:
            raise self._malformed("a union is empty or holds a union", path)
        nulls = [i for i, branch in enumerate(branches) if _name(branch) == "null"]
        names = self._names(branches, path)
        if len(branches) - len(nulls) > 1:
            return OneOf(
                tuple(
                    None if i in nulls else self._branch(branch, names[i], namespace, path, depth)
                    for i, branch in enumerate(branches)
                )
            )
        value = next((branch for i, branch in enumerate(branches) if i not in nulls), "null")
        null = nulls[0] if len(branches) > 1 else None
        return Union(self.node(value, namespace, path, depth + 1), len(branches), null)

    def _branch(self, schema: Any, name: str, namespace: str, path: str, depth: int) -> Field:
        own = f"{path}.{name}"
        aliases = tuple(alias.rpartition(".")[2] for alias in _aliases(schema))
        return Field(name, own, self.node(schema, namespace, own, depth + 1), aliases=aliases)

    def _names(self, branches: list[Any], path: str) -> list[str]:
        """What the branches of a union are called: each after its type, with the namespace only where it must be."""
        full = [_name(branch) for branch in branches]
        twice = next((name for name, times in Counter(full).items() if times > 1), None)
        if twice is not None:
            raise self._malformed(f"a union holds {twice} twice", path)
        short = [name.rpartition(".")[2] for name in full]
        times = Counter(short)
        return [one if times[one] == 1 else name.replace(".", "_") for one, name in zip(short, full, strict=True)]

    def _decimal(self, schema: Mapping[str, Any], size: int | None, path: str) -> Node:
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if not isinstance(precision, int) or not isinstance(scale, int) or not 0 <= scale <= precision or not precision:
            raise self._malformed("a decimal needs a precision above 0 and a scale from 0 to the precision", path)
        if precision > MAX_DIGITS:
            raise _unavailable(self.origin, f"a decimal of {precision} digits (more than {MAX_DIGITS})", path)
        return Decimal(precision, scale, size)


def _name(branch: Any) -> str:
    """What a branch of a union is called: a name with its namespace where it is written, or a type."""
    match branch:
        case {"type": "record" | "error" | "enum" | "fixed", "name": str(name)}:
            namespace = branch.get("namespace")
            return f"{namespace}.{name}" if namespace and "." not in name else name
        case {"type": inner}:
            return _name(inner)
        case _:
            return str(branch)


def _aliases(schema: Any) -> tuple[str, ...]:
    aliases = schema.get("aliases") if isinstance(schema, dict) else None
    return tuple(alias for alias in aliases if isinstance(alias, str)) if isinstance(aliases, list) else ()
