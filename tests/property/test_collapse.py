"""What many changes leave behind is what they do one after the other, whatever the table held before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.changes import Changes, Effect
from lakeward.collapse import Collapsed, collapse
from lakeward.keys import hashes

SCHEMA = pa.schema([("a", pa.int64()), ("v", pa.string()), ("b", pa.string()), ("w", pa.int64()), ("x", pa.float64())])
KEY = ("a", "b")
VALUES = ("v", "w", "x")

Row = dict[str, Any]
Rows = dict[tuple[Any, ...], Row]


@dataclass(frozen=True)
class Change:
    effect: Effect
    key: tuple[int, str]
    values: Mapping[str, Any]
    """What it does not have is absent."""


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def one_by_one(rows: Rows, changes: Sequence[Change]) -> tuple[Rows, int]:
    """The table after all changes, and how many values of it nobody knows.

    What a mark of a key that holds no row carries is kept for the row that comes: it says what the source held.
    """
    held = {key: dict(row) for key, row in rows.items()}
    unknown: dict[tuple[Any, ...], set[str]] = {}
    kept: dict[tuple[Any, ...], Row] = {}
    gone: set[tuple[Any, ...]] = set()
    truncated = False
    for change in changes:
        key = change.key
        if change.effect == Effect.TRUNCATE:
            held, unknown, kept, truncated = {}, {}, {}, True
        elif change.effect == Effect.DELETE:
            gone.add(key)
            for known in (held, unknown, kept):
                known.pop(key, None)
        elif change.effect == Effect.MARK and key not in held:
            if key not in gone and not truncated:
                kept.setdefault(key, {}).update(change.values)
        else:
            if key not in held:
                held[key] = {**dict(zip(KEY, key, strict=True)), **dict.fromkeys(VALUES), **kept.get(key, {})}
                unknown[key] = set(VALUES) - kept.pop(key, {}).keys()
            held[key].update(change.values)
            unknown[key] = unknown.get(key, set()) - change.values.keys()
    return held, sum(map(len, unknown.values()))


def applied(rows: Rows, left: Collapsed) -> Rows:
    """The table after what is left behind is applied to it."""
    held = {} if left.truncates else {key: dict(row) for key, row in rows.items()}
    for gone in left.deleted.to_pylist():
        held.pop(key_of(gone), None)
    for at, row in enumerate(left.rows.to_pylist()):
        old = held.get(key_of(row))
        if old is None and left.marks[at]:
            continue
        for name, mask in left.absent.items():
            if mask[at]:
                assert row[name] is None
                row[name] = old[name] if old else None
        held[key_of(row)] = row
    return held


def columns_of(changes: Sequence[Change]) -> tuple[pa.Table, Changes]:
    """Rows and changes as decoders make them: null where absent, anything where nothing counts."""
    rows = [
        {"a": None, "b": None} if c.effect == Effect.TRUNCATE else {**dict(zip(KEY, c.key, strict=True)), **c.values}
        for c in changes
    ]
    counts = [c.effect in (Effect.UPSERT, Effect.MARK) for c in changes]
    masks = {
        name: np.array([n and name not in c.values for n, c in zip(counts, changes, strict=True)], np.bool_)
        for name in VALUES
    }
    effect = np.array([c.effect for c in changes], np.uint8)
    return pa.Table.from_pylist(rows, SCHEMA), Changes(
        KEY, effect, {n: mask for n, mask in masks.items() if mask.any()}
    )


KEYS = st.tuples(st.integers(0, 2), st.sampled_from(["", "k"]))
GIVEN = {"v": st.none() | st.text("xyz", max_size=2), "w": st.none() | st.integers(0, 9), "x": st.none() | st.just(0.5)}
EFFECTS = st.sampled_from([Effect.UPSERT] * 8 + [Effect.DELETE] * 4 + [Effect.MARK] * 3 + [Effect.TRUNCATE])
CHANGES = st.builds(Change, EFFECTS, KEYS, st.fixed_dictionaries({}, optional=GIVEN))
WHOLE = st.fixed_dictionaries(GIVEN)


def held_before() -> st.SearchStrategy[Rows]:
    return st.dictionaries(KEYS, WHOLE, max_size=6).map(
        lambda found: {key: {**dict(zip(KEY, key, strict=True)), **values} for key, values in found.items()}
    )


@settings(max_examples=100, deadline=None)
@given(held_before(), st.lists(st.lists(CHANGES, max_size=10), min_size=1, max_size=3))
def test_what_is_left_behind_does_what_the_changes_do_one_by_one(rows, parts):
    tables, several = zip(*(columns_of(part) for part in parts), strict=True)
    left = collapse(pa.concat_tables(tables), Changes.joined(several))
    want, unknown = one_by_one(rows, [change for part in parts for change in part])
    assert applied(rows, left) == want
    nowhere = np.array([key_of(row) not in rows for row in left.rows.to_pylist()], np.bool_) & ~left.marks
    assert left.unknown + sum(int((mask & nowhere).sum()) for mask in left.absent.values()) == unknown


@settings(max_examples=100, deadline=None)
@given(st.lists(CHANGES, max_size=20))
def test_each_key_is_left_behind_once_and_with_its_hash(changes):
    left = collapse(*columns_of(changes))
    keys = [key_of(row) for row in left.rows.to_pylist()] + [key_of(row) for row in left.deleted.to_pylist()]
    assert len(keys) == len(set(keys))
    assert np.array_equal(left.hashes, hashes(left.rows.select(list(KEY))))
    assert np.array_equal(left.deleted_hashes, hashes(left.deleted))
    assert left.rows.schema == SCHEMA
    if left.truncates:
        assert not len(left.deleted)
        assert not left.marks.any()
        assert left.absent == {}


def test_rows_come_in_the_order_of_the_last_changes():
    changes = [Change(Effect.UPSERT, (n, ""), {"w": n, "v": None, "x": None}) for n in (2, 0, 1, 2)]
    assert collapse(*columns_of(changes)).rows["a"].to_pylist() == [0, 1, 2]


def test_changes_of_different_keys_are_not_copied():
    rows, changes = columns_of([Change(Effect.UPSERT, (n, ""), {"v": "x", "w": 1, "x": None}) for n in range(5)])
    assert collapse(rows, changes).rows is rows


def test_a_value_that_nobody_sent_since_the_deletion_is_unknown():
    left = collapse(
        *columns_of(
            [
                Change(Effect.UPSERT, (1, ""), {"v": "old", "w": 1, "x": 0.5}),
                Change(Effect.DELETE, (1, ""), {}),
                Change(Effect.UPSERT, (1, ""), {"w": 2, "x": None}),
            ]
        )
    )
    assert left.rows.to_pylist() == [{"a": 1, "b": "", "v": None, "w": 2, "x": None}]
    assert left.unknown == 1
    assert left.absent == {}


def test_a_truncation_may_have_no_key_and_a_deletion_may_not():
    rows, changes = columns_of([Change(Effect.TRUNCATE, (0, ""), {})])
    assert collapse(rows, changes).truncates
    with pytest.raises(ValueError, match="holds 1 nulls"):
        collapse(rows, Changes(KEY, np.array([Effect.DELETE], np.uint8)))


def test_nothing_leaves_nothing_behind():
    left = collapse(*columns_of([]))
    assert (left.truncates, len(left.rows), len(left.deleted), left.unknown) == (False, 0, 0, 0)
