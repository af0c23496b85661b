"""The types of single settings: what is accepted, and what an error says where it is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, Strict

from lakeward.config.document import flow, plain
from lakeward.config.environment import Substituted
from lakeward.config.secrecy import Secret, conceal, masked
from lakeward.config.suggestions import hint
from lakeward.config.units import format_interval, parse_interval, parse_size
from lakeward.decoding.json_types import parse_type
from lakeward.layout import parse_partition_term, parse_sort_term

T = TypeVar("T")


def absent(value: object) -> bool:
    """Whether a key counts as not written: nothing behind it, or a variable that is empty."""
    return value is None or (isinstance(value, Substituted) and value == "")


def structure(value: Any) -> Any:
    """A list or mapping that is the whole value of a variable, parsed; anything else as it is."""
    return flow(value) if isinstance(value, Substituted) and value.whole else value


def _from_variable(value: Any) -> Any:
    return plain(value) if isinstance(value, Substituted) else value


def _exact_text(value: Any) -> Any:
    return str(value) if isinstance(value, Substituted) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _checked(pattern: str, problem: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(problem)
        return text

    return AfterValidator(check)


def _parsed(parse: Callable[[Any], T], *types: type) -> Callable[[Any], T]:
    def validate(value: Any) -> T:
        if isinstance(value, bool) or not isinstance(value, types):
            return parse("?")
        return parse(value)

    return validate


Items = Annotated[tuple[T, ...], Strict(False), BeforeValidator(structure)]
"""A list; read from YAML flow where a variable is the whole value."""
Named = Annotated[Mapping[str, T], BeforeValidator(structure)]
"""A mapping from names that the user chooses."""
Text = Annotated[str, BeforeValidator(_exact_text), Field(min_length=1)]
Flag = Annotated[bool, BeforeValidator(_from_variable)]
Count = Annotated[int, BeforeValidator(_from_variable), Field(ge=1, le=2**63 - 1)]
Port = Annotated[int, BeforeValidator(_from_variable), Field(ge=1, le=65535)]


def _interval(value: Any) -> timedelta:
    return value if isinstance(value, timedelta) else _parsed(parse_interval, str, int, float)(value)


Interval = Annotated[timedelta, PlainValidator(_interval), PlainSerializer(format_interval, when_used="json")]
Size = Annotated[int, PlainValidator(_parsed(parse_size, str, int, float))]

PipelineName = Annotated[
    Text,
    _checked(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", "must be 1 to 100 letters, digits, - and _, a letter or digit first"),
]
GroupId = Annotated[Text, Field(max_length=249)]
Topic = Annotated[
    Text,
    _checked(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", "is not a topic name; a pattern goes into `topic_pattern`"),
]
Servers = Annotated[
    Text,
    _checked(
        r"(?:\s*(?:\w+://)?(?:\[[0-9A-Fa-f:.]+\]|[^\s:,/@\[\]]+)(?::\d{1,5})?\s*(?:,|$))+(?<!,)",
        "must be one or more host:port, separated by commas",
    ),
]


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return text


Regex = Annotated[Text, AfterValidator(_regex)]

PLACEHOLDER = re.compile(r"\{(\w+)\}", re.ASCII)


def _table_name(text: str) -> str:
    parts = re.split(r"[./]", PLACEHOLDER.sub("x", text))
    if len(parts) < 2 or not all(re.fullmatch(r"[\w$ -]+", part) for part in parts):
        raise ValueError("must be namespace.table, such as market_data.trades")
    return text


TableName = Annotated[Text, AfterValidator(_table_name)]


def _letter_table(text: str) -> str:
    unknown = [placeholder for placeholder in PLACEHOLDER.findall(text) if placeholder != "table"]
    if unknown:
        raise ValueError(f"{{{unknown[0]}}} is not known here; {{table}} is the name of the table")
    if text == "{table}":
        raise ValueError("must be another table than that of the rows")
    _table_name(text.replace("{table}", "x.x"))
    return text


LetterTable = Annotated[Text, AfterValidator(_letter_table)]
Rate = Annotated[float, BeforeValidator(_from_variable), Field(ge=0, le=1)]


def _web_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(?:/\S*)?", text):
        raise ValueError("must be a URL that begins with http:// or https://")
    if masked(text) != text:
        raise ValueError("must not hold a password; there are settings for user name and password")
    return text


WebUrl = Annotated[Text, AfterValidator(_web_url)]


def _location(text: str) -> str:
    if masked(text) != text:
        raise ValueError("must not hold a password")
    return text


Place = Annotated[Text, AfterValidator(_location)]


def _term(parse: Callable[[str], object]) -> AfterValidator:
    def check(text: str) -> str:
        if text.count("(") != text.count(")"):
            raise ValueError(f'"{text}" was cut at a comma; put the whole term in quotes: "bucket(16, column)"')
        parse(text)
        return text

    return AfterValidator(check)


PartitionBy = Annotated[Text, _term(parse_partition_term)]
SortBy = Annotated[Text, _term(parse_sort_term)]


def _json_type(text: str) -> str:
    return str(parse_type(text))


JsonType = Annotated[Text, AfterValidator(_json_type)]

_RECORD_PARTS = ("key", "topic", "partition", "offset", "timestamp", "ingestion_time")
CHANGE_PARTS = ("operation", "source_timestamp", "source_timestamp_ms", "source_position")
_HEADER = "header."


def _metadata(text: str) -> str:
    known = (*_RECORD_PARTS, "header.NAME", *CHANGE_PARTS)
    if text in known[:-5] + CHANGE_PARTS or (text.startswith(_HEADER) and len(text) > len(_HEADER)):
        return text
    raise ValueError(f'unknown metadata "{text}"{hint(text, known)}')


Metadata = Annotated[Text, AfterValidator(_metadata)]


def _start(value: Any) -> Literal["earliest", "latest"] | datetime:
    if isinstance(value, datetime):
        moment = value
    elif value == "earliest":
        return "earliest"
    elif value == "latest":
        return "latest"
    else:
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            known = ("earliest", "latest", "2026-01-31T00:00:00Z")
            raise ValueError(f'unknown start "{value}"{hint(str(value), known)}') from None
    if moment.tzinfo is None:
        raise ValueError("has no time zone; write it as 2026-01-31T00:00:00Z")
    return moment.astimezone(UTC)


Start = Annotated[Literal["earliest", "latest"] | datetime, PlainValidator(_start)]


def _secret(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text; put it in quotes")
    return Secret(str(value))


def _dsn(value: Any) -> Secret:
    text = _secret(value).reveal()
    return Secret(text, masked(text))


def _shown(secret: Secret) -> str:
    return str(secret)


Password = Annotated[Secret, PlainValidator(_secret), PlainSerializer(_shown, when_used="json")]
Dsn = Annotated[Secret, PlainValidator(_dsn), PlainSerializer(_shown, when_used="json")]


def _option(value: Any) -> str | Secret | dict[str, Any]:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value)
    if isinstance(value, Secret):
        return value
    if isinstance(value, Mapping):
        return {str(key): _option(inner) for key, inner in value.items() if not _dropped(inner)}
    raise ValueError("must be a text, a number, true, false or a section")


def _dropped(value: object) -> bool:
    return isinstance(value, Substituted) and value == ""


def _options(value: Any) -> Any:
    value = structure(value)
    return {key: v for key, v in value.items() if not _dropped(v)} if isinstance(value, Mapping) else value


def _visible(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _visible(value) if isinstance(value, Mapping) else str(value) for key, value in options.items()}


Options = Annotated[
    Mapping[str, Annotated[Any, PlainValidator(_option)]],
    BeforeValidator(_options),
    AfterValidator(conceal),
    PlainSerializer(_visible, when_used="json"),
]
"""Free-form settings that are handed on as they are: texts, with the secrets among them concealed."""

LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
