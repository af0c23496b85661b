"""Change events written as Avro with the schemas of a registry: enveloped or flat, of rows or of documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding.avro import AvroDecoder
from lakeward.decoding.bson_documents import ID, KEY, names_of
from lakeward.decoding.debezium_avro_schema import described, readable
from lakeward.decoding.debezium_convert import null_mask
from lakeward.decoding.debezium_described import row_of
from lakeward.decoding.debezium_documents import by_table, updates
from lakeward.decoding.debezium_envelope import HEARTBEATS, TRANSACTION_MEMBERS, Part, parts_of
from lakeward.decoding.debezium_events import Sources, told_by, untold
from lakeward.decoding.debezium_flat import TOLD
from lakeward.decoding.debezium_forms import Column, Described, columns_of, fitted
from lakeward.decoding.debezium_members import NDInt
from lakeward.decoding.debezium_plain import DOCUMENTS, PlainImages
from lakeward.decoding.debezium_reader import converted, one_array, schema_of
from lakeward.decoding.debezium_rows import Images, Stream, joined
from lakeward.decoding.json import Surroundings
from lakeward.decoding.registry import Registered, Schemas
from lakeward.records import NULL, Blobs, DecodedPart, RawBatch, Reject

HEARTBEAT = ("serverName",)
NOT_A_ROW = Described("struct")


class AvroEvents:
    """Reads change events written as Avro.

    Args:
        registry: where writer schemas come from.
        columns: tells the columns of the table as last seen; None: there is none.
        surroundings: what an inferring decoder asks of its table; only documents need one.
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(
        self,
        registry: Schemas,
        columns: Callable[[], pa.Schema | None],
        surroundings: Surroundings,
        cache_folder: Path | None,
    ) -> None:
        self._registry = Readable(registry)
        self._columns = columns
        self._avro = AvroDecoder(self._registry, cache_folder)
        self._documents = PlainImages(columns(), cache_folder, surroundings, DOCUMENTS)
        self._of_documents = False
        self._known: pa.Schema | None = None
        self._described: dict[int, Described] = {}

    def schema(self, topic: str) -> pa.Schema | None:
        """The schema of all rows as far as it is known: of the events seen last, or as the registry tells."""
        if self._of_documents:
            return self._documents.schema(topic)
        latest = self._registry.latest(f"{topic}-value") if self._known is None else None
        if latest is not None:
            row = row_of(_said(latest[1]))
            self._known = schema_of(fitted(columns_of(row), self._columns())) if row.members else None
        return self._known

    def read(self, raw: RawBatch) -> Stream:
        """Say what the messages are.

        Raises:
            UnreachableError, PermissionDeniedError: the registry does not serve a schema.
        """
        decoded = self._avro.decode(raw)
        keys = self._keys(raw)
        stream = Stream(
            part=np.full(len(raw), Part.REFUSED, np.uint8),
            operation=np.zeros(len(raw), np.uint8),
            sources=untold(len(raw)),
            images=[],
            key=keys.which,
            names=keys.names,
            known=None,
            rejects=list(decoded.rejects),
            keys_of=lambda index, names: self._keys_of(keys, index, names, stream.rejects),
        )
        stream.part[decoded.skipped] = Part.TOMBSTONE
        told: list[tuple[NDInt, Sources]] = []
        for piece in decoded.parts:
            self._take(raw.topic, piece, keys, stream, told)
        stream.sources = Sources.gathered(told, len(raw))
        self._of_documents |= by_table(self._columns(), keys.names)
        if self._of_documents:
            stream.names = names_of(keys.names)
        stream.known = self._documents.schema(raw.topic) if self._of_documents else self._known
        return stream

    def _take(
        self, topic: str, piece: DecodedPart, keys: AvroKeys, stream: Stream, told: list[tuple[NDInt, Sources]]
    ) -> None:
        """Say what the messages of one schema are."""
        message, index = self._message(piece.schema_id), piece.index
        names = [name for name, _ in message.members]
        if _silent(topic, names) or (HEARTBEAT in keys.names and names == ["ts_ms"]):
            stream.part[index] = Part.SKIPPED
        elif {"op", "after", "source"} <= set(names):
            told.append((index, told_by(one_array(piece.rows.column("source")))))
            self._enveloped(topic, piece, keys, stream)
        else:
            stream.part[index] = Part.FLAT
            columns = [column for column in fitted(columns_of(message), self._columns()) if column.name not in TOLD]
            self._known = schema_of(columns)
            stream.images += self._rows(piece.rows, index, message, stream.rejects)

    def _enveloped(self, topic: str, piece: DecodedPart, keys: AvroKeys, stream: Stream) -> None:
        message, index = self._message(piece.schema_id), piece.index
        after = one_array(piece.rows.column("after"))
        letter = _letters(one_array(piece.rows.column("op")))
        imaged = ~null_mask(after)
        update = piece.rows.column("updateDescription") if "updateDescription" in piece.rows.column_names else None
        updated = ~null_mask(one_array(update)) if update is not None else np.zeros(len(index), np.bool_)
        rejects: list[Reject] = []
        part = parts_of(np.ones(len(index), np.bool_), letter, imaged, updated, rejects)
        stream.part[index], stream.operation[index] = part, letter
        stream.rejects += [replace(one, index=int(index[one.index])) for one in rejects]
        whole, partial = np.flatnonzero(part == Part.ROW), np.flatnonzero(part == Part.UPDATE)
        if pa.types.is_string(after.type):
            self._of_documents = True
            texts = _blobs(after.take(pa.array(whole)))
            found = self._documents.rows(topic, texts, np.arange(len(whole)), rejects := [])
            stream.rejects += [replace(one, index=int(index[whole[one.index]])) for one in rejects]
            stream.images += [Images(one.rows, index[whole[one.index]]) for one in found]
            if update is not None and len(partial):
                descriptions = update.take(pa.array(partial)).to_pylist()
                changes = zip(index[partial].tolist(), descriptions, strict=True)
                identities = self._identities(keys, len(stream.part))
                stream.images += updates(self._documents, topic, changes, identities, stream.rejects)
            return
        row = row_of(message)
        self._known = schema_of(fitted(columns_of(row), self._columns()))
        chosen = after if len(whole) == len(after) else after.take(pa.array(whole))
        rows = pa.Table.from_arrays(chosen.flatten(), names=[name for name, _ in row.members])
        stream.images += self._rows(rows, index[whole], row, stream.rejects)

    def _rows(self, rows: pa.Table, index: NDInt, row: Described, rejects: list[Reject]) -> list[Images]:
        columns = fitted(columns_of(row), self._columns())
        part = converted(columns, rows, index, rejects)
        return [Images(part.rows, part.index)] if len(part.index) else []

    def _message(self, schema_id: int | None) -> Described:
        number = -1 if schema_id is None else schema_id
        if number not in self._described:
            registered = self._registry.schema(number)
            self._described[number] = NOT_A_ROW if registered is None else _said(registered)
        return self._described[number]

    def _keys(self, raw: RawBatch) -> AvroKeys:
        decoded = self._avro.decode(replace(raw, values=raw.keys))
        which = np.zeros(len(raw), np.int32)
        names: list[tuple[str, ...]] = [()]
        pieces: list[tuple[DecodedPart, tuple[Column, ...]]] = []
        for piece in decoded.parts:
            columns = columns_of(self._message(piece.schema_id))
            own = tuple(column.name for column in columns)
            if own not in names:
                names.append(own)
            which[piece.index] = names.index(own)
            pieces.append((piece, columns))
        return AvroKeys(which, names, pieces)

    def _keys_of(self, keys: AvroKeys, index: NDInt, names: tuple[str, ...], rejects: list[Reject]) -> Images:
        if self._of_documents and names == (ID,):
            return self._documents.keys(self._identities(keys, len(keys.which)), index, names, rejects)
        found: list[Images] = []
        for piece, columns in keys.pieces:
            at = np.flatnonzero(np.isin(piece.index, index))
            if tuple(column.name for column in columns) == names and len(at):
                part = converted(columns, piece.rows.take(pa.array(at)), piece.index[at], rejects)
                found.append(Images(part.rows, part.index))
        return joined(found)

    def _identities(self, keys: AvroKeys, messages: int) -> Blobs:
        """Documents of the keys that hold an id, by message."""
        texts: list[bytes | None] = [None] * messages
        for piece, columns in keys.pieces:
            if [column.name for column in columns] == [KEY]:
                for i, text in zip(piece.index.tolist(), piece.rows.column(KEY).to_pylist(), strict=True):
                    texts[i] = f'{{"{ID}":{text}}}'.encode()
        return Blobs.of(texts)


