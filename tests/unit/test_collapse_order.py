"""Parts of one fetch take turns in the stream: what is listed later may have happened earlier."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lakeward.changes import Changes, Effect
from lakeward.collapse import collapse


def test_the_last_change_is_the_last_of_the_stream_and_not_of_the_list() -> None:
    rows = pa.table({"id": [1, 1, 2, 1, 2], "v": ["a", "c", "x", None, None]})
    effect = np.array([Effect.UPSERT] * 3 + [Effect.DELETE] * 2, np.uint8)
    left = collapse(rows, Changes(("id",), effect, order=np.array([0, 4, 2, 1, 3])))
    assert left.rows.to_pylist() == [{"id": 1, "v": "c"}]
    assert left.deleted.column("id").to_pylist() == [2]
