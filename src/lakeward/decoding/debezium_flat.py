"""Rows without envelopes (`ExtractNewRecordState`): what events tell stands in columns of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.decoding.debezium_envelope import Part
from lakeward.decoding.debezium_events import TIMESTAMP, Sources, log_texts
from lakeward.decoding.debezium_members import NDInt

if TYPE_CHECKING:
    from lakeward.decoding.debezium_rows import Images, Stream

DELETED, OPERATION = "__deleted", "__op"
TIMES = (("__source_ts_us", 1), ("__source_ts_ms", 1000), ("__ts_us", 1), ("__ts_ms", 1000))
"""Columns with a time, and how many microseconds one of it is; the first that is there tells."""
PLACES = ("__lsn", "__source_lsn")
TOLD = frozenset({DELETED, OPERATION, *(name for name, _ in TIMES), *PLACES, "__source_ts_ns", "__ts_ns"})
"""Columns that are no columns of the row."""
GONE = ord("d")


def told_apart(images: Images, stream: Stream) -> Images:
    """The rows without the columns that tell of events; what these tell is put into ``stream``."""
    rows = images.rows
    names = [name for name in rows.column_names if name in TOLD]
    if not names:
        return images
    columns = {name: rows.column(name).combine_chunks() for name in names}
    index = images.index
    if OPERATION in columns:
        texts = columns[OPERATION].cast(pa.string()).fill_null("").to_pylist()
        stream.operation[index] = [ord(text) if len(text) == 1 and text.isascii() else 0 for text in texts]
    if DELETED in columns:
        gone = pc.equal(columns[DELETED].cast(pa.string()), "true").fill_null(fill_value=False)
        deleted = index[gone.to_numpy(zero_copy_only=False)]
        stream.part[deleted] = Part.DELETE
        stream.operation[deleted] = GONE
    stream.sources = _sources(stream.sources, columns, index)
    kept = replace(images, rows=rows.drop_columns(names))
    # A deletion with a key is told by the key: the row beside it holds what the source had at hand.
    by_key = (stream.part[index] == Part.DELETE) & (stream.key[index] != 0)
    return kept.select(np.flatnonzero(~by_key)) if by_key.any() else kept


def _sources(sources: Sources, columns: dict[str, pa.Array], index: NDInt) -> Sources:
    timestamp, position = sources.timestamp, sources.position
    mask = np.zeros(len(timestamp), np.bool_)
    mask[index] = True
    for name, micros in TIMES:
        if name in columns and pa.types.is_integer(columns[name].type):
            times = pc.multiply(columns[name].cast(pa.int64()), micros).cast(TIMESTAMP)
            timestamp = pc.replace_with_mask(timestamp, pa.array(mask), times)
            break
    for name in PLACES:
        if name in columns and pa.types.is_integer(columns[name].type):
            position = pc.replace_with_mask(position, pa.array(mask), log_texts(columns[name].cast(pa.int64())))
            break
    return Sources(timestamp, position)
