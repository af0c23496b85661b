"""What belongs together: checks over several settings.

They read the raw data rather than the models, so that they find their mistakes also where others were made. What
the models refuse by themselves is passed over in silence here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from lakeward.config.decoding import KINDS
from lakeward.config.problems import KeyPath, Problem
from lakeward.config.scalars import CHANGE_PARTS, PLACEHOLDER, absent, structure
from lakeward.config.sinks import CATALOG_TYPES, is_url
from lakeward.config.sources import GROUP_PROTOCOLS, OWNED_PROPERTIES, SESSION_PROPERTIES
from lakeward.config.suggestions import hint, nearest
from lakeward.layout import DELETED, Layout, parse_partition_term, parse_sort_term

T = TypeVar("T")

_SOURCES = ("kafka", "postgres_buffer")
_SINKS = ("iceberg", "delta")
_PLAIN, _WITHOUT_COLUMNS = ("avro", "json"), ("bytes", "string")
_ONE_COLUMN = ("string", "long")
_FEEDS = {"topics": "kafka", "topic_pattern": "kafka", "source_table": "postgres_buffer"}


def inconsistencies(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Every mistake that shows only when several settings are read together."""
    tables = [(index, _section(table)) for index, table in enumerate(_list(data, "tables"))]
    yield from _one_of(data, "source", _SOURCES)
    yield from _one_of(data, "sink", _SINKS)
    yield from _properties(_section(_section(data.get("source")).get("kafka")))
    yield from _catalog(_section(_section(data.get("sink")).get("iceberg")))
    yield from _decoders(data, tables)
    yield from _names(tables)
    yield from _dead_letters(data, tables)
    for index, table in tables:
        at = ("tables", index)
        yield from _feed(at, table, [name for name in _SOURCES if name in _section(data.get("source"))])
        yield from _placeholders(at, table)
        yield from _layout(at, table)
        yield from _mode(at, table, table.get("decode") or data.get("decode"))
        yield from _columns(at, table)


def _section(value: Any) -> Mapping[str, Any]:
    try:
        value = structure(value)
    except ValueError:
        return {}
    return {key: inner for key, inner in value.items() if not absent(inner)} if isinstance(value, Mapping) else {}


def _list(section: Mapping[str, Any], key: str) -> list[Any]:
    try:
        value = structure(section.get(key))
    except ValueError:
        return []
    return list(value) if isinstance(value, list | tuple) else []


