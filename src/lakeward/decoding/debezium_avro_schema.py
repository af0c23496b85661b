"""Avro schemas of change events: what Kafka Connect wrote into them, and what of them Avro itself should not read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lakeward.decoding.debezium_forms import BYTES, Described
from lakeward.decoding.json_types import MAX_PRECISION
from lakeward.decoding.registry import AVRO, Registered

DECIMAL = "org.apache.kafka.connect.data.Decimal"
WORDS = {"int": "int32", "long": "int64", "float": "float32", "double": "float64", "boolean": "boolean"}
LOGICAL = {
    "date": "org.apache.kafka.connect.data.Date",
    "time-millis": "org.apache.kafka.connect.data.Time",
    "timestamp-millis": "org.apache.kafka.connect.data.Timestamp",
}
"""What a logical type means where Kafka Connect has not written its own name for it."""


def readable(registered: Registered) -> Registered:
    """The schema without decimals that are wider than a column can be: these are read as the bytes they are."""
    if registered.kind != AVRO or '"decimal"' not in registered.text:
        return registered
    try:
        schema = json.loads(registered.text)
    except (ValueError, RecursionError):
        return registered
    return replace(registered, text=json.dumps(_narrowed(schema)))


def described(registered: Registered) -> Described:
    """What the schema of a message describes.

    Raises:
        ValueError: it is no schema of a record.
    """
    named: dict[str, Described] = {}
    for text in registered.references:
        _described(json.loads(text), "", named)
    found = _described(json.loads(registered.text), "", named)
    if found.kind != "struct":
        raise ValueError("not a record")
    return found


def _narrowed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_narrowed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    wide = schema.get("logicalType") == "decimal" and not _fits(schema)
    return {name: _narrowed(one) for name, one in schema.items() if not (wide and name == "logicalType")}


def _fits(schema: Mapping[str, Any]) -> bool:
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    return isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision <= MAX_PRECISION


def _described(schema: Any, namespace: str, named: dict[str, Described]) -> Described:  # noqa: C901, PLR0911 - one case a type
    match schema:
        case str() if schema in WORDS or schema in {"string", BYTES}:
            return Described(WORDS.get(schema, schema))
        case str():
            full = schema if "." in schema or not namespace else f"{namespace}.{schema}"
            return named[full] if full in named else named[schema]
        case [*branches]:
            others = [one for one in branches if one != "null"]
            if len(others) != 1:
                raise ValueError("a union of several types")
            return _described(others[0], namespace, named)
        case {"type": "record", "name": str(name), "fields": [*fields]}:
            own, full = _full(name, schema, namespace)
            members = tuple((one["name"], _described(one["type"], own, named)) for one in fields)
            named[full] = Described("struct", *_meaning(schema), members=members)
            return named[full]
        case {"type": "enum" | "fixed", "name": str(name)}:
            _, full = _full(name, schema, namespace)
            kind = "string" if schema["type"] == "enum" else BYTES
            named[full] = Described(kind, *_meaning(schema))
            return named[full]
        case {"type": "array", "items": items}:
            return Described("array", *_meaning(schema), element=_described(items, namespace, named))
        case {"type": "map", "values": values}:
            return Described("map", *_meaning(schema), element=_described(values, namespace, named))
        case {"type": str(kind)} if kind in WORDS or kind in {"string", BYTES}:
            return Described(WORDS.get(kind, kind), *_meaning(schema))
        case {"type": inner}:
            return _described(inner, namespace, named)
    raise ValueError("a type is not known")


def _full(name: str, schema: Mapping[str, Any], namespace: str) -> tuple[str, str]:
    """The namespace inside a named type, and its full name."""
    if "." in name:
        return name.rpartition(".")[0], name
    own = str(schema.get("namespace", namespace))
    return own, f"{own}.{name}" if own else name


def _meaning(schema: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
    """The name of what a type means, and its parameters."""
    told = schema.get("connect.parameters")
    parameters = dict(told) if isinstance(told, dict) else {}
    logical = schema.get("logicalType")
    name = schema.get("connect.name") or (DECIMAL if logical == "decimal" else LOGICAL.get(str(logical), ""))
    if name == DECIMAL:
        parameters.setdefault("scale", str(schema.get("scale", 0)))
        if _fits(schema):
            parameters.setdefault("connect.decimal.precision", str(schema["precision"]))
    return str(name), parameters
