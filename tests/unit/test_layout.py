from __future__ import annotations

import pytest

from lakeward.layout import Layout, PartitionTerm, SortTerm, parse_partition_term, parse_sort_term


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("symbol", PartitionTerm("identity", None, "symbol", "symbol")),
        ("identity(symbol)", PartitionTerm("identity", None, "symbol", "symbol")),
        ("day(at)", PartitionTerm("day", None, "at", "at_day")),
        (" DAY( at ) AS date ", PartitionTerm("day", None, "at", "date")),
        ("bucket(16, id)", PartitionTerm("bucket", 16, "id", "id_bucket")),
        ("truncate(8,name)", PartitionTerm("truncate", 8, "name", "name_trunc")),
        ("hour(order.placed_at)", PartitionTerm("hour", None, "order.placed_at", "order.placed_at_hour")),
    ],
)
def test_a_partition_term_is_read(text, expected):
    assert parse_partition_term(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "day()",
        "day(1, at)",
        "bucket(id)",
        "bucket(0, id)",
        "bucket(-1, id)",
        "bucket(²,id)",
        "dya(at)",
        "a b",
        "day(at",
    ],
)
def test_a_wrong_partition_term_is_refused(text):
    with pytest.raises(ValueError):
        parse_partition_term(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at", SortTerm("at", descending=False, nulls_first=True)),
        ("at desc", SortTerm("at", descending=True, nulls_first=False)),
        ("at ASC nulls LAST", SortTerm("at", descending=False, nulls_first=False)),
        ("at desc nulls first", SortTerm("at", descending=True, nulls_first=True)),
    ],
)
def test_a_sort_term_is_read_and_nulls_follow_the_direction(text, expected):
    assert parse_sort_term(text) == expected


@pytest.mark.parametrize("text", ["", "at down", "at nulls", "desc at nulls first x", "day(at)"])
def test_a_wrong_sort_term_is_refused(text):
    with pytest.raises(ValueError):
        parse_sort_term(text)


@pytest.mark.parametrize("text", ["bucket(16, id)", "truncate(8, name)", "day(at)", "symbol"])
def test_a_partition_term_is_printed_as_it_is_read(text):
    assert str(parse_partition_term(text)) == text


def test_two_partition_fields_with_one_name_are_refused():
    with pytest.raises(ValueError, match='two partition fields are named "at_day"'):
        Layout.parse(["day(at)", "at as at_day"], [])


def test_a_column_is_sorted_by_once():
    with pytest.raises(ValueError, match='"at" is sorted by twice'):
        Layout.parse([], ["at", "at desc"])