@dataclass(frozen=True, slots=True)
class AvroKeys:
    """The keys of messages: which of ``names`` each has, and the keys of each schema with their columns."""

    which: NDArray[np.int32]
    names: list[tuple[str, ...]]
    pieces: list[tuple[DecodedPart, tuple[Column, ...]]]


class Readable:
    """A registry whose schemas hold no decimals that are wider than columns can be."""

    def __init__(self, registry: Schemas) -> None:
        self._registry = registry

    def schema(self, schema_id: int) -> Registered | None:
        """See `RegistryClient.schema`."""
        found = self._registry.schema(schema_id)
        return None if found is None else readable(found)

    def latest(self, subject: str) -> tuple[int, Registered] | None:
        """See `RegistryClient.latest`."""
        found = self._registry.latest(subject)
        return None if found is None else (found[0], readable(found[1]))


def _said(registered: Registered) -> Described:
    try:
        return described(registered)
    except (ValueError, KeyError, RecursionError):
        return NOT_A_ROW


def _silent(topic: str, names: Sequence[str]) -> bool:
    """Whether messages with these members are heartbeats, marks of transactions or changes of schemas."""
    transaction = set(TRANSACTION_MEMBERS) <= set(names) and len(names) <= len(TRANSACTION_MEMBERS) + 1
    heartbeat = topic.startswith(HEARTBEATS) and list(names) == ["ts_ms"]
    return transaction or heartbeat or {"source", "tableChanges"} <= set(names)


def _letters(operations: pa.Array) -> NDArray[np.uint8]:
    """The letters of operations; 0 where it is not one letter."""
    found: NDArray[np.uint8] = np.zeros(len(operations), np.uint8)
    texts = _blobs(operations)
    told = np.flatnonzero(texts.length == 1)
    found[told] = texts.data[texts.start[told]]
    return found


def _blobs(texts: pa.Array) -> Blobs:
    """Strings as they lie in memory."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    length = np.where(null_mask(texts), NULL, np.diff(ends)).astype(np.int32)
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    return Blobs(content, ends[:-1].astype(np.int64), length)
