"""Hashes of keys: equal where the keys are, whatever holds them, and different in all other cases."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward import keys
from lakeward.keys import hashes

WORD = (1 << 64) - 1
NAN = float("nan")
EXACT = Context(prec=38)
MOMENT = dt.datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=dt.UTC)


def hashed(values: list[Any], kind: pa.DataType) -> list[tuple[int, int]]:
    return of(pa.array(values, kind))


def of(*columns: pa.Array | pa.ChunkedArray) -> list[tuple[int, int]]:
    table = pa.table(list(columns), names=[f"k{at}" for at in range(len(columns))])
    return [(int(a), int(b)) for a, b in hashes(table)]


def reference(words: list[int]) -> tuple[int, int]:
    """SipHash-1-3 with 128 bits of output, as its authors have it, over whole words and without the length word."""

    def turn(word: int, by: int) -> int:
        return (word << by | word >> (64 - by)) & WORD

    def rounds(times: int) -> None:
        for _ in range(times):
            v[0] = (v[0] + v[1]) & WORD
            v[2] = (v[2] + v[3]) & WORD
            v[1], v[3] = turn(v[1], 13) ^ v[0], turn(v[3], 16) ^ v[2]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[1]) & WORD
            v[0] = (v[0] + v[3]) & WORD
            v[1], v[3] = turn(v[1], 17) ^ v[2], turn(v[3], 21) ^ v[0]
            v[2] = turn(v[2], 32)

    k0, k1 = (int(word) for word in keys._SEED)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    v[1] ^= 0xEE
    for word in words:
        v[3] ^= word
        rounds(1)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(3)
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(3)
    return first, v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_hash_is_siphash_over_the_values_as_words():
    assert hashed([7, -1], pa.int64()) == [reference([7]), reference([WORD])]
    text = b"twelve bytes"
    words = [len(text), int.from_bytes(text[:8], "little"), int.from_bytes(text[8:], "little")]
    assert hashed([text.decode()], pa.string()) == [reference(words)]
    assert of(pa.array([5]), pa.array(["é"])) == [reference([5, 2, int.from_bytes("é".encode(), "little")])]


@pytest.mark.parametrize(
    ("values", "narrow", "wide"),
    [
        ([-5, 0, 127], pa.int8(), pa.int64()),
        ([-5, 0, 2**31 - 1], pa.int32(), pa.int64()),
        ([0, 2**32 - 1], pa.uint32(), pa.int64()),
        ([0.1, -2.5, float("inf")], pa.float32(), pa.float64()),
        ([Decimal("1.25"), Decimal("-9.99")], pa.decimal128(3, 2), pa.decimal128(38, 2)),
        ([Decimal("1.25"), Decimal("-9.99")], pa.decimal32(3, 2), pa.decimal128(20, 2)),
        (["", "a", "longer than eight"], pa.string(), pa.large_string()),
        (["", "a", "longer than eight"], pa.string(), pa.string_view()),
        ([b"", b"a\0"], pa.binary(), pa.large_binary()),
        (["a", "b", "a"], pa.string(), pa.dictionary(pa.int32(), pa.string())),
        ([MOMENT], pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")),
        ([MOMENT.date()], pa.date32(), pa.date64()),
        ([MOMENT.time()], pa.time64("us"), pa.time64("ns")),
        ([[1, 2], []], pa.list_(pa.int32()), pa.large_list(pa.int64())),
        ([{"a": 1}], pa.struct({"a": pa.int32()}), pa.struct({"a": pa.int64()})),
    ],
)
def test_a_value_hashes_the_same_after_its_column_was_widened(values, narrow, wide):
    array = pa.array(values, narrow)
    assert of(array) == of(array.cast(wide))
    assert len(set(of(array))) == len(set(map(repr, values)))


def test_a_uuid_hashes_as_its_bytes():
    raw = [bytes(range(16)), bytes(16)]
    storage = pa.array(raw, pa.binary(16))
    assert of(pa.ExtensionArray.from_storage(pa.uuid(), storage)) == of(storage) == hashed(raw, pa.binary())


def test_both_zeros_are_one_key_and_all_nans_another():
    odd = np.array([0x7FF8000000000001, 0xFFF8000000000000], np.uint64).view(np.float64)
    zero, minus, nan, *others = of(pa.array(np.concatenate([[0.0, -0.0, NAN], odd])))
    assert zero == minus != nan
    assert others == [nan, nan]


def test_a_decimal_of_more_than_38_digits_keeps_all_of_them():
    big = 10**60
    one, other, small = hashed([Decimal(big), Decimal(big + 1), Decimal(5)], pa.decimal256(70, 0))
    assert len({one, other, small}) == 3


def test_the_columns_of_a_key_do_not_run_into_each_other():
    left, right = pa.array(["a", "ab", "", "abc"]), pa.array(["bc", "c", "abc", ""])
    assert len(set(of(left, right))) == 4
    assert of(left, right) != of(right, left)


def test_chunks_and_slices_make_no_difference():
    table = pa.table({"i": pa.array(range(100)), "t": [f"{n}" * (n % 20) for n in range(100)]})
    cut = pa.concat_tables([table.slice(n, 7) for n in range(0, 100, 7)])
    assert np.array_equal(hashes(cut), hashes(table))
    for name in ("b", "d", "f", "l", "s"):
        column = {
            "b": pa.array([n % 2 == 0 for n in range(100)]),
            "d": pa.array([Decimal(n) for n in range(100)], pa.decimal128(10, 0)),
            "f": pa.array([bytes([n]) * 5 for n in range(100)], pa.binary(5)),
            "l": pa.array([[n] * (n % 3) for n in range(100)]),
            "s": pa.array([{"x": n, "y": None} for n in range(100)]),
        }[name]
        assert of(column)[13:57] == of(column.slice(13, 44))


def test_more_rows_than_are_hashed_at_once_are_hashed_alike():
    rows = keys._BLOCK * 2 + 17
    found = hashes(pa.table({"k": np.arange(rows)}))
    assert len(np.unique(found[:, 0])) == len(np.unique(found[:, 1])) == rows
    assert np.array_equal(found[-5:], hashes(pa.table({"k": np.arange(rows - 5, rows)})))


def test_nested_values_differ_where_anything_in_them_does():
    kind = pa.struct({"a": pa.list_(pa.string()), "b": pa.int64()})
    values = [
        {"a": ["x", "y"], "b": 1},
        {"a": ["xy"], "b": 1},
        {"a": [], "b": 1},
        {"a": None, "b": 1},
        {"a": [None], "b": 1},
        {"a": [""], "b": 1},
        {"a": ["x", "y"], "b": None},
        {"a": ["x", "y"], "b": 0},
    ]
    assert len(set(hashed(values, kind))) == len(values)
    assert hashed(values, kind) == hashed(values, kind)


def test_maps_of_the_same_entries_are_one_key_in_whatever_order():
    kind = pa.map_(pa.string(), pa.int64())
    one, same, other, none, twice = hashed(
        [[("a", 1), ("b", 2)], [("b", 2), ("a", 1)], [("a", 2), ("b", 1)], [], [("a", 1), ("b", 2), ("b", 2)]], kind
    )
    assert one == same
    assert len({one, other, none, twice}) == 4


def test_what_lies_under_a_null_inside_a_key_does_not_count():
    inner = pa.array([1, 2, 3])
    one = pa.StructArray.from_arrays(
        [pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(b"\x05"), inner.buffers()[1]])], ["x"]
    )
    other = pa.array([{"x": 1}, {"x": None}, {"x": 3}])
    assert of(one) == of(other)


def test_no_rows_have_no_hashes():
    for kind in (pa.int64(), pa.string(), pa.binary(4), pa.list_(pa.int32()), pa.decimal128(4, 1)):
        assert hashed([], kind) == []


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.float32(), pa.struct({"a": pa.int32()}), pa.null()])
def test_a_null_is_no_key(kind):
    with pytest.raises(ValueError, match='column "k0" of a key holds 1 nulls'):
        hashed([None], kind)


def test_a_time_that_is_no_whole_microsecond_is_no_key_and_is_not_told():
    with pytest.raises(ValueError, match="no whole microsecond") as caught:
        hashed([1_234_567_891], pa.timestamp("ns"))
    assert "1234567891" not in str(caught.value)


def test_a_type_without_equality_is_no_key():
    with pytest.raises(ValueError, match="cannot have values of type"):
        of(pa.array([pa.MonthDayNano([1, 2, 3])]))


def test_a_key_has_columns():
    with pytest.raises(ValueError, match="at least one column"):
        hashes(pa.table({}))


def test_another_process_has_other_hashes():
    program = "import pyarrow as pa; from lakeward.keys import hashes; print(hashes(pa.table({'k': [7]})).tolist())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert answer.strip() != str([list(pair) for pair in hashed([7], pa.int64())])


SCALARS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    pa.string(): st.text("ab\0é", max_size=20),
    pa.binary(): st.binary(max_size=20),
    pa.bool_(): st.booleans(),
    pa.float64(): st.floats(allow_nan=False) | st.integers(-3, 3).map(float),
    pa.decimal128(38, 3): st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(n).scaleb(-3, EXACT)),
    pa.list_(pa.int32()): st.lists(st.none() | st.integers(-1, 2), max_size=3),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_hash_alike_exactly_where_they_are_equal(data):
    kinds = data.draw(st.lists(st.sampled_from(list(SCALARS)), min_size=1, max_size=3))
    rows = data.draw(st.lists(st.tuples(*(SCALARS[kind] for kind in kinds)), min_size=1, max_size=12))
    columns = [pa.array([row[at] for row in rows], kind) for at, kind in enumerate(kinds)]
    found = of(*columns)
    plain = [tuple(tuple(value) if isinstance(value, list) else value for value in row) for row in rows]
    for one in range(len(rows)):
        for other in range(one):
            assert (found[one] == found[other]) == (plain[one] == plain[other])
