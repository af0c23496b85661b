"""One table in one catalog: loading, sending, and never taking another table for this one."""

from __future__ import annotations

from pyiceberg.avro.file import AvroFile
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import TableRequirement, TableUpdate

from lakeward.clock import Clock
from lakeward.errors import OperatorError, TableChangedError
from lakeward.sinks.iceberg.catalog import address_of, is_served
from lakeward.sinks.iceberg.failures import translated
from lakeward.sinks.iceberg.find import ParentOf

RELOAD_S = 600.0
"""A loaded table is used no longer than this: credentials that a catalog vends with it expire."""


class Handle:
    """Remembers the table as our own last commit left it. Used by one thread at a time."""

    def __init__(self, catalog: Catalog, identifier: tuple[str, ...], clock: Clock) -> None:
        self.catalog = catalog
        self.identifier = identifier
        self.name = ".".join(identifier)
        self.address = address_of(catalog.properties)
        self._clock = clock
        self._table: Table | None = None
        self._loaded = 0.0
        self._uuid: str | None = None
        self.fed = False
        """Whether the table, when it was last asked, knew where our pipeline continues."""
        self.superseded: list[str] = []
        """Metadata files that newer ones have pushed out of the log; nobody's to read any more."""

    def load(self) -> Table | None:
        """The table as the catalog has it now; None where there is none and never was one.

        Raises:
            TableChangedError: the table we knew is gone, or another has its name (PROTOCOL B4).
            OperatorError: its format version is one that cannot be written.
        """
        try:
            with translated(f"loading {self.name}", self.address):
                table = self.catalog.load_table(self.identifier)
        except (NoSuchTableError, NoSuchNamespaceError) as error:
            if self._uuid is None:
                return None
            raise TableChangedError(
                f"table {self.name} was dropped while it was written to",
                "Nothing more is written. If it was meant, start again: a new table begins where `start` says.",
            ) from error
        self._check(table)
        return self._keep(table)

    def look(self) -> Table:
        """As `load`, for a table that must be there."""
        table = self.load()
        if table is None:
            raise OperatorError(f"table {self.name} does not exist", "It is created by the first rows, or create it.")
        return table

    @property
    def is_known(self) -> bool:
        """Whether the table has been seen."""
        return self._uuid is not None

    @property
    def seen(self) -> Table | None:
        """The table as last seen, without asking; None where it has not been. Any thread may look."""
        return self._table

    def known(self) -> Table:
        """The table as last seen.

        Whoever commits on it asserts its head, so that a stale one can only be refused, never be wrong.
        """
        if self._table is None or self._clock.monotonic() - self._loaded > RELOAD_S:
            return self.look()
        return self._table

    def send(self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]) -> Table:
        """Send one commit, once; return the table after it.

        Raises:
            Exception: whatever the catalog raises, untranslated: none of it proves that nothing was committed.
        """
        answer = self.catalog.commit_table(table, requirements, updates)
        if not is_served(self.catalog):  # a REST server looks after its own metadata files
            left = {entry.metadata_file for entry in answer.metadata.metadata_log}
            self.superseded += [e.metadata_file for e in table.metadata.metadata_log if e.metadata_file not in left]
        after = Table(table.name(), answer.metadata, answer.metadata_location, table.io, self.catalog, table.config)
        self._table = after
        return after

    def forget(self) -> None:
        """Load afresh next time."""
        self._table = None

    def parent_of(self, table: Table) -> ParentOf:
        """Reads a parent from the header of the snapshot's manifest list."""

        def read(snapshot: Snapshot) -> int | None:
            where = f"reading the manifest list of snapshot {snapshot.snapshot_id} of {self.name}"
            with translated(where, table.location()):
                return recorded_parent(table, snapshot)

        return read

    def _keep(self, table: Table) -> Table:
        self._table, self._uuid = table, str(table.metadata.table_uuid)
        self._loaded = self._clock.monotonic()
        return table

    def _check(self, table: Table) -> None:
        uuid, version = str(table.metadata.table_uuid), table.metadata.format_version
        if self._uuid not in (None, uuid):
            raise TableChangedError(
                f"table {self.name} was replaced while it was written to (its uuid is {uuid}, it was {self._uuid})",
                "Nothing more is written. If it was meant, start again: a new table begins where `start` says.",
            )
        if version != 2:
            raise OperatorError(
                f"table {self.name} has Iceberg format version {version}; lakeward writes version 2",
                "Write to another table"
                + (", or upgrade it: ALTER TABLE … SET TBLPROPERTIES ('format-version'='2')." if version < 2 else "."),
            )


def recorded_parent(table: Table, snapshot: Snapshot) -> int | None:
    """The parent that a snapshot's manifest list names in its header; None where it names none, or is gone."""
    try:
        with AvroFile[ManifestFile](table.io.new_input(snapshot.manifest_list)) as file:
            text = file.header.meta.get("parent-snapshot-id", "null")
    except FileNotFoundError:
        return None
    return None if text == "null" else int(text)
