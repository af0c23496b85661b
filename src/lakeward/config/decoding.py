"""Settings of the decoders and of the schema registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from lakeward.config.scalars import JsonType, Named, Password, Text, WebUrl, structure
from lakeward.config.sections import Section
from lakeward.config.suggestions import hint

Kind = Literal["avro", "json", "debezium", "bytes", "string"]
PROTOBUF = "protobuf"
KINDS: tuple[Kind, ...] = get_args(Kind)


class RegistryAuth(Section):
    """Who we are to the schema registry."""

    username: Text = Field(description="User name.")
    password: Password = Field(description="Password.")


class SchemaRegistry(Section):
    """A Confluent-compatible schema registry."""

    url: WebUrl = Field(description="Base URL of the registry.")
    auth: RegistryAuth | None = Field(default=None, description="User name and password, where it asks for them.")


class PlainDecoding(Section):
    """A decoder without settings."""


class JsonDecoding(Section):
    """JSON records."""

    fields_: Named[JsonType] | None = Field(
        default=None,
        alias="fields",
        description="Type of each field: `string`, `int`, `long`, `float`, `double`, `boolean`, `date`, `time`, "
        "`timestamp`, `timestamptz`, `decimal(18,6)`, `uuid`, `binary` (base64), `json` (any value, as text), "
        "`list<long>`, `map<string,long>`, `struct<a:long,b:string>`. Without it the types are inferred.",
    )


class DebeziumDecoding(Section):
    """Debezium change events."""

    format: Literal["json", "avro"] = Field(default="json", description="How the events are encoded.")


class Decode(Section):
    """How records are read: the name of a decoder, or the name with its settings."""

    avro: PlainDecoding | None = Field(default=None, description="Avro, its schemas in the schema registry.")
    json_: JsonDecoding | None = Field(default=None, alias="json", description="JSON, one object a record.")
    debezium: DebeziumDecoding | None = Field(default=None, description="Debezium change events.")
    bytes_: PlainDecoding | None = Field(
        default=None, alias="bytes", description="The record's bytes as they are, in a column `value`."
    )
    string: PlainDecoding | None = Field(default=None, description="The record's UTF-8 text, in a column `value`.")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, str) and data in KINDS:
            return {str(data): {}}
        data = structure(data)
        if data == PROTOBUF or (isinstance(data, Mapping) and PROTOBUF in data):
            raise ValueError("protobuf is not decoded; write `decode: bytes` to keep the records as they are")
        if isinstance(data, str):
            raise ValueError(f'unknown decoder "{data}"{hint(data, KINDS)}')  # noqa: TRY004 - pydantic collects only these
        if not isinstance(data, Mapping):
            return data
        named = [kind for kind in KINDS if kind in data]
        if len(named) > 1:
            raise ValueError(f"names more than one decoder: {', '.join(named)}")
        if not data:
            raise ValueError(f"names no decoder; there is {', '.join(KINDS)}")
        return {key: {} if value is None and key in KINDS else value for key, value in data.items()}

    @property
    def kind(self) -> Kind:
        """Which decoder it is."""
        written = {"avro": self.avro, "json": self.json_, "debezium": self.debezium, "bytes": self.bytes_}
        written["string"] = self.string
        return next(kind for kind in KINDS if written[kind] is not None)

    @property
    def fields(self) -> Mapping[str, str] | None:
        """The declared fields of JSON records, name to type; None where types are inferred or it is not JSON."""
        return self.json_.fields_ if self.json_ else None
