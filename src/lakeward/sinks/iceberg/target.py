"""One Iceberg table as the loop sees it: `lakeward.stages.Target`."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import structlog
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    TableAlreadyExistsError,
)
from pyiceberg.expressions import AlwaysTrue, In, Reference
from pyiceberg.expressions.literals import literal
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table
from pyiceberg.table.update import AssertCurrentSchemaId, AssertTableUUID
from sqlalchemy.exc import IntegrityError

from lakeward.admission import Outlook, SchemaChanges
from lakeward.clock import Clock
from lakeward.errors import OperatorError, UnfitRowsError
from lakeward.layout import Layout
from lakeward.outcomes import Batch, CommitReceipt, Found, Outcome, Staged, Totals
from lakeward.sinks.iceberg import shelf
from lakeward.sinks.iceberg.attempt import KEY, key_told, totals_of
from lakeward.sinks.iceberg.commit import Commit, Desk, StagedFiles
from lakeward.sinks.iceberg.compacting import Compactor, Submit, at_once
from lakeward.sinks.iceberg.evolution import Growth, Shape, grow, iceberg_schema
from lakeward.sinks.iceberg.expiry import DAY_MS
from lakeward.sinks.iceberg.failures import translated
from lakeward.sinks.iceberg.find import find, head_of, pipelines_of
from lakeward.sinks.iceberg.fitting import evolution, grown, shape_of
from lakeward.sinks.iceberg.handle import Handle
from lakeward.sinks.iceberg.history import Record, history
from lakeward.sinks.iceberg.layout import partition_spec, sort_order
from lakeward.sinks.iceberg.manifests import Manifests
from lakeward.sinks.iceberg.naming import PROPERTY as NAMES
from lakeward.sinks.iceberg.orphans import Orphans, delete_orphans, find_orphans
from lakeward.sinks.iceberg.rewriting import Rewriter
from lakeward.sinks.iceberg.rollback import Rewind, plan, roll_back
from lakeward.sinks.iceberg.staging import Stager, discard
from lakeward.sinks.iceberg.upkeep import Upkeep
from lakeward.sinks.iceberg.upsert.upserting import IndexSettings, Upserts

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

TABLE_DEFAULTS = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    # A metadata file a commit: without these two they would pile up for ever.
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """``pipeline`` owns the positions. ``table`` is namespace and name. ``properties`` are for the table's creation.

    ``rewriter`` runs what compaction rewrites; None: small files stay as they are.
    ``keep_ms``: how far back a snapshot is kept to roll back to, milliseconds; ``keep_most``: how many are, at most.
    ``schema_changes``: whether the table
    may change in the commit of rows that need it; library appends never change it. ``index``: how much memory the index
    of keys may take, where batches upsert.
    """

    pipeline: str
    table: tuple[str, ...]
    layout: Layout = field(default_factory=Layout)
    properties: Mapping[str, str] = field(default_factory=dict)
    keep_ms: int = 7 * DAY_MS
    keep_most: int | None = None
    rewriter: Submit | None = None
    schema_changes: SchemaChanges = SchemaChanges.EVOLVE
    index: IndexSettings = field(default_factory=IndexSettings)


class IcebergTarget:
    """Finds, creates, stages, commits. One thread at a time, except `give_up`."""

    def __init__(self, catalog: Catalog, settings: TargetSettings, clock: Clock, chance: random.Random) -> None:
        self.settings = settings
        self.name = ".".join(settings.table)
        self._clock = clock
        self._handle = Handle(catalog, settings.table, clock)
        self._outlook: tuple[Any, Shape] = (None, Shape())
        manifests = Manifests()
        self._upkeep = Upkeep(settings.pipeline, self._handle, clock, settings.keep_ms, manifests, settings.keep_most)
        self._desk = Desk(settings.pipeline, self._handle, manifests, clock, chance, threading.Event(), self._upkeep)
        self._upserts = Upserts(manifests, self.name, settings.index)
        rewriter = settings.rewriter or at_once
        self._compactor = Compactor(self._handle, manifests, clock, chance, rewriter, self._upserts)

    def find(self) -> Found:
        """See `Target.find`; ``others`` are the entries of other pipelines (PROTOCOL F4)."""
        table = self._handle.load()
        if table is None:
            return Found(exists=False, entry=None)
        parent_of = self._handle.parent_of(table)
        others = pipelines_of(table.metadata) - {self.settings.pipeline}
        entries = {name: find(table.metadata, name, parent_of).entry for name in sorted(others)}
        own = find(table.metadata, self.settings.pipeline, parent_of, fed=self._handle.fed)
        self._handle.fed = own.entry is not None
        return Found(
            exists=True,
            entry=own.entry,
            at_head=own.depth in (0, None),
            rewound=own.entry is not None and own.highest > own.entry.number,
            highest=own.highest,
            others={name: entry for name, entry in entries.items() if entry is not None},
        )

    def load(self) -> Table | None:
        """The table as it is now, for readers; None where there is none."""
        return self._handle.load()

    def rows(self, columns: Sequence[str], only: tuple[str, Collection[str]] | None = None) -> pa.Table | None:
        """What ``columns`` hold, in no order; None where there is no table.

        ``only``: of the rows where a column of texts has one of some values.

        Raises:
            UnreachableError: catalog or store do not answer.
        """
        table = self._handle.load()
        if table is None:
            return None
        values = {literal(value) for value in only[1]} if only is not None else set()
        chosen = AlwaysTrue() if only is None else In(term=Reference(only[0]), values=values)
        with translated(f"reading {self.name}", table.location()):
            return table.scan(row_filter=chosen, selected_fields=tuple(columns)).to_arrow().select(list(columns))

    def schema(self) -> pa.Schema | None:
        """The table's columns as Arrow types; None where there is no table yet."""
        table = self._handle.load()
        return None if table is None else schema_to_pyarrow(table.schema(), include_field_ids=False)

    @property
    def columns(self) -> pa.Schema | None:
        """The table's columns as last seen, without asking; None where it has not been."""
        table = self._handle.seen
        return None if table is None else schema_to_pyarrow(table.schema(), include_field_ids=False)

    def held(self) -> Totals:
        """What the table holds now, by its head; nothing where it has none, or there is no table."""
        table = self._handle.load()
        return totals_of(None if table is None else head_of(table.metadata))

    def history(self) -> list[Record]:
        """Every commit of the table that is known, oldest first; empty where there is no table.

        Raises:
            LedgerError: an entry cannot be read. UnreachableError: catalog or store do not answer.
        """
        table = self._handle.load()
        if table is None:
            return []
        with translated(f"reading the history of {self.name}", table.location()):
            return history(table, self.settings.pipeline)

    def plan_rollback(self, snapshot_id: int) -> Rewind:
        """What going back to ``snapshot_id`` would undo (PROTOCOL B1); changes nothing.

        Raises:
            ConfigurationError: there is no such snapshot to go back to. LedgerError: nothing proves a position there.
        """
        return plan(self._handle.look(), self.settings.pipeline, snapshot_id)

    def roll_back(self, rewind: Rewind, commit_id: str) -> CommitReceipt:
        """Do what ``rewind`` says, in one commit that asserts the head it was planned on.

        Raises:
            OperatorError: the table has moved on since. UndecidedError: the outcome is unknown.
        """
        return roll_back(self._desk, rewind, commit_id)

    def create(self, schema: pa.Schema) -> None:
        """See `Target.create`; the loser of a race takes the winner's table.

        Raises:
            SchemaMismatchError: the layout names a column that ``schema`` does not have.
            PermissionDeniedError: namespace or table may not be created. OperatorError: no namespace to create it in.
        """
        if self._create(iceberg_schema(schema)):
            self._keep_names(self._handle.look(), schema)

    def _keep_names(self, table: Table, schema: pa.Schema) -> None:
        """Note what columns were called before: the first rows may be those of an older writer."""
        metadata = table.metadata
        growth = grow(shape_of(metadata), schema)
        if growth.changes or not growth.shape.former:
            return
        asserts = (
            AssertTableUUID(uuid=metadata.table_uuid),
            AssertCurrentSchemaId.model_validate({"current-schema-id": metadata.current_schema_id}),
        )
        with translated(f"creating {self.name}", self._handle.address):
            try:
                self._handle.send(table, asserts, evolution(metadata, growth).updates)
            except CommitFailedException:
                log.info("already changed", table=self.name)

    def _create(self, columns: Schema) -> bool:
        """Whether the table was made here; its columns are ``columns`` then."""
        if self._handle.load() is not None:
            return False
        spec, order = partition_spec(self.settings.layout, columns), sort_order(self.settings.layout, columns)
        properties = {**TABLE_DEFAULTS, **self.settings.properties}
        catalog, namespace = self._handle.catalog, self.settings.table[:-1]
        made = False
        try:
            with translated(f"creating {self.name}", self._handle.address):
                if not catalog.namespace_exists(namespace):
                    self._create_namespace(namespace)
                catalog.create_table(
                    self.settings.table, columns, partition_spec=spec, sort_order=order, properties=properties
                )
            made = True
            log.info("created", table=self.name, columns=len(columns.fields))
        except TableAlreadyExistsError:
            log.info("already created", table=self.name)
        except NoSuchNamespaceError as error:
            raise OperatorError(
                f"namespace {'.'.join(namespace)} does not exist and the catalog did not keep the one we made",
                "Create it in the catalog, then start again.",
            ) from error
        self._handle.look()
        return made

    @property
    def outlook(self) -> Outlook:
        """See `Target.outlook`."""
        table = self._handle.seen
        known, shape = self._outlook
        if table is None:
            return shape
        metadata = table.metadata
        key = metadata.table_uuid, metadata.current_schema_id, metadata.properties.get(NAMES)
        if known != key:
            shape = shape_of(metadata)
            self._outlook = key, shape
        return shape

    def stage(self, batch: Batch) -> Staged:
        """See `Target.stage`."""
        began = self._clock.monotonic()
        if batch.parts and not self._handle.is_known:
            self._create(assign_fresh_schema_ids(grown(Shape(), batch.parts).shape.schema))
        # As last seen: whatever has changed since, the commit finds out, and stages again (C1).
        table = self._handle.known()
        self._refuse_additions(batch, table)
        try:
            return self._write(batch, table, batch.id, began)
        except UnfitRowsError as error:
            log.info("does not fit the table as last seen", table=self.name, reason=error.what)
            return Staged(batch, replace(_bound(table, [], began), unfit=True), 0, 0)

    def commit(self, staged: Staged) -> Outcome:
        """See `Target.commit`."""
        return Commit(self._desk, staged, self._restage, self._discard).run()

    def keep(self, name: str, content: bytes) -> None:
        """See `Target.keep`."""
        table = self._handle.known()
        with translated(f"writing {name} beside {self.name}", table.location()):
            shelf.put(table.io, f"{shelf.folder(table.metadata, self.settings.pipeline)}/{name}", content)

    def kept(self, name: str) -> bytes | None:
        """See `Target.kept`."""
        table = self._handle.known()
        with translated(f"reading {name} beside {self.name}", table.location()):
            return shelf.get(table.io, f"{shelf.folder(table.metadata, self.settings.pipeline)}/{name}")

    def give_up(self) -> None:
        """See `Target.give_up`."""
        self._desk.giving_up.set()

    def maintain(self, *, leads: bool = True) -> None:
        """See `Target.maintain`."""
        self._upkeep.run()
        if self.settings.rewriter is None or not leads:
            return
        self._compactor.committed()
        replaced = self._compactor.turn()
        if replaced is not None:
            self._upkeep.committed(replaced.snapshot.snapshot_id, replaced.manifests)

    def find_orphans(self, older_than_ms: int) -> Orphans:
        """Files below the table's location that nothing refers to (PROTOCOL M3); changes nothing.

        Raises:
            ConfigurationError: ``older_than_ms`` is less than a day. UnreachableError: catalog or store do not answer.
        """
        table = self._handle.look()
        with translated(f"listing the files of {self.name}", table.location()):
            return find_orphans(table, self.settings.pipeline, older_than_ms)

    def delete_orphans(self, orphans: Orphans) -> int:
        """Delete what `find_orphans` found; return how many files went.

        Raises:
            OperatorError: the table says that others use its files.
        """
        return delete_orphans(self._handle.look(), orphans)

    def expire(self, most: int | None = None) -> int:
        """Expire snapshots by tiers now, and down to ``most`` where given (PROTOCOL M2); return how many went."""
        before = len(self._handle.look().metadata.snapshots)
        self._upkeep.expire(most)
        return before - len(self._handle.known().metadata.snapshots)

    def expirable(self, most: int | None = None) -> int:
        """How many snapshots `expire` would let go now."""
        return len(self._upkeep.expirable(self._handle.look(), most))

    @property
    def rewriter(self) -> Rewriter:
        """Rewrites partitions and manifests when it is told to."""
        desk = self._desk
        return Rewriter(self._handle, desk.manifests, desk.clock, desk.chance)

    def compact(self) -> int:
        """Merge all small files that can be merged now; return how many went (PROTOCOL M1).

        Raises:
            LakewardError: what was committed until then stays.
        """
        return self._compactor.compact()

    def _refuse_additions(self, batch: Batch, table: Table) -> None:
        """Rows of a mirror are never just added: a key would hold two."""
        key = key_told(table.properties)
        if key and not batch.changes and any(part.num_rows for part in batch.parts):
            raise OperatorError(
                f"{self.name} holds one row for each {', '.join(key)}, and these rows would be added without looking",
                "Write mode: upsert for it, or name another table. To go on adding rows to this one, make its keys "
                f"unimportant first: remove the table property {KEY}.",
            )

    def _create_namespace(self, namespace: tuple[str, ...]) -> None:
        try:
            self._handle.catalog.create_namespace(namespace)
        except (NamespaceAlreadyExistsError, IntegrityError):
            log.info("namespace already created", namespace=".".join(namespace))

    def _restage(self, batch: Batch, table: Table, generation: int) -> Staged:
        # Another name for the files: an attempt with the old ones may still land.
        return self._write(batch, table, f"{batch.id}-{generation}", self._clock.monotonic())

    def _write(self, batch: Batch, table: Table, commit_id: str, began: float) -> Staged:
        rows = sum(part.num_rows for part in batch.parts)
        bound = _bound(table, [], began)
        if rows:
            growth = self._growth(bound.shape, batch)
            evolved = table if growth is None else evolution(table.metadata, growth).applied_to(table)
            stager = Stager(evolved, (growth.shape if growth is not None else bound.shape).former)
            if batch.changes:
                files, delta = self._upserts.stage(batch, table, stager, commit_id)
            else:
                files, delta = stager.stage(batch.parts, commit_id), None
            bound = replace(bound, files=files, growth=growth, delta=delta)
        files = bound.files
        written = sum(file.record_count for file in files)
        if written != rows and bound.delta is None:
            raise OperatorError(
                f"{written} of {rows} rows were staged for {self.name}", "Nothing was committed. Please report this."
            )
        return Staged(batch, bound, written, sum(file.file_size_in_bytes for file in files))

    def _growth(self, shape: Shape, batch: Batch) -> Growth | None:
        """How the table changes in the commit of ``batch``; None where it may not, nor keep names."""
        if batch.writer is not None or self.settings.schema_changes is SchemaChanges.STOP:
            return None
        growth = grown(shape, batch.parts)
        if growth.changes and self.settings.schema_changes is not SchemaChanges.EVOLVE:
            raise UnfitRowsError(f"the records need another schema: {'; '.join(growth.changes)}")
        return growth

    @staticmethod
    def _discard(table: Table, files: list[DataFile]) -> None:
        discard(table.io, files)


def _bound(table: Table, files: list[DataFile], began: float) -> StagedFiles:
    metadata = table.metadata
    ids = metadata.current_schema_id, metadata.default_spec_id
    return StagedFiles(files, str(metadata.table_uuid), *ids, began, shape_of(metadata))
