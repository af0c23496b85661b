"""`verify` finds the columns of older writers by what the table says that they were called."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from lakeward.testing.lake import Lake, batch, commit
from lakeward.verification.names import CurrentNames


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


def was(name: str, kind: pa.DataType, *aliases: str) -> pa.Field:
    return pa.field(name, kind, True, {b"lakeward.aliases": json.dumps(aliases).encode()})


def test_rows_are_renamed_at_any_depth_and_keep_their_values(lake: Lake) -> None:
    inner = pa.struct([was("y", pa.int64(), "x")])
    schema = pa.schema(
        [was("b", pa.int64(), "a"), ("s", inner), ("l", pa.list_(inner)), ("m", pa.map_(pa.string(), inner))]
    )
    commit(lake.target(), replace(batch(0, 0), parts=[schema.empty_table()]))
    commit(lake.target(), replace(batch(0, 1), parts=[pa.table({"b": [1]}, schema=pa.schema([schema.field("b")]))]))
    commit(lake.target(), replace(batch(1, 1), parts=[schema.empty_table(), pa.Table.from_pylist([{"b": 2}], schema)]))
    older = pa.struct([("z", pa.bool_()), ("x", pa.int32())])
    rows = pa.table(
        {
            "m": pa.array([[("k", {"z": True, "x": 1})], None], pa.map_(pa.string(), older)),
            "l": pa.array([[{"z": None, "x": 2}, None], []], pa.list_(older)),
            "s": pa.array([None, {"z": False, "x": 3}], older),
            "a": [4, 5],
            "else": ["e", None],
        }
    )
    given = CurrentNames(lake.table()).given(rows)
    assert given.to_pylist() == [
        {"m": [("k", {"z": True, "y": 1})], "l": [{"z": None, "y": 2}, None], "s": None, "b": 4, "else": "e"},
        {"m": None, "l": [], "s": {"z": False, "y": 3}, "b": 5, "else": None},
    ]


def test_a_name_that_the_records_use_for_both_is_left_alone(lake: Lake) -> None:
    schema = pa.schema([was("b", pa.int64(), "a")])
    commit(lake.target(), replace(batch(0, 1), parts=[pa.Table.from_pylist([{"b": 1}], schema)]))
    names = CurrentNames(lake.table())
    assert names.given(pa.table({"a": [1]})).column_names == ["b"]
    assert names.given(pa.table({"a": [1], "b": [2]})).column_names == ["a", "b"]
    same = pa.table({"b": [1]})
    assert names.given(same) is same