def _one_of(data: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> Iterator[Problem]:
    section = _section(data.get(key))
    written = [choice for choice in choices if choice in section]
    if len(written) > 1:
        yield Problem((key,), f"names {' and '.join(written)}; a pipeline has one {key}")
    elif not written and isinstance(data.get(key), Mapping) and not _misspelt(section, choices):
        yield Problem((key,), f"names none of {', '.join(choices)}")


def _misspelt(section: Mapping[str, Any], choices: tuple[str, ...]) -> bool:
    """Whether an unknown key already explains why none of ``choices`` is there."""
    return any(nearest(str(key), choices) for key in section)


def _properties(kafka: Mapping[str, Any]) -> Iterator[Problem]:
    properties = _section(kafka.get("properties"))
    protocol = properties.get("group.protocol", GROUP_PROTOCOLS[0])
    for key, value in properties.items():
        path = ("source", "kafka", "properties", key)
        if key == "group.protocol" and protocol not in GROUP_PROTOCOLS:
            yield Problem(path, f"is neither {' nor '.join(GROUP_PROTOCOLS)}")
        elif key in SESSION_PROPERTIES and protocol == "consumer":
            yield Problem(path, "with group.protocol: consumer it is the brokers' to set")
        elif key in OWNED_PROPERTIES:
            yield Problem(path, f"this property is lakeward's to set: {OWNED_PROPERTIES[key]}")
        elif isinstance(value, Mapping):
            yield Problem(path, 'must be a text, a number, true or false; write the property as "a.b.c: value"')


def _catalog(iceberg: Mapping[str, Any]) -> Iterator[Problem]:
    path = ("sink", "iceberg")
    catalog, warehouse = _section(iceberg.get("catalog")), iceberg.get("warehouse")
    kind = catalog.get("type")
    if isinstance(kind, str) and kind not in CATALOG_TYPES:
        yield Problem((*path, "catalog", "type"), f'unknown catalog type "{kind}"{hint(kind, CATALOG_TYPES)}')
    if warehouse is not None and "warehouse" in catalog:
        yield Problem((*path, "warehouse"), "the catalog names a warehouse too; write one of them")
    if not catalog and isinstance(warehouse, str) and is_url(warehouse) and not warehouse.startswith("file:"):
        yield Problem((*path, "warehouse"), "only a local folder can do without a catalog; write sink.iceberg.catalog")


def _decoders(data: Mapping[str, Any], tables: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Problem]:
    written: list[tuple[KeyPath, Any]] = [(("decode",), data.get("decode"))]
    written += [(("tables", index, "decode"), table.get("decode")) for index, table in tables]
    if absent(data.get("schema_registry")) and not _misspelt(data, ("schema_registry",)):
        for path, decode in written:
            if _asks_registry(decode):
                yield Problem(path, "avro needs a schema_registry; write `schema_registry: {url: …}`")
    if not absent(data.get("decode")) or _misspelt(data, ("decode",)):
        return
    for index, table in tables:
        if absent(table.get("decode")) and not absent(_section(data.get("source")).get("kafka")):
            yield Problem(("tables", index), f"nothing says how its records are read; write `decode: {KINDS[0]}`")


def _asks_registry(decode: Any) -> bool:
    if isinstance(decode, str):
        return decode == "avro"
    section = _section(decode)
    return "avro" in section or _section(section.get("debezium")).get("format") == "avro"


def _names(tables: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, table in tables:
        name = table.get("table")
        if isinstance(name, str) and first.setdefault(name, index) != index:
            message = f"tables[{first[name]}] has this name too; write one entry that lists all of its topics"
            yield Problem(("tables", index, "table"), message)


def _dead_letters(data: Mapping[str, Any], tables: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Problem]:
    names = {table.get("table") for _, table in tables}
    for at, section in [((), data), *((("tables", index), table) for index, table in tables)]:
        place = _section(section.get("dead_letters")).get("table")
        if isinstance(place, str) and place in names:
            yield Problem((*at, "dead_letters", "table"), f"{place} has rows of its own")


def _feed(at: KeyPath, table: Mapping[str, Any], sources: list[str]) -> Iterator[Problem]:
    if not table:
        return
    feeds = [feed for feed in _FEEDS if feed in table]
    if len(feeds) > 1:
        yield Problem(at, f"names {' and '.join(feeds)}; a table has one of them")
    elif not feeds and not _misspelt({key: None for key in table if key != "table"}, tuple(_FEEDS)):
        yield Problem(at, f"nothing feeds it; write one of {', '.join(_FEEDS)}")
    elif feeds and sources and _FEEDS[feeds[0]] not in sources:
        yield Problem((*at, feeds[0]), f"goes with source.{_FEEDS[feeds[0]]}, and the source is {sources[0]}")
    seen: set[str] = set()
    for number, topic in enumerate(_list(table, "topics")):
        if isinstance(topic, str):
            if topic in seen:
                yield Problem((*at, "topics", number), f'"{topic}" is listed twice')
            seen.add(topic)


def _placeholders(at: KeyPath, table: Mapping[str, Any]) -> Iterator[Problem]:
    pattern = next((table[key] for key in ("topic_pattern", "source_table") if isinstance(table.get(key), str)), None)
    name = table.get("table")
    if not isinstance(name, str):
        return
    try:
        groups = list(re.compile(pattern).groupindex) if pattern else []
    except re.error:
        return
    known = [*groups, "topic"]
    for placeholder in PLACEHOLDER.findall(name):
        if placeholder not in known:
            what = "a group of the pattern" if pattern else "known without a pattern"
            yield Problem((*at, "table"), f"{{{placeholder}}} is not {what}{hint(placeholder, known)}")


def _layout(at: KeyPath, table: Mapping[str, Any]) -> Iterator[Problem]:
    partition_by = _parsed(parse_partition_term, _list(table, "partition_by"))
    sort_by = _parsed(parse_sort_term, _list(table, "sort_by"))
    for key, layout in (("partition_by", (partition_by, ())), ("sort_by", ((), sort_by))):
        try:
            Layout(*layout)
        except ValueError as error:
            yield Problem((*at, key), str(error))


def _mode(at: KeyPath, table: Mapping[str, Any], decode: Any) -> Iterator[Problem]:
    """What goes with mode upsert, and what with change events."""
    kind = decode if isinstance(decode, str) else next(iter(_section(decode)), None)
    if table.get("mode") == "upsert":
        yield from _upsert(at, table, kind)
    else:
        for name in ("key", "decode_key", "on_delete"):
            if name in table:
                yield Problem((*at, name), "goes with mode: upsert")
    if kind in KINDS and kind != "debezium":
        for name, part in _section(table.get("metadata_columns")).items():
            if part in CHANGE_PARTS:
                yield Problem((*at, "metadata_columns", name), f"only change events tell {part}; these are {kind}")


def _upsert(at: KeyPath, table: Mapping[str, Any], kind: str | None) -> Iterator[Problem]:
    key = _list(table, "key")
    if kind in _WITHOUT_COLUMNS:
        yield Problem((*at, "mode"), f"upsert needs columns that are a key, and decode: {kind} makes none")
    elif kind in _PLAIN and not key:
        yield Problem((*at, "mode"), "upsert needs to know which columns are the key; write `key: [column]`")
    if "gaps" in table:
        yield Problem((*at, "gaps"), "goes with mode: append; of rows that are replaced no sequence is left")
    if kind == "debezium" and "decode_key" in table:
        yield Problem((*at, "decode_key"), "the keys of change events are read as the events are")
    if table.get("decode_key") in _ONE_COLUMN and len(key) > 1:
        yield Problem((*at, "decode_key"), f"a {table['decode_key']} is one column, and the key has {len(key)}")
    if table.get("on_delete") == "mark" and DELETED in _section(table.get("metadata_columns")):
        yield Problem((*at, "metadata_columns", DELETED), "on_delete: mark has a column of this name")


def _columns(at: KeyPath, table: Mapping[str, Any]) -> Iterator[Problem]:
    columns = _section(table.get("columns"))
    include, exclude = _list(columns, "include"), _list(columns, "exclude")
    rename = _section(columns.get("rename"))
    if include and exclude:
        yield Problem((*at, "columns", "exclude"), "columns.include already leaves out all others; write one of them")
    targets = list(rename.values())
    for old, new in rename.items():
        path = (*at, "columns", "rename", old)
        if old in exclude or (include and old not in include):
            yield Problem(path, f'"{old}" is left out of the table')
        elif targets.count(new) > 1:
            yield Problem(path, f'two columns would be named "{new}"')
    gone = [name for name in exclude if name not in targets]
    for name in _list(table, "key"):
        if name in gone:
            yield Problem((*at, "key"), f'"{name}" is left out of the table by columns.exclude')
    gaps = _section(table.get("gaps"))
    for name in [*_list(gaps, "key"), gaps.get("sequence")]:
        if name in gone:
            yield Problem((*at, "gaps"), f'"{name}" is left out of the table by columns.exclude')


def _parsed(parse: Callable[[str], T], terms: list[Any]) -> tuple[T, ...]:
    """The terms that can be read."""
    parsed = []
    for term in terms:
        with contextlib.suppress(ValueError, TypeError):
            parsed.append(parse(term))
    return tuple(parsed)
