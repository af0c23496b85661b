"""Columns that hold what Kafka knows of a record rather than what the record says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.records import NULL, Blobs, RawBatch

HEADER_PREFIX = "header."
TYPES: Mapping[str, pa.DataType] = {
    "key": pa.binary(),
    "topic": pa.string(),
    "partition": pa.int32(),
    "offset": pa.int64(),
    "timestamp": pa.timestamp("us", "UTC"),
}
"""What a column may hold, and its Arrow type; ``header.NAME`` is binary: the last header of that name."""


def with_metadata(rows: pa.Table, raw: RawBatch, index: NDArray[np.int64], columns: Mapping[str, str]) -> pa.Table:
    """Append ``columns`` (name: what it holds) to ``rows``, whose i-th row came from message ``index[i]``."""
    whole = len(index) == len(raw)
    for name, kind in columns.items():
        rows = rows.append_column(pa.field(name, type_of(kind)), values_of(kind, raw if whole else raw.select(index)))
    return rows


def type_of(kind: str) -> pa.DataType:
    """The Arrow type of a metadata column that holds ``kind``."""
    return pa.binary() if kind.startswith(HEADER_PREFIX) else TYPES[kind]


def values_of(kind: str, raw: RawBatch) -> pa.Array:
    """What every message of ``raw`` has for ``kind``: one of TYPES, ``value``, or a header."""
    if kind == "topic":
        return pa.DictionaryArray.from_arrays(np.zeros(len(raw), np.int8), [raw.topic]).cast(pa.string())
    if kind == "partition":
        return pa.array(raw.partition)
    if kind == "offset":
        return pa.array(raw.offset)
    if kind == "timestamp":
        return pa.array(raw.timestamp * 1000, mask=raw.timestamp < 0).cast(TYPES["timestamp"])
    if kind in {"key", "value"}:
        return _binary(raw.keys if kind == "key" else raw.values)
    wanted = kind.removeprefix(HEADER_PREFIX)
    headers = raw.headers or [()] * len(raw)
    return pa.array([dict(pairs).get(wanted) for pairs in headers], pa.binary())


def _binary(blobs: Blobs) -> pa.Array:
    null = blobs.length == NULL
    sizes = np.where(null, 0, blobs.length).astype(np.int64)
    offsets = np.zeros(len(blobs) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    # Byte k of the joined data comes from start[i] + (k - offsets[i]) of the message i that it belongs to.
    source = np.repeat(blobs.start - offsets[:-1], sizes) + np.arange(offsets[-1])
    data = np.ascontiguousarray(blobs.data[source])
    valid = pa.py_buffer(np.packbits(~null, bitorder="little"))
    buffers = [valid if null.any() else None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(blobs), buffers)
