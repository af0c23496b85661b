"""What decoded rows keep in memory, since two batches of them are all that bounds a writer."""

from __future__ import annotations

import weakref

from lakeward.decoding.json_columns import allocate, arrays
from lakeward.decoding.json_fields import declared


def test_rows_of_json_texts_do_not_keep_the_room_that_there_was_for_texts() -> None:
    fields = declared({f"c{number}": "string" for number in range(8)})
    out = allocate(fields, records=100, size=100_000)
    out.counts[0] = 100
    out.ends[:] = 0
    room = weakref.ref(out.text)
    columns = arrays(fields, out)
    del out
    assert [len(column) for column in columns] == [100] * 8
    assert room() is None
