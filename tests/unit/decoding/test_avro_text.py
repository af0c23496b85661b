"""Records inside themselves: what the text of their column says, and how deep they are read."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import pytest
from tests.property.avro_topics import Writer

from lakeward.decoding.avro_reader import MOST_LEVELS, DamagedError, RecordReader
from lakeward.decoding.avro_schema import parse
from lakeward.decoding.avro_types import Record, records

INF, NAN = float("inf"), float("nan")


def node(kind: Any) -> Record:
    """A list whose nodes hold a ``value`` of ``kind``."""
    fields = [{"name": "value", "type": kind}, {"name": "next", "type": ["null", "Node"]}]
    return parse(json.dumps({"type": "record", "name": "Node", "fields": fields}), "test")


def read(schema: Record, row: dict[str, Any]) -> list[Any]:
    payload = Writer(random.Random(1), records(schema)).write(schema, row)
    return RecordReader(schema).read(b"head" + payload, 4)


def logical(base: str, kind: str) -> dict[str, str]:
    return {"type": base, "logicalType": kind}


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("null", None, "null"),
        ("boolean", True, "true"),
        ("int", -5, "-5"),
        ("long", 2**63 - 1, "9223372036854775807"),
        ("double", 0.1, "0.1"),
        ("double", -0.0, "-0.0"),
        ("double", NAN, '"NaN"'),
        ("float", -INF, '"-Infinity"'),
        ("double", INF, '"Infinity"'),
        ("string", 'grün "\n', '"grün \\"\\n"'),
        ("bytes", b"\0\xff", '"AP8="'),
        ({"type": "fixed", "name": "F", "size": 3}, b"abc", '"YWJj"'),
        ({"type": "enum", "name": "E", "symbols": ["a", "b"]}, "b", '"b"'),
        ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, Decimal("-12.50"), '"-12.50"'),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 38},
            Decimal("1E-38"),
            f'"0.{"0" * 37}1"',
        ),
        (logical("string", "uuid"), "6f1c2ab0-0000-4000-8000-0123456789AB", '"6f1c2ab0-0000-4000-8000-0123456789AB"'),
        (
            {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"},
            "6f1c2ab0-0000-4000-8000-0123456789ab",
            '"6f1c2ab0-0000-4000-8000-0123456789ab"',
        ),
        (
            {"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"},
            {"months": 1, "days": 0, "milliseconds": 2**32 - 1},
            '{"months":1,"days":0,"milliseconds":4294967295}',
        ),
        (logical("int", "date"), -1, '"1969-12-31"'),
        (logical("int", "date"), 10_000_000, '"29349-01-26"'),
        (logical("int", "time-millis"), 34_200_123_000, '"09:30:00.123000"'),
        (logical("long", "time-micros"), 86_399_000_000, '"23:59:59"'),
        (logical("long", "timestamp-millis"), -1_000, '"1969-12-31T23:59:59.999000Z"'),
        (logical("long", "timestamp-micros"), 0, '"1970-01-01T00:00:00Z"'),
        (logical("long", "timestamp-micros"), -(2**63), '"-290308-12-21T19:59:05.224192Z"'),
        (logical("long", "local-timestamp-micros"), 1, '"1970-01-01T00:00:00.000001"'),
        (logical("long", "timestamp-nanos"), 1, "1"),
        ({"type": "array", "items": "int"}, [1, 2], "[1,2]"),
        ({"type": "map", "values": "int"}, [("b", 1), ("a", 2)], '{"b":1,"a":2}'),
        (["null", "int"], None, "null"),
        (["null", "int"], 5, "5"),
        (["null", "int", "string"], None, "null"),
        (["null", "int", "string"], {"string": "x"}, '{"string":"x"}'),
        ({"type": "record", "name": "Nothing", "fields": []}, True, "{}"),
        ({"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]}, {"x": 1}, '{"x":1}'),
    ],
)
def test_each_type_has_its_json(kind: Any, value: Any, text: str) -> None:
    inner = {"value": value, "next": None}
    _, found = read(node(kind), {"value": value, "next": inner})
    assert found == f'{{"value":{text},"next":null}}'
    json.loads(found)


def test_the_outer_record_is_columns_and_all_levels_below_are_one_text() -> None:
    row: dict[str, Any] = {"value": 3, "next": {"value": 2, "next": {"value": 1, "next": None}}}
    assert read(node("int"), row) == [3, '{"value":2,"next":{"value":1,"next":null}}']
    assert read(node("int"), {"value": 3, "next": None}) == [3, None]


def test_records_may_hold_one_another_in_turn() -> None:
    pair = {
        "type": "record",
        "name": "A",
        "fields": [
            {
                "name": "b",
                "type": {"type": "record", "name": "B", "fields": [{"name": "back", "type": ["null", "A"]}]},
            },
            {"name": "more", "type": {"type": "array", "items": "B"}},
        ],
    }
    schema = parse(json.dumps(pair), "test")
    inner = {"b": {"back": None}, "more": []}
    # The second use of B is outside the first, and an A inside A: text from there on.
    assert read(schema, {"b": {"back": inner}, "more": [{"back": inner}]}) == [
        {"back": '{"b":{"back":null},"more":[]}'},
        [{"back": '{"b":{"back":null},"more":[]}'}],
    ]


def test_what_is_too_deep_is_rejected_and_not_run_out_of_stack() -> None:
    schema = node("int")

    def chain(levels: int) -> bytes:
        return b"\2\2" * levels + b"\2\0"

    _, text = RecordReader(schema).read(chain(MOST_LEVELS), 0)
    assert text.count("value") == MOST_LEVELS
    for levels in (MOST_LEVELS + 1, 100_000):
        with pytest.raises(DamagedError) as caught:
            RecordReader(schema).read(chain(levels), 0)
        assert caught.value.code == "too-deep"
        assert caught.value.reason.startswith("field next: ")


def test_a_record_that_can_have_no_end_is_rejected() -> None:
    endless = {"type": "record", "name": "R", "fields": [{"name": "r", "type": "R"}]}
    with pytest.raises(DamagedError) as caught:
        RecordReader(parse(json.dumps(endless), "test")).read(b"", 0)
    assert caught.value.code == "too-deep"
