"""The rules of docs/schema-evolution.md, one by one, and every pair of types."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.name_mapping import parse_mapping_from_json
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import LongType, NestedField

from lakeward.admission import null_rows
from lakeward.errors import SchemaMismatchError, UnfitRowsError
from lakeward.sinks.iceberg.evolution import Growth, Shape, grow
from lakeward.sinks.iceberg.naming import former_names, name_mapping
from lakeward.sinks.iceberg.schema import conform

PAGE = (Path(__file__).parents[3] / "docs" / "schema-evolution.md").read_text(encoding="utf-8")
TYPES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "decimal(10, 2)": pa.decimal128(10, 2),
    "decimal(12, 2)": pa.decimal128(12, 2),
    "decimal(12, 3)": pa.decimal128(12, 3),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "string": pa.string(),
    "binary": pa.binary(),
    "fixed[16]": pa.binary(16),
    "fixed[8]": pa.binary(8),
    "uuid": pa.uuid(),
}
PLACES = {
    "a column": (lambda kind: kind, "x"),
    "a struct": (lambda kind: pa.struct([("y", pa.string()), ("m", kind)]), "x.m"),
    "a list": (lambda kind: pa.list_(pa.field("element", kind)), "x.element"),
    "a map": (lambda kind: pa.map_(pa.string(), kind), "x.value"),
    "structs in a list in a map": (
        lambda kind: pa.map_(pa.string(), pa.list_(pa.field("element", pa.struct([("m", kind)])))),
        "x.value.element.m",
    ),
}


def rules() -> dict[tuple[str, str], str]:
    """The page's table of types."""
    section = PAGE.split("Types, from the table's to the records':")[1].split("\nSo these")[0]
    rows = re.findall(r"^\| `?([^|`]+)`? \| `?([^|`]+)`? \| (\w+) \|$", section, re.MULTILINE)
    return {(table.strip(), records.strip()): what for table, records, what in rows}


def field(name: str, kind: pa.DataType, *aliases: str, nullable: bool = True) -> pa.Field:
    told = {b"lakeward.aliases": json.dumps(aliases).encode()} if aliases else None
    return pa.field(name, kind, nullable, told)


def shape(*fields: pa.Field | tuple[str, pa.DataType]) -> Shape:
    return grow(Shape(), pa.schema(list(fields))).shape


def after(start: Shape, *fields: pa.Field | tuple[str, pa.DataType], nulls: bool = False) -> Growth:
    return grow(start, pa.schema(list(fields)), lambda _: nulls)


def ids(grown: Growth | Shape) -> dict[str, int]:
    schema = grown.schema if isinstance(grown, Shape) else grown.shape.schema
    return {schema.find_column_name(number) or "": number for number in sorted(schema.field_ids)}


def test_the_page_names_what_is_tested_here() -> None:
    told = rules()
    assert told.pop(("any", "the same")) == "fits"
    assert told.pop(("any", "any other")) == "rejected"
    assert len(told) == 6
    assert {one for pair in told for one in pair} <= TYPES.keys()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("table", TYPES)
def test_each_type_meets_each_other_as_the_page_says(table: str, place: str) -> None:
    at, path = PLACES[place]
    start = shape(("x", at(TYPES[table])))
    for records, held in TYPES.items():
        what = rules().get((table, records), "fits" if table == records else "rejected")
        if (table, records) == ("uuid", "fixed[16]"):
            what = "fits"  # sixteen bytes are what a uuid is
        if what == "rejected":
            with pytest.raises(UnfitRowsError) as caught:
                after(start, ("x", at(held)))
            assert f'column "{path}" holds {records}, the table stores {table}' in caught.value.what
            continue
        grown = after(start, ("x", at(held)))
        assert bool(grown.changes) == (what == "widened")
        assert ids(grown) == ids(start)
        assert str(grown.shape.schema.find_type(path)) == (records if what == "widened" else table)
        assert after(grown.shape, ("x", at(TYPES[table]))).changes == ()


