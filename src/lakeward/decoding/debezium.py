"""Change events of Debezium: rows, what they do to the rows of their keys, and what the events tell besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from lakeward.decoding.debezium_absent import without_absent
from lakeward.decoding.debezium_avro import AvroEvents
from lakeward.decoding.debezium_envelope import Part
from lakeward.decoding.debezium_flat import told_apart
from lakeward.decoding.debezium_json import JsonEvents
from lakeward.decoding.debezium_moves import with_former_keys
from lakeward.decoding.debezium_rows import Images, Stream, parts, settle
from lakeward.decoding.json import Surroundings
from lakeward.decoding.registry import Schemas
from lakeward.records import Decoded, RawBatch


@dataclass(frozen=True, slots=True)
class DebeziumSettings:
    """How change events are read.

    ``keyed``: rows have keys, and a tombstone deletes the row of its own (modes that upsert); else every event is a row
    and tombstones are skipped (the history). ``registry``: events are Avro, with its schemas; None: they are JSON.
    ``columns``: the table's columns as it is found, under the records' names;
    None: there is none yet. ``surroundings``: what an inferring decoder asks of its table, as for `JsonDecoder`; its
    registry is not asked. ``cache_folder`` keeps compiled code between runs, see `code_cache`; None: compile once a
    process.
    """

    keyed: bool = True
    registry: Schemas | None = None
    columns: pa.Schema | None = None
    surroundings: Surroundings = field(default_factory=Surroundings)
    cache_folder: Path | None = None


class DebeziumDecoder:
    """Decodes change events, JSON with or without schemas, or Avro, enveloped or flat; a `Decoder`.

    The rules are told in docs/debezium.md. Parts have `events`, and, where ``settings.keyed``, `changes`: their key is
    what the message's key names, () for messages without one. Rows of deletions hold the key's columns alone.

    Args:
        settings: how events are read.
    """

    def __init__(self, settings: DebeziumSettings = DebeziumSettings()) -> None:
        self._keyed = settings.keyed
        self._cache_folder = settings.cache_folder
        around = _followed(settings), settings.surroundings, settings.cache_folder
        self._events = JsonEvents(*around) if settings.registry is None else AvroEvents(settings.registry, *around)

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`.

        Raises:
            SchemaMismatchError: the table has got a column of a type that no JSON value is read into.
        """
        stream = self._events.read(raw)
        stream.images = [_settled(images, stream) for images in stream.images]
        skipped = settle(raw, stream, self._cache_folder, keyed=self._keyed)
        decoded = [with_former_keys(part, raw) for part in parts(stream, keyed=self._keyed)]
        return Decoded(decoded, sorted(stream.rejects, key=lambda reject: reject.index), skipped)

    def schema(self, topic: str) -> pa.Schema | None:
        """The schema of all rows as far as it is known; None as long as it is not."""
        return self._events.schema(topic)


def _settled(images: Images, stream: Stream) -> Images:
    """Rows alone, and which of their values were left out."""
    flat = bool((stream.part[images.index] == Part.FLAT).all())
    told = told_apart(images, stream) if flat else images
    rows, absent = without_absent(told.rows)
    return Images(rows, told.index, {**told.absent, **absent})


def _followed(settings: DebeziumSettings) -> Callable[[], pa.Schema | None]:
    """The columns of the table as last seen; as it was found, as long as it has not been seen."""

    def columns() -> pa.Schema | None:
        seen = settings.surroundings.columns()
        return settings.columns if seen is None else seen

    return columns
