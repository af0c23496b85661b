"""Change events of Debezium: rows, what they do to the rows of their keys, and what the events tell besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from lakeward.decoding.debezium_absent import without_absent
from lakeward.decoding.debezium_described import DescribedImages, DescribedObjects
from lakeward.decoding.debezium_envelope import EnvelopeReader, Envelopes, Part
from lakeward.decoding.debezium_events import SourceReader
from lakeward.decoding.debezium_flat import told_apart
from lakeward.decoding.debezium_keys import KeyReader, Keys
from lakeward.decoding.debezium_members import NDInt
from lakeward.decoding.debezium_plain import PlainImages
from lakeward.decoding.debezium_rows import Images, Stream, joined, parts, settle
from lakeward.decoding.framing import unframe
from lakeward.decoding.json import Surroundings
from lakeward.records import Blobs, Decoded, RawBatch, Reject

HEARTBEAT = ("serverName",)
"""What the keys of heartbeats name."""


@dataclass(frozen=True, slots=True)
class DebeziumSettings:
    """How change events are read.

    ``keyed``: rows have keys, and a tombstone deletes the row of its own (modes that upsert); else every event is a row
    and tombstones are skipped (the history). ``columns``: the table's columns as it is found, under the records' names;
    None: there is none yet. ``surroundings``: what an inferring decoder asks of its table, as for `JsonDecoder`; its
    registry is not asked. ``cache_folder`` keeps compiled code between runs, see `code_cache`; None: compile once a
    process.
    """

    keyed: bool = True
    columns: pa.Schema | None = None
    surroundings: Surroundings = field(default_factory=Surroundings)
    cache_folder: Path | None = None


class DebeziumDecoder:
    """Decodes change events written as JSON, with or without schemas, enveloped or flat; a `Decoder`.

    The rules are told in docs/debezium.md. Parts have `events`, and, where ``settings.keyed``, `changes`: their key is
    what the message's key names, () for messages without one. Rows of deletions hold the key's columns alone.

    Args:
        settings: how events are read.
    """

    def __init__(self, settings: DebeziumSettings = DebeziumSettings()) -> None:
        folder = settings.cache_folder
        self._keyed = settings.keyed
        self._envelopes = EnvelopeReader(folder)
        self._sources = SourceReader(folder)
        self._keys = KeyReader(folder)
        self._described = DescribedImages(_followed(settings), folder)
        self._described_keys = DescribedImages(lambda: None, folder)
        self._plain = PlainImages(settings.columns, folder, settings.surroundings)

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`.

        Raises:
            SchemaMismatchError: the table has got a column of a type that no JSON value is read into.
        """
        envelopes = self._envelopes.read(raw.topic, _unframed(raw.values))
        keys = self._keys.read(_unframed(raw.keys))
        if HEARTBEAT in keys.names:
            beats = (keys.which == keys.names.index(HEARTBEAT)) & (envelopes.part == Part.FLAT)
            envelopes.part[beats] = Part.SKIPPED
        rejects = envelopes.rejects
        stream = Stream(
            part=envelopes.part,
            operation=envelopes.operation,
            sources=self._sources.read(envelopes.source),
            images=[],
            key=keys.which,
            names=keys.names,
            known=None,
            rejects=rejects,
            keys_of=lambda index, names: self._keys_of(keys, index, names, rejects),
        )
        found = self._images(raw.topic, envelopes, envelopes.where(Part.ROW))
        found += [told_apart(one, stream) for one in self._images(raw.topic, envelopes, envelopes.where(Part.FLAT))]
        for images in found:
            rows, absent = without_absent(images.rows)
            stream.images.append(Images(rows, images.index, {**images.absent, **absent}))
        self._described.learn(_described(envelopes), envelopes.where(Part.DELETE, Part.TRUNCATE))
        stream.known = self.schema(raw.topic)
        skipped = settle(raw, stream, keyed=self._keyed)
        decoded = list(parts(stream, keyed=self._keyed))
        return Decoded(decoded, sorted(rejects, key=lambda reject: reject.index), skipped)

    def schema(self, topic: str) -> pa.Schema | None:
        """The schema of all rows as far as it is known; None as long as it is not."""
        return self._plain.schema(topic) if self._described.schema is None else self._described.schema

    def _images(self, topic: str, envelopes: Envelopes, index: NDInt) -> list[Images]:
        described = envelopes.group[index] >= 0
        found = self._plain.rows(topic, envelopes.image, index[~described], envelopes.rejects)
        if described.any():
            found += self._described.rows(_described(envelopes), index[described], envelopes.rejects)
        return found

    def _keys_of(self, keys: Keys, index: NDInt, names: tuple[str, ...], rejects: list[Reject]) -> Images:
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


def _followed(settings: DebeziumSettings) -> Callable[[], pa.Schema | None]:
    """The columns of the table as last seen; as it was found, as long as it has not been seen."""

    def columns() -> pa.Schema | None:
        seen = settings.surroundings.columns()
        return settings.columns if seen is None else seen

    return columns
