"""A catalog and an object store in memory: PyIceberg's own requirements and updates, compare-and-set, nothing else."""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping
from typing import Any

import requests
from pyiceberg.catalog import PropertiesUpdateSummary
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadata, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import update_table_metadata
from tests.simulation.strands import Process
from tests.simulation.world import World

Name = tuple[str, ...]


class Lake:
    """What is stored, whoever asks: the tables' metadata and the files."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.files: dict[str, bytes] = {}
        self.tables: dict[Name, tuple[TableMetadata, str]] = {}
        self.namespaces: set[Name] = set()
        self._versions = 0

    def catalog(self, process: Process | None) -> Catalog:
        """The catalog as ``process`` reaches it; None: nothing is in the way."""
        return Catalog(self, process)

    def commit(self, name: Name, requirements: tuple[Any, ...], updates: tuple[Any, ...]) -> CommitTableResponse:
        """One compare-and-set."""
        metadata, location = self.tables[name]
        for requirement in requirements:
            requirement.validate(metadata)
        after = update_table_metadata(metadata, updates, metadata_location=location)
        self.put(name, after)
        self.world.happened["commits"] += 1
        return CommitTableResponse.model_construct(metadata=after, metadata_location=self.tables[name][1])

    def put(self, name: Name, metadata: TableMetadata) -> None:
        """Make ``metadata`` what the catalog says of ``name``."""
        self._versions += 1
        location = f"{metadata.location}/metadata/{self._versions:05d}.metadata.json"
        self.files[location] = b"{}"  # nobody reads it: the catalog hands over what it holds
        self.tables[name] = (metadata, location)


class Catalog(NoopCatalog):
    """One process's client."""

    def __init__(self, lake: Lake, process: Process | None) -> None:
        super().__init__("simulated")
        self._lake = lake
        self._process = process

    def load_table(self, identifier: Any) -> Table:
        world = self._lake.world
        world.travel(self._process)
        world.may_fail(self._process, "catalog away")
        if identifier not in self._lake.tables:
            raise NoSuchTableError(identifier)
        metadata, location = self._lake.tables[identifier]
        assert location in self._lake.files, "the metadata file of the table is gone"
        table = Table(identifier, metadata, location, Store(self._lake, self._process), self)
        world.travel(self._process)
        return table

    def commit_table(self, table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        name = table.name()
        answer: CommitTableResponse = self._lake.world.send(
            self._process, lambda: self._lake.commit(name, requirements, updates)
        )
        return answer

    def namespace_exists(self, namespace: Any) -> bool:
        self._lake.world.travel(self._process)
        return namespace in self._lake.namespaces

    def create_namespace(self, namespace: Any, properties: Mapping[str, Any] | None = None) -> None:
        del properties
        self._lake.namespaces.add(namespace)

    def update_namespace_properties(self, *_: Any, **__: Any) -> PropertiesUpdateSummary:
        raise NotImplementedError

    def create_table(
        self,
        identifier: Any,
        schema: Any,
        location: str | None = None,
        partition_spec: Any = UNPARTITIONED_PARTITION_SPEC,
        sort_order: Any = UNSORTED_SORT_ORDER,
        properties: Any = None,
    ) -> Table:
        world = self._lake.world
        world.travel(self._process)
        world.may_fail(self._process, "table not created")
        if identifier[:-1] not in self._lake.namespaces:
            raise NoSuchNamespaceError(identifier)
        if identifier in self._lake.tables:
            raise TableAlreadyExistsError(identifier)
        metadata = new_table_metadata(
            location=location or "memory://" + "/".join(identifier),
            schema=schema,
            partition_spec=partition_spec,
            sort_order=sort_order,
            properties=dict(properties or {}),
            table_uuid=uuid.UUID(int=world.chance.getrandbits(128)),
        )
        self._lake.put(identifier, metadata)
        world.may_fail(self._process, "table created, answer lost")
        return self.load_table(identifier)


class Store(FileIO):
    """One process's client of the object store."""

    def __init__(self, lake: Lake, process: Process | None) -> None:
        super().__init__({})
        self.lake = lake
        self.process = process

    def new_input(self, location: str) -> InputFile:
        return _Input(self, location)

    def new_output(self, location: str) -> OutputFile:
        return _Output(self, location)

    def delete(self, location: Any) -> None:
        self.lake.world.travel(self.process)
        self.lake.world.may_fail(self.process, "delete failed")
        if self.lake.files.pop(location, None) is None:
            raise FileNotFoundError(location)
        self.lake.world.happened["deleted"] += 1


class _Input(InputFile):
    def __init__(self, store: Store, location: str) -> None:
        super().__init__(location)
        self._store = store

    def __len__(self) -> int:
        return len(self._content())

    def exists(self) -> bool:
        return self.location in self._store.lake.files

    def open(self, seekable: bool = True) -> InputStream:  # noqa: FBT001, FBT002 -- PyIceberg's signature
        del seekable
        world = self._store.lake.world
        world.travel(self._store.process)
        world.may_fail(self._store.process, "read failed")
        return io.BytesIO(self._content())

    def _content(self) -> bytes:
        try:
            return self._store.lake.files[self.location]
        except KeyError:
            raise FileNotFoundError(self.location) from None


class _Output(OutputFile):
    def __init__(self, store: Store, location: str) -> None:
        super().__init__(location)
        self._store = store

    def __len__(self) -> int:
        return len(self._store.lake.files[self.location])

    def exists(self) -> bool:
        return self.location in self._store.lake.files

    def to_input_file(self) -> InputFile:
        return _Input(self._store, self.location)

    def create(self, overwrite: bool = False) -> OutputStream:  # noqa: FBT001, FBT002 -- PyIceberg's signature
        if not overwrite and self.exists():
            raise FileExistsError(self.location)
        world = self._store.lake.world
        world.travel(self._store.process)
        world.may_fail(self._store.process, "write failed")
        return _Stream(self._store, self.location)


class _Stream(io.BytesIO):
    """Becomes an object when it is closed, or half of one when that fails."""

    def __init__(self, store: Store, location: str) -> None:
        super().__init__()
        self._store = store
        self._location = location

    def close(self) -> None:
        if self.closed:
            return
        content, world = self.getvalue(), self._store.lake.world
        super().close()
        process = self._store.process
        if process is not None and process.dead:
            return
        if process is not None and world.strands.inside and world.sometimes(world.climate.fail / 2, "half written"):
            self._store.lake.files[self._location] = content[: len(content) // 2]
            raise requests.ConnectionError("half written")
        self._store.lake.files[self._location] = content