@pytest.mark.parametrize("place", PLACES)
def test_a_struct_a_list_and_a_text_never_become_one_another(place: str) -> None:
    at, path = PLACES[place]
    kinds = {"struct": pa.struct([("a", pa.int32())]), "list": pa.list_(pa.int32()), "string": pa.string()}
    kinds["map"] = pa.map_(pa.string(), pa.int32())
    for (table, stored), (records, held) in itertools.permutations(kinds.items(), 2):
        with pytest.raises(UnfitRowsError, match=f'column "{path}" holds {records}, the table stores {table}'):
            after(shape(("x", at(stored))), ("x", at(held)))


def test_a_new_field_becomes_an_optional_column_with_the_next_id_at_any_depth() -> None:
    inner = pa.struct([("a", pa.int32())])
    start = shape(("n", pa.int64()), ("s", inner), ("l", pa.list_(inner)), ("m", pa.map_(pa.string(), inner)))
    more = pa.struct([("a", pa.int32()), field("b", pa.string(), nullable=False)])
    grown = after(
        start,
        ("n", pa.int64()),
        ("s", more),
        ("l", pa.list_(more)),
        ("m", pa.map_(pa.string(), more)),
        field("new", pa.struct([field("c", pa.list_(field("element", pa.int8(), nullable=False)))]), nullable=False),
    )
    added = {path: number for path, number in ids(grown).items() if path not in ids(start)}
    assert list(added) == ["s.b", "l.element.b", "m.value.b", "new", "new.c", "new.c.element"]
    assert list(added.values()) == list(range(start.last_id + 1, start.last_id + 7))
    assert grown.shape.last_id == start.last_id + 6
    assert not any(grown.shape.schema.find_field(number).required for number in added.values())
    assert grown.changes[0] == '"s.b" is added: string'


def test_a_new_table_keeps_what_its_first_records_require() -> None:
    made = shape(field("n", pa.int64(), nullable=False), ("x", pa.struct([field("y", pa.int8(), nullable=False)])))
    assert [made.schema.find_field(path).required for path in ("n", "x", "x.y")] == [True, False, True]


def test_a_field_that_is_gone_keeps_its_column_which_is_not_required_any_more() -> None:
    start = shape(field("a", pa.int64(), nullable=False), ("b", pa.struct([field("c", pa.int8(), nullable=False)])))
    grown = after(start, ("b", pa.struct([("d", pa.int8())])))
    assert ids(grown).items() >= ids(start).items()
    assert not grown.shape.schema.find_field("a").required
    assert not grown.shape.schema.find_field("b.c").required
    assert '"a" becomes optional' in grown.changes


def test_a_column_stays_required_until_a_null_comes() -> None:
    start = shape(
        field("n", pa.int64(), nullable=False), ("m", pa.map_(pa.string(), field("value", pa.int8(), nullable=False)))
    )
    records = ("n", pa.int64()), ("m", pa.map_(pa.string(), pa.int8()))
    grown = after(start, *records)
    assert grown.changes == ()
    assert [(one.path, one.relaxable) for one in grown.required] == [(("n",), True), (("m", "value"), True)]
    assert after(start, *records, nulls=True).changes == ('"n" becomes optional', '"m.value" becomes optional')


def test_the_order_of_fields_says_nothing() -> None:
    start = shape(("a", pa.int64()), ("b", pa.struct([("c", pa.int8()), ("d", pa.int8())])))
    grown = after(start, ("b", pa.struct([("d", pa.int8()), ("c", pa.int8())])), ("a", pa.int64()))
    assert grown.shape == start


def test_a_field_that_can_only_be_null_changes_nothing() -> None:
    start = shape(("a", pa.int64()))
    assert after(start, ("a", pa.null()), ("b", pa.null())).shape == start
    assert after(shape(field("a", pa.int64(), nullable=False)), ("a", pa.null())).changes == ('"a" becomes optional',)
    with pytest.raises(UnfitRowsError, match="no column that holds a value"):
        after(Shape(), ("a", pa.null()))


def test_a_rename_keeps_the_id_and_older_writers_find_the_column() -> None:
    start = shape(("n", pa.int64()), ("s", pa.list_(pa.struct([("old", pa.int32())]))))
    grown = after(start, field("key", pa.int64(), "n"), ("s", pa.list_(pa.struct([field("new", pa.int64(), "old")]))))
    assert ids(grown) == {"key": 1, "s": 2, "s.element": 3, "s.element.new": 4}
    assert grown.shape.former == {1: ("n",), 4: ("old",)}
    assert after(grown.shape, ("n", pa.int32()), ("s", pa.list_(pa.struct([("old", pa.int16())])))).shape == grown.shape
    rows = pa.table({"n": [7], "s": [[{"old": 8}]]})
    assert conform(rows, grown.shape.schema, grown.shape.former).to_pylist() == [{"key": 7, "s": [{"new": 8}]}]


