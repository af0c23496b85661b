"""Rows whose key was changed at their source, and that leave out what did not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.changes import Changes, Effect
from lakeward.collapse import Collapsed, collapse
from lakeward.keys import hashes

UPSERT, DELETE = Effect.UPSERT, Effect.DELETE
LEFT_OUT = object()


def left(*changes: tuple[Effect, int, Any, int | None]) -> Collapsed:
    """What changes of ``id`` leave behind: effect, key, value of ``v``, former key."""
    values = [None if value is LEFT_OUT else value for _, _, value, _ in changes]
    rows = pa.table({"id": [key for _, key, _, _ in changes], "v": pa.array(values, pa.string())})
    absent = {"v": np.array([value is LEFT_OUT for _, _, value, _ in changes])}
    former = pa.table({"id": pa.array([former for *_, former in changes], pa.int64())})
    return collapse(rows, Changes(("id",), np.array([one for one, *_ in changes], np.uint8), absent, former=former))


def key(number: int) -> bytes:
    return bytes(hashes(pa.table({"id": [number]}))[0].tobytes())


def asked(collapsed: Collapsed) -> dict[int, bytes]:
    """Which rows ask the table for ``v``, and under which key."""
    mask = collapsed.absent.get("v", np.zeros(len(collapsed.rows), np.bool_))
    ids = collapsed.rows.column("id").to_pylist()
    return {ids[at]: collapsed.sources[at].tobytes() for at in np.flatnonzero(mask).tolist()}


def test_what_a_moved_row_leaves_out_is_asked_of_its_former_key() -> None:
    assert asked(left((DELETE, 1, None, None), (DELETE, 1, None, None), (UPSERT, 2, LEFT_OUT, 1))) == {2: key(1)}


def test_a_creation_that_comes_before_the_deletion_of_its_former_key_asks_the_same() -> None:
    assert asked(left((UPSERT, 2, LEFT_OUT, 1), (DELETE, 1, None, None))) == {2: key(1)}


def test_what_the_same_changes_tell_of_the_former_key_is_taken_from_them() -> None:
    collapsed = left((UPSERT, 1, "told", None), (DELETE, 1, None, None), (UPSERT, 2, LEFT_OUT, 1))
    assert collapsed.rows.to_pylist() == [{"id": 2, "v": "told"}]
    assert not asked(collapsed)


def test_later_changes_of_a_moved_row_keep_asking_its_former_key() -> None:
    assert asked(left((DELETE, 1, None, None), (UPSERT, 2, LEFT_OUT, 1), (UPSERT, 2, LEFT_OUT, None))) == {2: key(1)}


def test_a_row_that_moves_twice_asks_the_key_that_the_table_knows() -> None:
    moves = [(DELETE, 1, None, None), (UPSERT, 2, LEFT_OUT, 1), (DELETE, 2, None, None), (UPSERT, 3, LEFT_OUT, 2)]
    assert asked(left(*moves)) == {3: key(1)}


def test_rows_that_move_up_one_after_the_other_each_ask_their_own_former_key() -> None:
    moves = [(DELETE, 2, None, None), (UPSERT, 3, LEFT_OUT, 2), (DELETE, 1, None, None), (UPSERT, 2, LEFT_OUT, 1)]
    collapsed = left(*moves)
    assert asked(collapsed) == {3: key(2), 2: key(1)}
    assert collapsed.unknown == 0


def test_a_key_that_is_given_to_a_new_row_is_not_asked_for_what_the_former_one_held() -> None:
    collapsed = left((DELETE, 1, None, None), (UPSERT, 1, LEFT_OUT, None))
    assert not asked(collapsed)
    assert collapsed.unknown == 1
