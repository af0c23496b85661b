"""Change events written as JSON: with or without schemas, enveloped or flat, of rows or of documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from lakeward.decoding.bson_documents import ID, KEY, DocumentKeys, names_of, unescaped
from lakeward.decoding.debezium_described import DescribedImages, DescribedObjects
from lakeward.decoding.debezium_documents import by_table, flat_identities, has_id, updates
from lakeward.decoding.debezium_envelope import EnvelopeReader, Envelopes, Part
from lakeward.decoding.debezium_events import SourceReader
from lakeward.decoding.debezium_keys import KeyReader, Keys
from lakeward.decoding.debezium_members import NDInt, NDMask, first_byte
from lakeward.decoding.debezium_plain import DOCUMENTS, PlainImages
from lakeward.decoding.debezium_rows import Images, Stream, joined
from lakeward.decoding.framing import unframe
from lakeward.decoding.json import Surroundings
from lakeward.records import NULL, Blobs, RawBatch, Reject

HEARTBEAT = ("serverName",)
"""What the keys of heartbeats name."""
QUOTE = ord('"')


class JsonEvents:
    """Reads change events written as JSON.

    Args:
        columns: tells the columns of the table as last seen; None: there is none.
        surroundings: what an inferring decoder asks of its table.
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(
        self, columns: Callable[[], pa.Schema | None], surroundings: Surroundings, cache_folder: Path | None
    ) -> None:
        self._columns = columns
        self._cache_folder = cache_folder
        self._envelopes = EnvelopeReader(cache_folder)
        self._sources = SourceReader(cache_folder)
        self._keys = KeyReader(cache_folder)
        self._described = DescribedImages(columns, cache_folder)
        self._described_keys = DescribedImages(lambda: None, cache_folder)
        self._plain = PlainImages(columns(), cache_folder, surroundings)
        self._documents = PlainImages(columns(), cache_folder, surroundings, DOCUMENTS)
        self._document_keys = DocumentKeys(cache_folder)
        self._of_documents = False
        self._ids = False  # flat rows of documents: what their keys call "id" is their column "_id"

    def schema(self, topic: str) -> pa.Schema | None:
        """The schema of all rows as far as it is known; None as long as it is not."""
        if self._described.schema is not None:
            return self._described.schema
        return (self._documents if self._of_documents else self._plain).schema(topic)

    def read(self, raw: RawBatch) -> Stream:
        """Say what the messages are."""
        envelopes = self._envelopes.read(raw.topic, _unframed(raw.values))
        keys = self._keys.read(_unframed(raw.keys))
        part, rejects = envelopes.part, envelopes.rejects
        if HEARTBEAT in keys.names:
            part[(keys.which == keys.names.index(HEARTBEAT)) & (part == Part.FLAT)] = Part.SKIPPED
        documents = (part == Part.ROW) & (first_byte(envelopes.image) == QUOTE)
        self._notice(bool(documents.any() or (part == Part.UPDATE).any()), keys)
        images = self._images(raw.topic, envelopes, envelopes.where(Part.FLAT))
        self._ids |= (KEY,) in keys.names and any(has_id(one.rows.schema) for one in images)
        images += self._images(raw.topic, envelopes, np.flatnonzero((part == Part.ROW) & ~documents))
        if self._of_documents:
            images += self._whole_documents(raw.topic, envelopes, documents)
            images += self._updates(raw.topic, envelopes, keys)
        else:
            self._described.learn(_described(envelopes), envelopes.where(Part.DELETE, Part.TRUNCATE))
        return Stream(
            part=part,
            operation=envelopes.operation,
            sources=self._sources.read(envelopes.source),
            images=images,
            key=keys.which,
            names=names_of(keys.names) if self._of_documents or self._ids else keys.names,
            known=self.schema(raw.topic),
            rejects=rejects,
            keys_of=lambda index, names: self._keys_of(keys, index, names, rejects),
        )

    def _notice(self, documents: bool, keys: Keys) -> None:  # noqa: FBT001  what was seen
        """Know that these are documents, from an event or, where there is only a key, from the table."""
        self._of_documents |= documents or by_table(self._columns(), keys.names)

    def _images(self, topic: str, envelopes: Envelopes, index: NDInt) -> list[Images]:
        described = envelopes.group[index] >= 0
        found = self._plain.rows(topic, envelopes.image, index[~described], envelopes.rejects)
        if described.any():
            found += self._described.rows(_described(envelopes), index[described], envelopes.rejects)
        return found

    def _whole_documents(self, topic: str, envelopes: Envelopes, documents: NDMask) -> list[Images]:
        image = envelopes.image
        length = np.where(documents, image.length, NULL).astype(np.int32)
        texts = unescaped(Blobs(image.data, image.start, length), self._cache_folder)
        found = np.flatnonzero(documents & (texts.length != NULL))
        broken = np.flatnonzero(documents & (texts.length == NULL))
        reason = "the document's string is broken"
        envelopes.rejects.extend(Reject(i, "malformed-json", reason) for i in broken.tolist())
        return self._documents.rows(topic, texts, found, envelopes.rejects)

    def _updates(self, topic: str, envelopes: Envelopes, keys: Keys) -> list[Images]:
        index = envelopes.where(Part.UPDATE)
        if not len(index):
            return []
        told = ((i, envelopes.update.get(i) or b"") for i in index.tolist())
        identities = self._document_keys.documents(keys.values)
        return updates(self._documents, topic, told, identities, envelopes.rejects)

    def _keys_of(self, keys: Keys, index: NDInt, names: tuple[str, ...], rejects: list[Reject]) -> Images:
        if self._of_documents and names == (ID,):
            return self._documents.keys(self._document_keys.documents(keys.values), index, names, rejects)
        if self._ids and names == (ID,):
            return self._plain.keys(flat_identities(keys.values, index, rejects), index, names, rejects)
        described = keys.group[index] >= 0
        if not described.any():
            return self._plain.keys(keys.values, index, names, rejects)
        objects = DescribedObjects(keys.values, keys.group, keys.schema)
        found = self._described_keys.rows(objects, index[described], rejects)
        if not described.all():
            found.append(self._plain.keys(keys.values, index[~described], names, rejects))
        return joined(found)


def _described(envelopes: Envelopes) -> DescribedObjects:
    return DescribedObjects(envelopes.image, envelopes.group, envelopes.schema)


def _unframed(values: Blobs) -> Blobs:
    """The values behind the headers of a schema registry's clients, where they have any."""
    found = unframe(values)
    return values if found is None else found.values
