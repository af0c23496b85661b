"""JSON Schema, as a registry has it: which schema ids stand for JSON, and the fields that a schema declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lakeward.decoding.json_inference import MOST_FIELDS, MOST_MEMBERS
from lakeward.decoding.json_types import Field, FieldType, Kind
from lakeward.decoding.registry import Registered, RegistryClient
from lakeward.errors import SchemaMismatchError

JSON_SCHEMA = "JSON"
PLAIN = {"integer": Kind.LONG, "number": Kind.DOUBLE, "boolean": Kind.BOOLEAN, "string": Kind.TEXT}
FORMATS = {"date-time": Kind.TIMESTAMPTZ, "date": Kind.DATE}
DEEPEST = 32


def refusal(registry: RegistryClient, schema_id: int) -> tuple[str, str] | None:
    """Why no message with this schema id is decoded as JSON: code and reason; None where it is.

    Raises:
        UnreachableError, PermissionDeniedError, ConfigurationError: the registry does not tell.
    """
    try:
        registered = registry.schema(schema_id)
    except SchemaMismatchError as error:
        return "unsupported-schema", error.what
    if registered is None:
        return "unknown-schema-id", f"the registry knows no schema with id {schema_id}"
    if registered.kind != JSON_SCHEMA:
        reason = f"schema id {schema_id} is a {registered.kind} schema, and the topic is decoded as JSON"
        return "foreign-schema-type", reason
    return None


def fields_of(registered: Registered) -> tuple[Field, ...]:
    """The fields that a JSON Schema declares; those that it says nothing simple about are left out, to be inferred."""
    try:
        schema = json.loads(registered.text)
    except ValueError:
        return ()
    wanted = _type(schema, 0)
    return wanted.members[:MOST_FIELDS] if wanted is not None and wanted.kind is Kind.STRUCT else ()


def _type(schema: Any, depth: int) -> FieldType | None:
    """The type that ``schema`` declares, as far as docs/json.md says that it is followed; None: it is not."""
    if not isinstance(schema, Mapping) or depth > DEEPEST or "$ref" in schema:
        return None
    schema = _not_null(schema)
    named = schema.get("type")
    if isinstance(named, list):
        others = [one for one in named if one != "null"]
        named = others[0] if len(others) == 1 else None
    if named == "string" and schema.get("format") in FORMATS:
        return FieldType(FORMATS[schema["format"]])
    if isinstance(named, str) and named in PLAIN:
        return FieldType(PLAIN[named])
    if named == "array":
        element = _type(schema.get("items"), depth + 1)
        return None if element is None else FieldType(Kind.LIST, element=element)
    return _object(schema, depth) if named == "object" else None


def _object(schema: Mapping[str, Any], depth: int) -> FieldType | None:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        element = _type(schema.get("additionalProperties"), depth + 1)
        return None if element is None else FieldType(Kind.MAP, element=element)
    if depth and len(properties) > MOST_MEMBERS:
        return None
    typed = ((str(name), _type(inner, depth + 1)) for name, inner in properties.items())
    members = tuple(Field(name, found) for name, found in typed if found is not None)
    return FieldType(Kind.STRUCT, members=members) if members else None


def _not_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one choice of ``oneOf`` or ``anyOf`` that is not null, where there is one; else ``schema``."""
    for word in ("oneOf", "anyOf"):
        choices = schema.get(word)
        if isinstance(choices, list):
            others = [one for one in choices if isinstance(one, Mapping) and one.get("type") != "null"]
            return others[0] if len(others) == 1 else {}
    return schema
