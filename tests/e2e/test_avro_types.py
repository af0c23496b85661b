"""Every Avro type as a column of a real table: of the type that docs/avro.md says, read back equal by two engines."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from pyiceberg.types import IcebergType, ListType, MapType, StructType
from tests.e2e.rig import CommandLine, Site, configuration
from tests.property.avro_topics import Expecting, Writer, plain

from lakeward.decoding.avro_native import FAILURES
from lakeward.decoding.avro_registered import CODES
from lakeward.decoding.avro_schema import LOGICAL, parse
from lakeward.decoding.avro_types import records
from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import produce, producer_of
from lakeward.testing.registry import EmbeddedRegistry

PAGE = (Path(__file__).parents[2] / "docs" / "avro.md").read_text(encoding="utf-8")


class Example(NamedTuple):
    """A type as the page writes it, one of its schemas, and two values as columns hold them."""

    told: str
    schema: Any
    values: tuple[Any, Any]


def logical(base: str, kind: str) -> dict[str, str]:
    return {"type": base, "logicalType": kind}


def record(name: str, **kinds: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": k, "type": v} for k, v in kinds.items()]}


UUID = "6f1c2ab0-0000-4000-8000-0123456789ab"
ID = {"type": "fixed", "name": "Id", "size": 16, "logicalType": "uuid"}
SPAN = {"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}
BIG = {"type": "fixed", "name": "Big", "size": 16, "logicalType": "decimal", "precision": 38, "scale": 2}
PRICE = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
NODE = record("Node", value="int", next=["null", "Node"])
NESTED = record("Outer", inner=record("Inner", items={"type": "array", "items": ["null", record("Leaf", x="int")]}))
EXAMPLES = [
    Example("boolean", "boolean", (True, False)),
    Example("int", "int", (-5, 2**31 - 1)),
    Example("long", "long", (-(2**63), 7)),
    Example("float", "float", (1.5, -0.0)),
    Example("double", "double", (1e300, 0.1)),
    Example("string", "string", ("grün", "")),
    Example("bytes", "bytes", (b"\0\xff", b"")),
    Example("fixed", {"type": "fixed", "name": "Four", "size": 4}, (b"abcd", b"\0" * 4)),
    Example("enum", {"type": "enum", "name": "Side", "symbols": ["buy", "sell"]}, ("sell", "buy")),
    Example("decimal on bytes or fixed", PRICE, (Decimal("-12.50"), Decimal("0.00"))),
    Example("decimal on bytes or fixed", BIG, (Decimal("9" * 36 + ".99"), Decimal("-0.01"))),
    Example("uuid on string", logical("string", "uuid"), (UUID.upper(), UUID)),
    Example("uuid on fixed(16)", ID, (UUID, UUID)),
    Example("date", logical("int", "date"), (-1, 20_000)),
    Example("time-millis, time-micros", logical("int", "time-millis"), (86_399_999_000, 0)),
    Example("time-millis, time-micros", logical("long", "time-micros"), (86_399_999_999, 1)),
    Example("timestamp-millis, timestamp-micros", logical("long", "timestamp-millis"), (-1_000, 10**15)),
    Example("timestamp-millis, timestamp-micros", logical("long", "timestamp-micros"), (-1, 10**15 + 1)),
    Example(
        "local-timestamp-millis, local-timestamp-micros", logical("long", "local-timestamp-millis"), (-1_000, 10**15)
    ),
    Example("local-timestamp-millis, local-timestamp-micros", logical("long", "local-timestamp-micros"), (-1, 10**15)),
    Example("timestamp-nanos, local-timestamp-nanos", logical("long", "timestamp-nanos"), (-1, 10**18 + 1)),
    Example("timestamp-nanos, local-timestamp-nanos", logical("long", "local-timestamp-nanos"), (-1, 10**18)),
    Example("duration", ["null", SPAN], ({"months": 1, "days": 2, "milliseconds": 2**32 - 1}, None)),
    Example("record", NESTED, ({"inner": {"items": [{"x": 1}, None]}}, {"inner": {"items": []}})),
    Example("record without fields, fixed of no bytes", ["null", record("Nothing")], (True, None)),
    Example("record without fields, fixed of no bytes", {"type": "fixed", "name": "Zero", "size": 0}, (True, True)),
    Example("record", record("Nulls", n="null"), ({"n": None}, {"n": None})),
    Example("array", {"type": "array", "items": "null"}, ([None, None], [])),
    Example("map", {"type": "map", "values": ["null"]}, ([("a", None)], [])),
    Example("array", {"type": "array", "items": {"type": "array", "items": "string"}}, ([["a"], []], [])),
    Example("map", {"type": "map", "values": ["null", "long"]}, ([("b", 1), ("a", None)], [])),
    Example("union of null and a type", ["long", "null"], (5, None)),
    Example("union of several types", ["null", "long", "string", record("Leg", x="int")], ({"Leg": {"x": 1}}, None)),
    Example("union of several types", ["int", {"type": "map", "values": "int"}], ({"map": [("a", 1)]}, {"int": 1})),
    Example(
        "record inside itself", NODE, ({"value": 1, "next": {"value": 2, "next": None}}, {"value": 3, "next": None})
    ),
    Example("null", "null", (None, None)),
]


def rows_of_table(heading: str) -> list[list[str]]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:3] == "| `"] + [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| union")
    ]


def told(kind: IcebergType) -> str:
    """An Iceberg type as the page writes it."""
    match kind:
        case StructType() if [field.name for field in kind.fields] == ["months", "days", "milliseconds"]:
            return f"struct<{', '.join(f'{field.name}: {field.field_type}' for field in kind.fields)}>"
        case StructType() if [field.name for field in kind.fields] == ["value", "next"]:
            return told(kind.fields[1].field_type)  # the record inside itself
        case StructType():
            return "struct<…>"
        case ListType():
            return "list<…>"
        case MapType():
            return "map<string, …>"
    return re.sub(r"^decimal\(\d+, \d+\)$", "decimal(p, s)", re.sub(r"^fixed\[\d+\]$", "fixed[n]", str(kind)))


def test_every_avro_type_is_the_documented_column_and_reads_back_equal(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path
) -> None:
    schema = record("Top", **{f"f{k}": example.schema for k, example in enumerate(EXAMPLES)})
    tree = parse(json.dumps(schema), "test")
    header = b"\0" + registry.register("types-value", json.dumps(schema)).to_bytes(4, "big")
    values = [{f"f{k}": example.values[n] for k, example in enumerate(EXAMPLES)} for n in (0, 1)]
    writer = Writer(random.Random(1), records(tree))
    broker.create("types", 1)
    messages = [header + writer.write(tree, value) for value in values]
    flipped = b"\0\xff" + messages[0][2:]
    produce(producer_of(broker.bootstrap_servers), "types", [*messages, messages[0][:-1], flipped, *messages])
    site = Site(
        tmp_path,
        command_line,
        configuration(broker.bootstrap_servers, registry.url, [{"topics": ["types"], "table": "all.types"}]),
    )
    site.catch_up()

    table = site.catalog().load_table("all.types")
    columns = {field.name: told(field.field_type) for field in table.schema().fields}
    assert columns == {
        f"f{k}": cell for k, example in enumerate(EXAMPLES) if (cell := documented()[example.told]) is not None
    }
    required = {field.name for field in table.schema().fields if field.required}
    assert required == {f"f{k}" for k, e in enumerate(EXAMPLES) if "null" not in e.schema}

    expecting = Expecting(records(tree))
    expected = [
        {name: one for name, one in expecting.of(tree, value).items() if name in columns}
        for value in (*values, *values)
    ]
    for found in (site.scanned("all.types"), site.held("all.types")):
        batch = found.select(list(columns)).combine_chunks()
        arrays = [plain(batch.column(k).combine_chunks()) for k in range(batch.num_columns)]
        assert [dict(zip(columns, row, strict=True)) for row in zip(*arrays, strict=True)] == expected
    letters = site.catalog().load_table("all.types__dead_letters").scan().to_arrow()
    assert sorted(letters["code"].to_pylist()) == ["truncated", "unknown-schema-id"]
    site.verified()
    against = site.run("verify", "--against-source")
    assert against.code == 0, against.out + against.err
    assert "4 compared" in against.out


def documented() -> dict[str, str | None]:
    """The first table of the page: type to column; None where there is none."""
    found: dict[str, str | None] = {}
    for kind, cell, _ in rows_of_table("Types"):
        column = {"that type, optional": "long", "no column": None}.get(cell, cell.strip("`"))
        found[kind.replace("`", "")] = column
    return found


def test_the_page_lists_every_type_that_has_an_example_and_every_logical_type() -> None:
    assert set(documented()) == {example.told for example in EXAMPLES}
    kinds = {name for cell in documented() for name in re.findall(r"[a-z0-9-]+", cell)}
    assert set(LOGICAL.values()) <= kinds


def test_the_page_lists_every_code_and_what_it_means() -> None:
    listed = {code.strip("`"): meaning for code, meaning in rows_of_table("Codes of rejects")}
    assert listed == {**CODES, **dict(FAILURES)}
