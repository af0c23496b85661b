"""Change events of Debezium: rows, what they do to the rows of their keys, and what the events tell besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from lakeward.decoding.debezium_envelope import EnvelopeReader, Envelopes, Part
from lakeward.decoding.debezium_events import SourceReader
from lakeward.decoding.debezium_keys import KeyReader, Keys
from lakeward.decoding.debezium_members import NDInt
from lakeward.decoding.debezium_plain import PlainImages
from lakeward.decoding.debezium_rows import Images, Stream, parts, settle
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
        images = self._images(raw.topic, envelopes)
        stream = Stream(
            part=envelopes.part,
            operation=envelopes.operation,
            sources=self._sources.read(envelopes.source),
            images=images,
            key=keys.which,
            names=keys.names,
            known=self.schema(raw.topic),
            rejects=rejects,
            keys_of=lambda index, names: self._keys_of(keys, index, names, rejects),
        )
        skipped = settle(raw, stream, keyed=self._keyed)
        decoded = list(parts(stream, keyed=self._keyed))
        return Decoded(decoded, sorted(rejects, key=lambda reject: reject.index), skipped)

    def schema(self, topic: str) -> pa.Schema | None:
        """The schema of all rows as far as it is known; None as long as it is not."""
        return self._plain.schema(topic)

    def _images(self, topic: str, envelopes: Envelopes) -> list[Images]:
        return self._plain.rows(topic, envelopes.image, envelopes.where(Part.ROW, Part.FLAT), envelopes.rejects)

    def _keys_of(self, keys: Keys, index: NDInt, names: tuple[str, ...], rejects: list[Reject]) -> Images:
        return self._plain.keys(keys.values, index, names, rejects)


def _unframed(values: Blobs) -> Blobs:
    """The values behind the headers of a schema registry's clients, where they have any."""
    found = unframe(values)
    return values if found is None else found.values
