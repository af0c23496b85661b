"""MongoDB documents as Debezium writes them, strings of extended JSON, to rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding import bson
from lakeward.decoding.bson_kernel import rewrite_documents, unescape
from lakeward.decoding.debezium_members import Finder, kept, read_only
from lakeward.decoding.debezium_reader import FormReader
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.decoding.json_types import Field
from lakeward.decoding.text import SLACK
from lakeward.records import NULL, Blobs, DecodedPart, Reject

ID = "_id"
KEY = "id"
LEFT = -2
GROWTH, LEAST = 3, 32
"""A date of few digits takes less than three times its bytes when it is written out."""
AS_IT_IS = np.zeros(1, np.uint8)
AS_ID = np.frombuffer(bytes([len(f'{{"{ID}":')]) + f'{{"{ID}":'.encode() + b"}", np.uint8)


class DocumentReader:
    """Reads documents of extended JSON into rows of these fields, as a `RowReader` does.

    Args:
        fields: at least one.
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(self, fields: tuple[Field, ...], cache_folder: Path | None) -> None:
        self.fields = fields
        self._cache_folder = cache_folder
        self._reader = FormReader.plain(fields, cache_folder)
        self.schema: pa.Schema = self._reader.schema

    def rows(self, values: Blobs, rejects: list[Reject]) -> list[DecodedPart]:
        """Read all documents but the null ones: one part, or none where there is no row; adds to ``rejects``."""
        return self._reader.rows(rewritten(values, rejects, self._cache_folder), rejects)


def rewritten(documents: Blobs, rejects: list[Reject], cache_folder: Path | None) -> Blobs:
    """The documents as plain JSON; those that are none are null, and added to ``rejects``."""
    room = int(np.maximum(documents.length, 0).sum(dtype=np.int64)) * GROWTH + LEAST
    out = np.empty(room, np.uint8)
    place, size = np.empty(len(documents), np.int64), np.empty(len(documents), np.int32)
    kept(rewrite_documents, cache_folder, _warm_rewrite)(*read_only(documents), out, place, size)
    left = np.flatnonzero(size == LEFT)
    if not len(left):
        return Blobs(out, place, size)
    texts: list[bytes] = []
    end = len(out)
    for i in left.tolist():
        size[i] = NULL
        try:
            texts.append(bson.plain(documents.get(i) or b""))
        except NotDecodableError as error:
            rejects.append(Reject(i, error.code, error.reason))
            continue
        place[i], size[i] = end, len(texts[-1])
        end += len(texts[-1])
    return Blobs(np.concatenate([out, np.frombuffer(b"".join(texts), np.uint8)]), place, size)


def unescaped(strings: Blobs, cache_folder: Path | None, around: NDArray[np.uint8] = AS_IT_IS) -> Blobs:
    """What JSON strings stand for; null where there is none.

    ``around``: what is written around each, its first byte telling how much comes before.
    """
    data = strings.data
    last = int((strings.start + np.maximum(strings.length, 0)).max(initial=0))
    if last + SLACK > len(data):
        data = np.concatenate([data, np.zeros(SLACK, np.uint8)])
    sizes = np.maximum(strings.length, 0).astype(np.int64) + len(around)
    out = np.empty(int(sizes.sum()) + SLACK, np.uint8)
    place, size = np.empty(len(strings), np.int64), np.empty(len(strings), np.int32)
    around = np.ascontiguousarray(around).view()
    around.flags.writeable = False
    source = Blobs(data, strings.start, strings.length)
    kept(unescape, cache_folder, _warm_unescape)(*read_only(source), around, out, place, size)
    return Blobs(out, place, size)


class DocumentKeys:
    """Makes documents of keys: ``{"id": "..."}`` becomes ``{"_id": ...}``."""

    def __init__(self, cache_folder: Path | None) -> None:
        self._cache_folder = cache_folder
        self._finder = Finder((KEY,), cache_folder)

    def documents(self, keys: Blobs) -> Blobs:
        """The documents of ``keys``; null where a key is none of MongoDB's."""
        return unescaped(self._finder.find(keys).get(KEY), self._cache_folder, AS_ID)


def _warm_rewrite(rewrite: Callable[..., Any]) -> None:
    rewrite(*read_only(Blobs.of(())), np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int32))


def _warm_unescape(write: Callable[..., Any]) -> None:
    around = AS_IT_IS.view()
    around.flags.writeable = False
    write(*read_only(Blobs.of(())), around, np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int32))


def names_of(names: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Which columns the names in keys are."""
    return [(ID,) if one == (KEY,) else one for one in names]
