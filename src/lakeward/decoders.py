"""Which decoder reads the records of a table, as its configuration says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import requests

from lakeward.admission import SchemaChanges
from lakeward.clock import Clock
from lakeward.column_selection import ColumnSelection, SelectingDecoder
from lakeward.config import Config
from lakeward.config.tables import Table
from lakeward.decoding.avro import AvroDecoder
from lakeward.decoding.json import JsonDecoder, Surroundings
from lakeward.decoding.keyed import KeyedDecoder
from lakeward.decoding.keys import Alone, KeyReader, KeyRules, LongKeys, RecordKeys, TextKeys
from lakeward.decoding.plain import PlainDecoder
from lakeward.decoding.registry import RegistryClient
from lakeward.errors import ConfigurationError
from lakeward.layout import DELETED
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.stages import Decoder

Columns = Callable[[], pa.Schema | None]
"""A table's columns as last seen, by the records' names; the same object while they are the same; None: no table."""


class Decoders:
    """The decoders of one configuration. ``cache_folder`` keeps compiled code, see `code_cache`."""

    def __init__(self, config: Config, clock: Clock, cache_folder: Path) -> None:
        self._config = config
        self._clock = clock
        self._cache_folder = cache_folder
        self._avro: AvroDecoder | None = None
        self._registry: RegistryClient | None = None

    def of(self, table: Table, target: IcebergTarget) -> Decoder:
        """The decoder of the records that fill ``target``, configured as ``table``.

        Raises:
            ConfigurationError: it needs a schema registry, and none is configured.
            UnreachableError: the catalog does not answer.
        """
        selection = selection_of(table)
        surroundings = self._surroundings(table, target, selection)
        decoder = self._records_decoder(table, target, surroundings)
        if table.mode == "upsert" and self._config.decode_of(table).kind != "debezium":
            former = {new: old for old, new in table.columns.rename.items()}
            key = tuple(former.get(name, name) for name in table.key or ())
            reader = self._key_reader(table, key, surroundings)
            decoder = KeyedDecoder(decoder, KeyRules(key, reader, surroundings.columns))
        return decoder if selection == ColumnSelection() else SelectingDecoder(decoder, selection)

    def avro(self) -> AvroDecoder:
        """The Avro decoder, one for all tables: it knows the registry's schemas by id."""
        if self._avro is None:
            self._avro = AvroDecoder(self.registry(), self._cache_folder)
        return self._avro

    def registry(self) -> RegistryClient:
        """The client of the schema registry, one for all tables.

        Raises:
            ConfigurationError: none is configured.
        """
        registry = self._config.schema_registry
        if registry is None:
            raise ConfigurationError("decode: avro needs a schema registry", "Write schema_registry.url.")
        if self._registry is None:
            auth = (registry.auth.username, registry.auth.password.reveal()) if registry.auth else None
            self._registry = RegistryClient(registry.url, auth, self._clock, requests.Session())
        return self._registry

    def _surroundings(self, table: Table, target: IcebergTarget, selection: ColumnSelection) -> Surroundings:
        own = {*table.metadata_columns, DELETED}
        evolves = SchemaChanges(table.schema_changes) is not SchemaChanges.DEAD_LETTER
        return Surroundings(
            # What the table does not take may be anything; all else is a change of the table.
            grows=lambda name: evolves or not selection.takes(name),
            columns=_followed(
                lambda: target.columns,
                lambda: target.outlook,
                lambda seen: selection.records(pa.schema([field for field in seen if field.name not in own])),
            ),
            registry=None if self._config.schema_registry is None else self.registry(),
        )

    def _records_decoder(self, table: Table, target: IcebergTarget, surroundings: Surroundings) -> Decoder:
        decode = self._config.decode_of(table)
        if decode.kind == "avro":
            return self.avro()
        if decode.kind in {"bytes", "string"}:
            return PlainDecoder(text=decode.kind == "string")
        if decode.debezium is not None:
            from lakeward.decoding.debezium import DebeziumDecoder, DebeziumSettings  # noqa: PLC0415 - others do without

            known = surroundings.columns() if target.schema() is not None else None
            settings = DebeziumSettings(
                keyed=table.mode == "upsert",
                columns=known,
                registry=self.registry() if decode.debezium.format == "avro" else None,
                surroundings=surroundings,
                cache_folder=self._cache_folder,
            )
            return DebeziumDecoder(settings)
        if decode.fields is None and target.schema() is not None and (known := surroundings.columns()) is not None:
            return JsonDecoder.from_schema(known, self._cache_folder, surroundings)
        return JsonDecoder(decode.fields, self._cache_folder, surroundings)

    def _key_reader(self, table: Table, key: tuple[str, ...], surroundings: Surroundings) -> KeyReader | None:
        match table.decode_key:
            case None:
                return None
            case "string":
                return TextKeys(key[0])
            case "long":
                return LongKeys(key[0])
            case "avro":
                schemas = Alone(self.registry(), key[0]) if len(key) == 1 else self.registry()
                return RecordKeys(AvroDecoder(schemas, self._cache_folder))
            case "json":
                return RecordKeys(self._json_keys(table, key, surroundings), key[0] if len(key) == 1 else None)

    def _json_keys(self, table: Table, key: tuple[str, ...], surroundings: Surroundings) -> JsonDecoder:
        declared = self._config.decode_of(table).fields
        fields = None if declared is None else {name: declared[name] for name in key if name in declared}
        of_key = _followed(
            surroundings.columns,
            surroundings.columns,
            lambda seen: pa.schema([seen.field(name) for name in key if name in seen.names]),
        )
        around = Surroundings(columns=of_key, registry=surroundings.registry)
        return JsonDecoder(fields or None, self._cache_folder, around)


def selection_of(table: Table) -> ColumnSelection:
    """Which columns of the records ``table`` gets."""
    columns = table.columns
    include = None if columns.include is None else frozenset(columns.include)
    return ColumnSelection(include, frozenset(columns.exclude), dict(columns.rename))


def _followed(columns: Columns, version: Callable[[], object], made: Callable[[pa.Schema], pa.Schema]) -> Columns:
    """What ``made`` makes of ``columns``, anew whenever ``version`` is another object."""
    known: tuple[object, pa.Schema | None] = (object(), None)

    def follow() -> pa.Schema | None:
        nonlocal known
        now = version()
        if now is not known[0]:
            seen = columns()
            known = now, None if seen is None else made(seen)
        return known[1]

    return follow
