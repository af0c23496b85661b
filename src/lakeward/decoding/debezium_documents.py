"""Rows of events about documents: whole ones, and updates that tell only what they have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.decoding import bson, json_reference
from lakeward.decoding.bson_documents import ID, KEY
from lakeward.decoding.bson_updates import changed
from lakeward.decoding.debezium_members import NDInt
from lakeward.decoding.debezium_plain import PlainImages
from lakeward.decoding.debezium_rows import Images, with_all
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.records import Blobs, Reject


def updates(
    rows: PlainImages,
    topic: str,
    told: Iterable[tuple[int, bytes | Mapping[str, Any]]],
    identities: Blobs,
    rejects: list[Reject],
) -> list[Images]:
    """The images of updates: what they do not name is absent; adds to ``rejects``.

    ``told``: the descriptions by message, as JSON or as they were read.
    """
    index, texts, names = [], [], []
    for i, description in told:
        try:
            whole = json_reference.parse(description) if isinstance(description, bytes) else description
            text, own = changed(whole, identities.get(i))
        except NotDecodableError as error:
            rejects.append(Reject(i, error.code, error.reason))
            continue
        index.append(i)
        texts.append(text)
        names.append(own)
    own_rejects: list[Reject] = []
    places, found = np.array(index, np.int64), []
    for images in rows.rows(topic, Blobs.of(texts), np.arange(len(texts)), own_rejects):
        table = with_all(images.rows, rows.schema(topic))
        named = [names[i] for i in images.index.tolist()]
        absent = {column: np.array([column not in own for own in named]) for column in table.column_names}
        found.append(Images(table, places[images.index], absent))
    rejects += [replace(reject, index=index[reject.index]) for reject in own_rejects]
    return found


def by_table(columns: pa.Schema | None, names: Iterable[tuple[str, ...]]) -> bool:
    """Whether keys of these names, without any event, are those of documents: the table tells."""
    return (KEY,) in names and columns is not None and has_id(columns)


def has_id(columns: pa.Schema) -> bool:
    """Whether these are the columns of documents, which an ``_id`` identifies."""
    return ID in columns.names and KEY not in columns.names


def flat_identities(keys: Blobs, index: NDInt, rejects: list[Reject]) -> Blobs:
    """Documents, as plain JSON, of the keys of flat rows at ``index``: what they call ``id`` is ``_id``."""
    texts: list[bytes | None] = [None] * len(keys)
    for i in index.tolist():
        try:
            value = json_reference.parse(keys.get(i) or b"")[KEY]
            extended = isinstance(value, str) and value.startswith("{")
            text = value if extended else json_reference.compact(value)
            texts[i] = bson.plain(f'{{"{ID}":{text}}}'.encode())
        except NotDecodableError as error:
            rejects.append(Reject(i, error.code, error.reason))
    return Blobs.of(texts)
