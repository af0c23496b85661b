"""Values as they are: one column ``value``, of bytes or of text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lakeward.records import NULL, Decoded, DecodedPart, RawBatch, Reject

COLUMN = "value"
CHUNK = 1_024
"""Rows that are looked at one by one where one of them is not UTF-8."""


class PlainDecoder:
    """Makes each value one row, as it is; a `Decoder`. ``text``: what is not UTF-8 is rejected as ``invalid-utf8``."""

    def __init__(self, *, text: bool) -> None:
        self._text = text
        self._schema = pa.schema([pa.field(COLUMN, pa.string() if text else pa.binary())])

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`."""
        present = raw.values.length != NULL
        index = np.flatnonzero(present)
        rejects: list[Reject] = []
        column = pa.chunked_array([pa.array([raw.values.get(i) for i in index.tolist()], pa.binary())])
        if self._text:
            bad = _not_utf8(column)
            rejects = [Reject(int(i), "invalid-utf8", "the value is not valid UTF-8") for i in index[bad]]
            good = np.delete(np.arange(len(index)), bad)
            column, index = column.take(pa.array(good)).cast(pa.string()), index[good]
        parts = [DecodedPart(pa.Table.from_arrays([column], schema=self._schema), index)] if len(index) else []
        return Decoded(parts, rejects, np.flatnonzero(~present))

    def schema(self, topic: str) -> pa.Schema | None:  # noqa: ARG002  all topics have the same
        """The one column."""
        return self._schema


def _not_utf8(column: pa.ChunkedArray) -> list[int]:
    """Which values of a binary column are not valid UTF-8."""
    bad: list[int] = []
    for low in range(0, len(column), CHUNK):
        part = column.slice(low, CHUNK)
        try:
            part.cast(pa.string())
        except pa.ArrowInvalid:
            bad += [low + k for k, value in enumerate(part.to_pylist()) if not _is_utf8(value)]
    return bad


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
