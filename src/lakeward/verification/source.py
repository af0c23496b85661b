"""The table against the stream: what Kafka still holds below the table's positions, decoded again (PROTOCOL I1, M5)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa
import requests

from lakeward.assembly import Assembly
from lakeward.clock import Clock
from lakeward.column_selection import ColumnSelection
from lakeward.config.tables import Table
from lakeward.decoders import selection_of
from lakeward.decoding.json_fields import declared, of_schema
from lakeward.decoding.reference import ReferenceDecoder, avro_reference, json_reference_of, plain_reference
from lakeward.decoding.registry import RegistryClient
from lakeward.errors import ConfigurationError, StorageError
from lakeward.keying import Upserting, upserted
from lakeward.lanes import Lane
from lakeward.metadata_columns import HEADER_PREFIX, INGESTION, type_of, with_metadata
from lakeward.positions import Partition, Span
from lakeward.records import Decoded, DecodedPart, RawBatch
from lakeward.routing import tables_for
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.sources.kafka_reader import KafkaReader
from lakeward.verification.audit import Seen
from lakeward.verification.bench import Bench, Key, NotComparableError, explained
from lakeward.verification.letters import Waiting
from lakeward.verification.mirror import MirrorBench
from lakeward.verification.report import Compared, Tally, report, report_mirror
from lakeward.verification.spans import Coverage, covered
from lakeward.verification.verdict import Findings

REFERENCE_MOST = 200_000
"""Up to so many records are decoded by libraries that the writer does not use; more by the writer's own decoder."""

OWN_DECODER = "the pipeline's own decoder"

Observe = Callable[[str, int, int], None]


class Decodes(Protocol):
    """What a comparison needs of a decoder."""

    def decode(self, raw: RawBatch) -> Decoded:
        """See `lakeward.stages.Decoder.decode`."""


@dataclass(frozen=True, slots=True)
class Way:
    """How one comparison reads and decodes. ``name`` is the decoder's, for the report."""

    decoder: Decodes
    name: str
    native: bool
    columns: Mapping[str, str]
    """The metadata columns: name to what it holds."""
    selection: ColumnSelection = field(default_factory=ColumnSelection)
    """What the table gets of the decoder's columns."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is read again, and which of it are dead letters: they are no rows, whatever they would be today."""

    coverage: Coverage
    waiting: Waiting


@dataclass(frozen=True, slots=True)
class Again:
    """A stream that is read again; ``folder`` is where what it says is kept meanwhile."""

    reader: KafkaReader
    asked: Asked
    folder: Path


