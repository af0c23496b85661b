"""Rows of events that carry their schemas: every column as its schema describes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding.debezium_flat import TOLD
from lakeward.decoding.debezium_forms import Described, columns_of, described, fitted
from lakeward.decoding.debezium_members import NDInt
from lakeward.decoding.debezium_reader import FormReader
from lakeward.decoding.debezium_rows import Images, chosen
from lakeward.records import Blobs, Reject

MOST_SCHEMAS = 256
"""Schemas that are remembered; a table gets another whenever its columns change."""
UNSUPPORTED = "unsupported-schema"
UNDESCRIBED = "the schema in the message does not describe a row"


@dataclass(frozen=True, slots=True)
class DescribedObjects:
    """Objects ``values``, and the schemas that describe them: those of one ``group`` number have the same."""

    values: Blobs
    group: NDArray[np.int32]
    schema: Blobs


class DescribedImages:
    """Reads the images of rows, and keys, by the schemas that come with them.

    Args:
        table: tells the columns of the table as last seen; None: there is no table.
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(self, table: Callable[[], pa.Schema | None], cache_folder: Path | None) -> None:
        self._table = table
        self._seen: pa.Schema | None = None
        self._cache_folder = cache_folder
        self._readers: dict[bytes, FormReader | None] = {}
        self.schema: pa.Schema | None = None
        """Of the rows that were described last."""

    def learn(self, objects: DescribedObjects, index: NDInt) -> None:
        """Take the columns of rows from the schemas of the messages at ``index``, which need not have rows."""
        for reader, _ in self._by_reader(objects, index):
            if reader is not None:
                self._learn(reader)

    def _learn(self, reader: FormReader) -> None:
        self.schema = pa.schema([column for column in reader.schema if column.name not in TOLD])

    def rows(self, objects: DescribedObjects, index: NDInt, rejects: list[Reject]) -> list[Images]:
        """Read the objects at ``index``; adds to ``rejects``."""
        found: list[Images] = []
        for reader, group in self._by_reader(objects, index):
            if reader is None:
                rejects += (Reject(i, UNSUPPORTED, UNDESCRIBED) for i in group.tolist())
                continue
            self._learn(reader)
            own: list[Reject] = []
            parts = reader.rows(chosen(objects.values, group), own)
            rejects += [replace(reject, index=int(group[reject.index])) for reject in own]
            found += [Images(part.rows, group[part.index]) for part in parts]
        return found

    def _by_reader(self, objects: DescribedObjects, index: NDInt) -> Iterator[tuple[FormReader | None, NDInt]]:
        """The readers for the objects at ``index``, in the order in which they are first needed."""
        columns = self._table()
        if columns is not self._seen:
            self._seen = columns
            self._readers.clear()
        numbers, first = np.unique(objects.group[index], return_index=True)
        together: dict[bytes, list[int]] = {}
        for number, at in sorted(zip(numbers.tolist(), first.tolist(), strict=True), key=lambda pair: pair[1]):
            together.setdefault(objects.schema.get(int(index[at])) or b"", []).append(number)
        for text, own in together.items():
            group = index if len(together) == 1 else index[np.isin(objects.group[index], own)]
            yield self._reader(text), group

    def _reader(self, text: bytes) -> FormReader | None:
        if text not in self._readers:
            if len(self._readers) >= MOST_SCHEMAS:
                self._readers.pop(next(iter(self._readers)))
            self._readers[text] = self._made(text)
        return self._readers[text]

    def _made(self, text: bytes) -> FormReader | None:
        try:
            row = row_of(described(json.loads(text)))
            columns = fitted(columns_of(row), self._seen)
        except (ValueError, KeyError, RecursionError):
            return None
        return FormReader(columns, (), self._cache_folder) if columns else None


def row_of(message: Described) -> Described:
    """The row in a message: what an envelope has after the change, or the message itself."""
    after = message.member("after")
    enveloped = after is not None and message.member("op") is not None and message.member("source") is not None
    return after if after is not None and enveloped else message
