"""What rows do to the rows of their keys, joined and chosen."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lakeward.changes import Changes, Effect


def test_a_truncation_that_came_alone_goes_with_the_key_of_the_others() -> None:
    alone = Changes((), np.array([Effect.TRUNCATE], np.uint8))
    others = Changes(("id",), np.array([Effect.UPSERT, Effect.DELETE], np.uint8))
    joined = Changes.joined([alone, others])
    assert joined.key == ("id",)
    assert joined.effect.tolist() == [Effect.TRUNCATE, Effect.UPSERT, Effect.DELETE]
    assert Changes.joined([alone, alone]).key == ()


def test_changes_of_different_keys_are_not_joined() -> None:
    with pytest.raises(ValueError, match="2 different keys"):
        Changes.joined([Changes.upserts(("a",), 1), Changes.upserts(("b",), 1)])


def test_a_truncation_that_came_alone_has_no_former_keys_either() -> None:
    alone = Changes((), np.array([Effect.TRUNCATE], np.uint8), order=np.array([1]))
    moved = Changes(("id",), np.zeros(2, np.uint8), order=np.array([0, 2]), former=pa.table({"id": [None, "before"]}))
    joined = Changes.joined([alone, moved])
    assert joined.former is not None
    assert joined.former["id"].to_pylist() == [None, None, "before"]
    assert joined.select(np.array([1, 0, 2])).former == joined.former