def test_versions_may_come_in_any_order() -> None:
    versions = [[field("a", pa.int32())], [field("b", pa.int32(), "a")], [field("c", pa.int64(), "a", "b")]]
    for order in itertools.permutations(versions):
        start = shape(("n", pa.int64()))
        for version in order:
            start = after(start, ("n", pa.int64()), *version).shape
        assert len(start.schema.fields) == 2, order
        last = start.schema.fields[1]
        assert (last.name, last.field_type, set(start.former[2])) == ("c", LongType(), {"a", "b"})


def test_an_alias_of_the_first_records_is_remembered() -> None:
    start = shape(field("new", pa.int64(), "old"), ("s", pa.struct([field("x", pa.int8(), "y")])))
    assert start.former == {1: ("old",), 3: ("y",)}
    assert after(start, ("old", pa.int64())).changes == ()


@pytest.mark.parametrize(
    ("columns", "records", "says"),
    [
        pytest.param(
            [("old", pa.int64()), ("older", pa.int64())],
            [field("new", pa.int64(), "old", "older")],
            '"new" is no rename: its aliases name "old", "older"',
            id="aliases of two columns",
        ),
        pytest.param(
            [("old", pa.int64())],
            [field("new", pa.int64(), "old"), ("old", pa.int64())],
            '"new" is added: long',
            id="the old name is still there",
        ),
        pytest.param([("old", pa.int64())], [field("new", pa.int64())], '"new" is added: long', id="no alias"),
    ],
)
def test_what_may_be_another_field_is_a_new_column(columns: Any, records: Any, says: str) -> None:
    start = shape(*columns)
    grown = after(start, *records)
    assert says in grown.changes
    assert ids(grown) == {**ids(start), "new": start.last_id + 1}


def test_a_rename_that_would_change_values_is_rejected() -> None:
    with pytest.raises(UnfitRowsError, match='column "new" holds string, the table stores long'):
        after(shape(("old", pa.int64())), field("new", pa.string(), "old"))


def test_two_former_names_of_one_column_in_one_record_are_rejected() -> None:
    start = after(shape(("a", pa.int8())), field("c", pa.int8(), "a", "b")).shape
    with pytest.raises(UnfitRowsError, match='"a" and "b", both of them names that "c" had'):
        after(start, ("a", pa.int8()), ("b", pa.int8()))


def test_a_new_column_takes_over_a_former_name() -> None:
    start = after(shape(("old", pa.int8())), field("new", pa.int8(), "old")).shape
    grown = after(start, ("new", pa.int8()), ("old", pa.string()))
    assert ids(grown) == {"new": 1, "old": 2}
    assert grown.shape.former == {}
    assert after(grown.shape, ("old", pa.string())).changes == ()


def test_keys_of_maps_never_change() -> None:
    start = shape(("m", pa.map_(pa.struct([("a", pa.int32())]), pa.int8())), ("k", pa.map_(pa.int64(), pa.int8())))
    assert after(start, ("k", pa.map_(pa.int32(), pa.int8()))).changes == ()
    for key in (pa.int64(), pa.string()):
        with pytest.raises(UnfitRowsError, match=r'column "m\.key" holds'):
            after(start, ("m", pa.map_(key, pa.int8())))
    for inside in ([("a", pa.int64())], [("a", pa.int32()), ("b", pa.int32())]):
        with pytest.raises(UnfitRowsError, match=r'column "m\.key".*can not change'):
            after(start, ("m", pa.map_(pa.struct(inside), pa.int8())))