class SourceComparison:
    """Compares tables with the topics of one configuration. ``observe`` is told what is done, how much, of how much."""

    def __init__(self, assembly: Assembly, clock: Clock, observe: Observe) -> None:
        self._assembly = assembly
        self._clock = clock
        self._observe = observe

    def compare(self, target: IcebergTarget, seen: Seen, findings: Findings) -> None:
        """See `lakeward.verification.audit.SourceAudit`.

        Raises:
            UnreachableError: Kafka or the Schema Registry do not answer. PermissionDeniedError: they refuse us.
        """
        tables = {topic: self._table(topic, target) for topic in sorted({p.topic for p in seen.entry.positions})}
        feeding = {topic: table for topic, table in tables.items() if table is not None}
        findings.not_checked += [
            f"topic {topic}, which this configuration does not read into the table"
            for topic in tables
            if topic not in feeding
        ]
        if not feeding:
            return
        with (
            KafkaReader(self._assembly.kafka_settings(), self._clock) as reader,
            tempfile.TemporaryDirectory(prefix="lakeward-verify-") as folder,
            requests.Session() as session,
        ):
            coverage = covered(seen, set(feeding), reader, findings)
            if seen.inspection.key:
                again = Again(reader, Asked(coverage, seen.waiting), Path(folder))
                self._compare_mirror(again, self._lane(feeding, target), seen, findings)
                return
            if self._lane(feeding, target).settings.upserting is not None:
                findings.not_checked.append("the values against the source: no record so far has a key")
                return
            way = self._way(feeding, target, coverage.offsets, session)
            tally = Tally(way.name)
            try:
                with closing(Bench(seen.engine, seen.inspection, list(tables), Path(folder))) as bench:
                    key = _key(way.columns, tables)
                    ends = {p: at.next for p, at in seen.entry.positions.items()}
                    self._observe(f"{target.name}: reading the table", 0, 0)
                    held = bench.hold(key, coverage.spans, ends)
                    self._read(reader, Asked(coverage, seen.waiting), way, bench, tally)
                    self._observe(f"{target.name}: comparing", 0, 0)
                    difference = bench.difference()
            except NotComparableError as error:
                findings.problems.append(str(error))
                return
            except (duckdb.HTTPException, duckdb.OutOfMemoryException) as error:
                raise StorageError(
                    f"the comparison with the source came to no end: {explained(error)}",
                    f"Check the object store, and the room in {folder} (TMPDIR).",
                ) from error
            except duckdb.Error as error:
                findings.problems.append(f"the data files cannot be read: {explained(error)}")
                return
            coverage.settle(tally.records, seen, reader, findings)
            report(Compared(held, difference, tally, coverage, key is not None), seen, findings)

    def _table(self, topic: str, target: IcebergTarget) -> Table | None:
        for index, name in tables_for(self._assembly.routes, topic):
            table = self._assembly.config.tables[index]
            if self._assembly.target(table, name) is target:
                return table
        return None

    def _way(self, feeding: Mapping[str, Table], target: IcebergTarget, offsets: int, session: requests.Session) -> Way:
        table = next(iter(feeding.values()))
        columns = dict(table.metadata_columns)
        if offsets > REFERENCE_MOST or self._assembly.config.decode_of(table).kind == "debezium":
            return Way(self._lane(feeding, target).decoder, OWN_DECODER, native=True, columns=columns)
        reference = self._reference(table, target, session)
        return Way(reference, reference.name, native=False, columns=columns, selection=selection_of(table))

    def _lane(self, feeding: Mapping[str, Table], target: IcebergTarget) -> Lane:
        return next(lane for lane in self._assembly.lanes_for(next(iter(feeding))) if lane.target is target)

    def _compare_mirror(self, again: Again, lane: Lane, seen: Seen, findings: Findings) -> None:
        """Work out from the stream what each key should hold."""
        coverage, tally = again.asked.coverage, Tally(OWN_DECODER)
        told = lane.settings.metadata_columns
        names = [field.name for field in seen.inspection.table.schema().fields]
        compared = [name for name in names if told.get(name) != INGESTION]
        how = lane.settings.upserting or Upserting(seen.inspection.key)
        try:
            with closing(MirrorBench(seen.engine, seen.inspection, compared, again.folder)) as bench:
                for fetched in again.reader.read(_whole(coverage), native=True):
                    taken = coverage.inside(fetched)
                    raw = again.asked.waiting.without(taken)
                    tally.set_aside(len(taken) - len(raw))
                    decoded = upserted(lane.decoder.decode(raw), how)
                    tally.count(raw, decoded)
                    tally.rows += sum(len(part.index) for part in decoded.parts)
                    bench.add(raw, [(part, with_metadata(part, raw, told, 0)) for part in decoded.parts])
                    self._observe("reading the source", tally.records, coverage.offsets)
                self._observe(f"{lane.name}: comparing", 0, 0)
                difference = bench.difference()
        except NotComparableError as error:
            findings.problems.append(str(error))
            return
        coverage.settle(tally.records, seen, again.reader, findings)
        report_mirror(difference, tally, coverage, findings)

    def _reference(self, table: Table, target: IcebergTarget, session: requests.Session) -> ReferenceDecoder:
        config = self._assembly.config
        decode = config.decode_of(table)
        if decode.kind in {"bytes", "string"}:
            return plain_reference(text=decode.kind == "string")
        if decode.fields is not None:
            return json_reference_of(declared(decode.fields))
        if decode.kind == "json":
            selection, schema = selection_of(table), target.schema() or pa.schema([])
            own = selection.records(pa.schema([one for one in schema if one.name not in table.metadata_columns]))
            evolves = table.schema_changes == "evolve"
            return json_reference_of(
                of_schema(own), lambda name: (evolves and name in own.names) or not selection.takes(name)
            )
        registry = config.schema_registry
        if registry is None:
            raise ConfigurationError("decode: avro needs a schema registry", "Write schema_registry.url.")
        auth = (registry.auth.username, registry.auth.password.reveal()) if registry.auth else None
        return avro_reference(RegistryClient(registry.url, auth, self._clock, session))

    def _read(self, reader: KafkaReader, asked: Asked, way: Way, bench: Bench, tally: Tally) -> None:
        coverage = asked.coverage
        for fetched in reader.read(_whole(coverage), native=way.native):
            taken = coverage.inside(fetched)
            raw = asked.waiting.without(taken)
            tally.set_aside(len(taken) - len(raw))
            decoded = way.decoder.decode(raw)
            tally.count(raw, decoded)
            for part in decoded.parts:
                rows = _with_metadata(replace(part, rows=way.selection.select(part.rows)), raw, way)
                bench.add(rows, raw.topic, raw.partition[part.index], raw.offset[part.index])
                tally.rows += len(rows)
            self._observe("reading the source", tally.records, coverage.offsets)


def _whole(coverage: Coverage) -> dict[Partition, Span]:
    return {
        p: Span(min(span.start for span in spans), max(span.end for span in spans))
        for p, spans in coverage.spans.items()
    }


def _with_metadata(part: DecodedPart, raw: RawBatch, way: Way) -> pa.Table:
    """The rows of ``part`` with the metadata columns; where the fast way is not taken, without the writer's code."""
    if way.native:
        return with_metadata(part, raw, way.columns, 0)
    rows = part.rows
    for name, kind in way.columns.items():
        values = [_metadatum(raw, i, kind) for i in part.index.tolist()]
        rows = rows.append_column(pa.field(name, type_of(kind)), pa.array(values, type_of(kind)))
    return rows


def _metadatum(raw: RawBatch, i: int, kind: str) -> str | int | bytes | None:
    match kind:
        case "key":
            return raw.keys.get(i)
        case "topic":
            return raw.topic
        case "partition":
            return int(raw.partition[i])
        case "offset":
            return int(raw.offset[i])
        case "timestamp":
            return int(raw.timestamp[i]) * 1000 if raw.timestamp[i] >= 0 else None
        case _:
            found = [value for name, value in (raw.headers or ())[i] if name == kind.removeprefix(HEADER_PREFIX)]
            return found[-1] if found else None


def _key(columns: Mapping[str, str], topics: Sequence[str] | Mapping[str, object]) -> Key | None:
    by_kind = {kind: name for name, kind in columns.items()}
    if "partition" not in by_kind or "offset" not in by_kind or (len(topics) > 1 and "topic" not in by_kind):
        return None
    return Key(by_kind["partition"], by_kind["offset"], by_kind.get("topic"))
