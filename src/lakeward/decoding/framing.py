"""The header that Schema Registry clients put before a value: a zero byte and a schema id. No JSON begins with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakeward.records import NULL, Blobs, Reject

HEADER = 5
"""Bytes: the zero, and the id, the highest byte first."""


@dataclass(frozen=True, slots=True)
class Unframed:
    """Values behind their headers. ``ids`` int64[n]: the schema id, -1 where there is no header."""

    values: Blobs
    ids: NDArray[np.int64]
    rejects: list[Reject]
    """Values with a header that is cut; their length is now `NULL`."""


def unframe(values: Blobs) -> Unframed | None:
    """Take the headers off; None where no value has one, which costs next to nothing."""
    filled = np.flatnonzero(values.length > 0)
    if not len(filled):
        return None
    index = filled[values.data[values.start[filled]] == 0]
    if not len(index):
        return None
    start, length = values.start.copy(), values.length.copy()
    cut = index[length[index] < HEADER]
    whole = index[length[index] >= HEADER]
    ids = np.full(len(values), -1, np.int64)
    ids[whole] = 0
    for k in range(1, HEADER):
        ids[whole] = ids[whole] << 8 | values.data[values.start[whole] + k]
    start[whole] += HEADER
    length[whole] -= HEADER
    length[cut] = NULL
    rejects = [
        Reject(i, "too-short", f"the value begins with a zero byte, and ends before the header's {HEADER} bytes")
        for i in cut.tolist()
    ]
    return Unframed(Blobs(values.data, start, length), ids, rejects)