def test_no_column_takes_the_name_of_a_partition_field() -> None:
    schema = Schema(NestedField(1, "at", LongType()), NestedField(2, "region", LongType()))
    spec = PartitionSpec(
        PartitionField(1, 1000, DayTransform(), "at_day"), PartitionField(2, 1001, IdentityTransform(), "region")
    )
    start = Shape(schema, {}, 2, (spec,))
    assert after(start, ("region", pa.int64())).changes == ()
    with pytest.raises(UnfitRowsError, match='column "at_day" has the name of a partition field'):
        after(start, ("at_day", pa.int8()))
    renamed = after(start, field("area", pa.int64(), "region")).shape
    with pytest.raises(UnfitRowsError, match='column "region" has the name of a partition field'):
        after(renamed, ("area", pa.int64()), ("region", pa.int8()))
    assert after(start, ("x", pa.struct([("at_day", pa.int8())]))).changes == ('"x" is added: struct',)


def test_an_identifier_field_stays_required() -> None:
    start = Shape(Schema(NestedField(1, "id", LongType(), required=True), identifier_field_ids=[1]), {}, 1)
    assert [(one.path, one.relaxable) for one in after(start, ("id", pa.int64())).required] == [(("id",), False)]
    for records, nulls in (([("other", pa.int8())], False), ([("id", pa.int64())], True), ([("id", pa.null())], False)):
        with pytest.raises(UnfitRowsError, match='"id" is an identifier field'):
            after(start, *records, nulls=nulls)
    assert after(start, field("key", pa.int64(), "id", nullable=False)).shape.schema.identifier_field_names() == {"key"}


def test_names_twice_and_types_that_iceberg_lacks_are_rejected_by_name() -> None:
    start = shape(("a", pa.int64()), ("s", pa.struct([("b", pa.int8())])))
    for records, says in (
        ([("a", pa.int64()), ("a", pa.int64())], 'two columns are named "a"'),
        ([("s", pa.struct([("b", pa.int8()), ("b", pa.int8())]))], 'two columns are named "b" in "s"'),
        ([("t", pa.struct([("c", pa.duration("s"))]))], 'column "t.c" has the Arrow type duration'),
        ([("a", pa.duration("s"))], 'column "a" holds duration[s], the table stores long'),
    ):
        with pytest.raises(SchemaMismatchError, match=re.escape(says)):
            after(start, *records)


def test_former_names_survive_in_the_property_with_what_others_keep_there() -> None:
    start = after(
        shape(("a", pa.int8()), ("s", pa.list_(pa.struct([("x", pa.int8())]))), ("m", pa.map_(pa.string(), pa.int8()))),
        field("b", pa.int8(), "a"),
        ("s", pa.list_(pa.struct([field("y", pa.int8(), "x")]))),
    ).shape
    text = name_mapping(start.schema, start.former, None)
    mapping = parse_mapping_from_json(text)
    assert former_names(mapping, start.schema) == start.former
    gone = Schema(*(one for one in start.schema.fields if one.name != "b"))
    kept = parse_mapping_from_json(name_mapping(gone, {}, mapping))
    assert {one.field_id for one in kept} == {one.field_id for one in mapping}
    taken = shape(("a", pa.int8())).schema
    assert former_names(mapping, taken) == {1: ("b",)}


def test_rows_that_leave_null_what_is_required_are_found_at_any_depth() -> None:
    inner = pa.struct([("v", pa.int64())])
    rows = pa.table(
        {
            "a": pa.array([1, None, 3, 4]),
            "s": pa.array([{"v": None}, {"v": 1}, None, {"v": None}], inner),
            "l": pa.array([[{"v": 1}, {"v": None}], [], None, [None, {"v": 2}]], pa.list_(inner)),
            "m": pa.array([[("k", 1)], None, [("k", 1), ("j", None)], []], pa.map_(pa.string(), pa.int64())),
        }
    )
    found = {
        ".".join(path): null_rows(rows, path).tolist()
        for path in [("a",), ("s", "v"), ("l", "element"), ("l", "element", "v"), ("m", "value"), ("m", "key")]
    }
    assert found == {
        "a": [False, True, False, False],
        "s.v": [True, False, False, True],
        "l.element": [False, False, False, True],
        "l.element.v": [True, False, False, False],
        "m.value": [False, False, True, False],
        "m.key": [False] * 4,
    }
    sliced = rows.slice(1, 3)
    for path, mask in found.items():
        assert null_rows(sliced, tuple(path.split("."))).tolist() == mask[1:]
