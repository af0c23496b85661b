"""From a schema id to what the registry's schema says, or to the reason why its messages become no rows."""

from __future__ import annotations

from dataclasses import dataclass

from lakeward.decoding.avro_schema import parse
from lakeward.decoding.avro_types import Record
from lakeward.decoding.registry import AVRO, Registered, Schemas
from lakeward.errors import SchemaMismatchError

UNKNOWN = "unknown-schema-id"
CODES = {
    "too-short": "less than the five bytes of the header",
    "wrong-magic": "the first byte is not 0, so no Schema Registry client has written this message",
    UNKNOWN: "the registry knows no schema with this id",
    "foreign-schema-type": "the schema with this id is JSON Schema or Protobuf",
    "unsupported-schema": "the schema with this id is not valid, or holds what cannot become a column",
}
"""Rejects that the bytes of a value have no part in."""


class ForeignSchemaError(SchemaMismatchError):
    """A schema is of another kind than Avro."""


def record_of(registered: Registered, origin: str) -> Record:
    """What a registered schema says; ``origin`` is what errors call it.

    Raises:
        ForeignSchemaError: it is not Avro.
        SchemaMismatchError: it holds what cannot become a column.
    """
    if registered.kind != AVRO:
        raise ForeignSchemaError(
            f"{origin} is a {registered.kind} schema, and the topic is decoded as Avro",
            "Choose another way of decoding, or write the topic as Avro.",
        )
    return parse(registered.text, origin, registered.references)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no message with a certain schema id becomes a row."""

    code: str
    reason: str


def resolve(registry: Schemas, schema_id: int) -> tuple[Registered, Record] | Refusal:
    """The schema with this id and what it says.

    Raises:
        UnreachableError, PermissionDeniedError, ConfigurationError: the registry does not tell.
    """
    try:
        registered = registry.schema(schema_id)
        if registered is None:
            return Refusal(UNKNOWN, f"the registry knows no schema with id {schema_id}")
        return registered, record_of(registered, f"schema id {schema_id}")
    except ForeignSchemaError as error:
        return Refusal("foreign-schema-type", error.what)
    except SchemaMismatchError as error:
        return Refusal("unsupported-schema", error.what)
