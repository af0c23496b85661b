from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from lakeward.decoding.avro_arrow import arrow_schema
from lakeward.decoding.avro_program import generate
from lakeward.decoding.avro_schema import parse
from lakeward.errors import SchemaMismatchError


def record(*types: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": f"f{k}", "type": t} for k, t in enumerate(types)]}


def columns(*types: Any) -> pa.Schema:
    return arrow_schema(parse(json.dumps(record(*types)), "test"))


@pytest.mark.parametrize(
    ("avro", "arrow"),
    [
        ("null", pa.null()),
        ("boolean", pa.bool_()),
        ("int", pa.int32()),
        ("long", pa.int64()),
        ("float", pa.float32()),
        ("double", pa.float64()),
        ("string", pa.string()),
        ("bytes", pa.binary()),
        ({"type": "string", "avro.java.string": "String"}, pa.string()),
        ({"type": {"type": "int"}}, pa.int32()),
        ({"type": "fixed", "name": "F", "size": 5}, pa.binary(5)),
        ({"type": "fixed", "name": "F", "size": 0}, pa.bool_()),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, pa.string()),
        ({"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 38}, pa.decimal128(38, 38)),
        ({"type": "fixed", "name": "D", "size": 8, "logicalType": "decimal", "precision": 9}, pa.decimal128(9, 0)),
        ({"type": "int", "logicalType": "date"}, pa.date32()),
        ({"type": "int", "logicalType": "time-millis"}, pa.time64("us")),
        ({"type": "long", "logicalType": "time-micros"}, pa.time64("us")),
        ({"type": "long", "logicalType": "timestamp-millis"}, pa.timestamp("us", "UTC")),
        ({"type": "long", "logicalType": "timestamp-micros"}, pa.timestamp("us", "UTC")),
        ({"type": "long", "logicalType": "timestamp-nanos"}, pa.int64()),
        ({"type": "long", "logicalType": "local-timestamp-millis"}, pa.timestamp("us")),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, pa.timestamp("us")),
        ({"type": "string", "logicalType": "uuid"}, pa.string()),
        ({"type": "fixed", "name": "U", "size": 11, "logicalType": "duration"}, pa.binary(11)),
        ({"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}, pa.string()),
        ({"type": "fixed", "name": "U", "size": 15, "logicalType": "uuid"}, pa.binary(15)),
        ({"type": "map", "values": "long"}, pa.map_(pa.string(), pa.field("value", pa.int64(), nullable=False))),
        (["int", "null", "string"], pa.struct([("int", pa.int32()), ("string", pa.string())])),
        (["null", "R"], pa.string()),
        ({"type": "array", "items": "R"}, pa.list_(pa.field("element", pa.string(), nullable=False))),
        ({"type": "record", "name": "None", "fields": []}, pa.bool_()),
        ({"type": "int", "logicalType": "timestamp-millis"}, pa.int32()),
        ({"type": "string", "logicalType": "made-up"}, pa.string()),
    ],
)
def test_each_avro_type_has_its_arrow_type(avro: Any, arrow: pa.DataType) -> None:
    assert columns(avro, "int").field("f0").type == arrow


def test_only_what_may_be_null_is_nullable_at_every_level() -> None:
    inner = {
        "type": "record",
        "name": "I",
        "fields": [{"name": "x", "type": "int"}, {"name": "y", "type": ["null", "int"]}],
    }
    schema = columns("int", ["int", "null"], ["int"], {"type": "array", "items": ["null", inner]}, ["null"])
    assert [f.nullable for f in schema] == [False, True, False, False, True]
    element = schema.field("f3").type.value_field
    assert element.nullable
    assert [f.nullable for f in element.type] == [False, True]


def test_the_members_of_a_union_are_named_after_its_types() -> None:
    fixed = {"type": "fixed", "size": 2}
    union = [
        "null",
        {"type": "long", "logicalType": "timestamp-millis"},
        {"type": "array", "items": "int"},
        {"type": "map", "values": "int"},
        {**fixed, "name": "a.b.One"},
        {**fixed, "name": "Two", "namespace": "a"},
        {**fixed, "name": "b.Two"},
    ]
    column = columns(union).field("f0")
    assert column.nullable
    assert [member.name for member in column.type] == ["long", "array", "map", "One", "a_Two", "b_Two"]
    assert all(member.nullable for member in column.type)
    assert column.type.field("long").type == pa.timestamp("us", "UTC")


def test_nulls_are_booleans_where_a_table_needs_a_type() -> None:
    inner = {"type": "record", "name": "I", "fields": [{"name": "x", "type": "null"}, {"name": "y", "type": ["null"]}]}
    schema = columns(inner, {"type": "array", "items": "null"}, {"type": "map", "values": ["null"]}, "null")
    assert schema.field("f0").type == pa.struct([("x", pa.bool_()), ("y", pa.bool_())])
    assert schema.field("f1").type == pa.list_(pa.field("element", pa.bool_()))
    assert schema.field("f2").type == pa.map_(pa.string(), pa.bool_())
    assert schema.field("f3").type == pa.null()
    assert columns("null", "null").types == [pa.bool_(), pa.bool_()]


def test_docs_are_kept_at_every_level() -> None:
    inner = {"type": "record", "name": "I", "fields": [{"name": "x", "type": "int", "doc": "grün"}]}
    outer = {"type": "record", "name": "O", "fields": [{"name": "i", "type": inner, "doc": "outer"}]}
    field = arrow_schema(parse(json.dumps(outer), "test")).field("i")
    assert field.metadata == {b"doc": b"outer"}
    assert field.type.field("x").metadata == {b"doc": "grün".encode()}


def test_named_types_are_found_by_name_and_namespace() -> None:
    inner = {"type": "fixed", "name": "Inner", "size": 1}
    schema = {
        "type": "record",
        "name": "Top",
        "namespace": "a.b",
        "fields": [
            {"name": "one", "type": {"type": "enum", "name": "Side", "symbols": ["X"]}},
            {"name": "two", "type": "Side"},
            {"name": "three", "type": "a.b.Side"},
            {"name": "four", "type": {"type": "fixed", "name": "c.Four", "size": 4}},
            {"name": "five", "type": ["null", "c.Four"]},
            {"name": "six", "type": {"type": "record", "name": "c.In", "fields": [{"name": "f", "type": "Four"}]}},
            {"name": "seven", "type": "c.In"},
            {"name": "eight", "type": {"type": "record", "name": "Out", "fields": [{"name": "g", "type": inner}]}},
            {"name": "nine", "type": "Out"},
        ],
    }
    columns = arrow_schema(parse(json.dumps(schema), "test"))
    nested = pa.struct([pa.field("f", pa.binary(4), nullable=False)])
    outer = pa.struct([pa.field("g", pa.binary(1), nullable=False)])
    assert columns.types == [pa.string()] * 3 + [pa.binary(4)] * 2 + [nested] * 2 + [outer] * 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (["int", "string", "int"], r"a union holds int twice at field f0"),
        (["null", "null"], r"a union holds null twice at field f0"),
        ({"type": "fixed", "name": "F", "size": 2**20 + 1}, r"a fixed of more than 1,048,576 bytes at field f0"),
        ({"type": "enum", "name": "E", "symbols": ["\ud800"]}, r"is not valid JSON"),
        ({"type": "map"}, r"type map is not defined at field f0"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 39}, r"a decimal of 39 digits .* at field f0"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 6},
            r"not a valid Avro schema: a decimal",
        ),
        ({"type": "bytes", "logicalType": "decimal"}, r"a decimal needs a precision"),
        ("Nowhere", r"type Nowhere is not defined at field f0"),
        ([], r"a union is empty"),
        ([["null"]], r"holds a union"),
        ({"type": "enum", "name": "E", "symbols": []}, r"type E is incomplete"),
        ({"type": "fixed", "name": "F"}, r"type F is incomplete"),
        ({"name": "x"}, r"a type is expected at field f0"),
        (17, r"a type is expected"),
        ({"type": "fixed", "name": "R", "size": 1}, r"type R is defined twice"),
    ],
)
def test_what_cannot_become_a_column_is_refused_by_name_and_place(kind: Any, message: str) -> None:
    with pytest.raises(SchemaMismatchError, match=message) as caught:
        parse(json.dumps(record(kind)), "schema id 7")
    assert str(caught.value).startswith("schema id 7")
    assert caught.value.way_out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "schema id 7 is not valid JSON"),
        ("[" * 100_000, "schema id 7 is not valid JSON"),
        ('{"type": ["int", "int"]}', "a union holds int twice at field value"),
        ('{"type": {"type": []}}', "a union is empty"),
        ('"String"', "type String is not defined at field value"),
        ('{"type": "record", "name": "R", "fields": []}', "a record without fields"),
        ('{"type": "record", "name": "R", "fields": [{"name": "a"}]}', "no name or no type"),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}',
            "two",
        ),
    ],
)
def test_what_is_no_record_is_refused(text: str, message: str) -> None:
    with pytest.raises(SchemaMismatchError, match=message):
        parse(text, "schema id 7")


def test_a_small_schema_cannot_describe_an_endless_table() -> None:
    kind: Any = "int"
    for level in range(20):  # each level uses the one below twice: a million columns
        fields = [{"name": "a", "type": kind}, {"name": "b", "type": f"L{level - 1}" if level else "int"}]
        kind = {"type": "record", "name": f"L{level}", "fields": fields}
    with pytest.raises(SchemaMismatchError, match="types"):
        parse(json.dumps(kind), "test")
    deep: Any = "int"
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    with pytest.raises(SchemaMismatchError, match="levels"):
        parse(json.dumps(record(deep)), "test")


def test_nothing_that_a_schema_names_enters_the_program() -> None:
    evil = '"""\\n    import os #'
    schema = {
        "type": "record",
        "name": evil,
        "doc": evil,
        "fields": [
            {"name": evil, "type": {"type": "enum", "name": "e" + evil, "symbols": [evil]}, "doc": evil},
            {"name": "b", "type": {"type": "string", "logicalType": evil}},
        ],
    }
    harmless = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
            {"name": "c", "type": "string"},
        ],
    }
    program = generate(parse(json.dumps(schema), "test"))
    assert "import os" not in program.source
    assert program.source == generate(parse(json.dumps(harmless), "test")).source
