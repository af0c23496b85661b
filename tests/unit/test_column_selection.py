"""Columns that a table gets of its records, and what they are called."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakeward.column_selection import ColumnSelection
from lakeward.errors import ConfigurationError

ROWS = pa.table({"id": [1, 2], "secret": ["x", "y"], "at": [3, 4]})


def test_only_included_columns_are_kept_in_the_records_order() -> None:
    assert ColumnSelection(include=frozenset({"at", "id"})).select(ROWS).to_pydict() == {"id": [1, 2], "at": [3, 4]}


def test_excluded_columns_never_reach_the_table() -> None:
    assert ColumnSelection(exclude=frozenset({"secret", "not there"})).select(ROWS).column_names == ["id", "at"]


def test_a_renamed_column_keeps_its_data_and_its_fields_metadata() -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False, metadata={"k": "v"})])
    selected = ColumnSelection(rename={"id": "key"}).select(pa.table({"id": [1, 2]}, schema))
    assert selected.to_pydict() == {"key": [1, 2]}
    assert selected.schema.field("key").metadata == {b"k": b"v"}
    assert not selected.schema.field("key").nullable


def test_two_columns_may_swap_their_names() -> None:
    selection = ColumnSelection(rename={"id": "at", "at": "id"})
    assert selection.select(ROWS).to_pydict() == {"at": [1, 2], "secret": ["x", "y"], "id": [3, 4]}
    assert selection.records(selection.schema(ROWS.schema)) == ROWS.schema


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="two columns named at"):
        ColumnSelection(rename={"id": "at"}).select(ROWS)


def test_a_selection_that_leaves_nothing_is_refused_and_names_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match="leaves no column") as told:
        ColumnSelection(include=frozenset({"ID"})).select(ROWS)
    assert "id, secret, at" in told.value.way_out
