"""Tables with position deletes as anybody may commit them, and an index of keys beside what PyIceberg tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import _read_deletes
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update import SetSnapshotRefUpdate
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Record

from lakeward.keys import Hashes, hashes
from lakeward.sinks.iceberg.schema import conform
from lakeward.sinks.iceberg.staging import Laid, Stager
from lakeward.sinks.iceberg.upsert.deletes import Gone, concerns, write_deletes
from lakeward.sinks.iceberg.upsert.index import Arrived, KeyIndex

PATH_ID, POSITION_ID = 2147483546, 2147483545
DELETES = ManifestContent.DELETES
_SCHEMA = pa.schema(
    [
        pa.field("file_path", pa.string(), nullable=False, metadata={"PARQUET:field_id": str(PATH_ID)}),
        pa.field("pos", pa.int64(), nullable=False, metadata={"PARQUET:field_id": str(POSITION_ID)}),
    ]
)

ORDERS = pa.schema([("v", pa.string()), ("id", pa.int64()), ("part", pa.int32())])

Alive = dict[tuple[Any, ...], tuple[str, int]]


class _Deletes(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class _RowDelta(_FastAppendFiles):
    """Adds delete files beside data files, and takes away files of both kinds by path."""

    adding: Sequence[DataFile] = ()
    dropping: frozenset[str] = frozenset()

    def _existing_manifests(self) -> list[ManifestFile]:
        kept = []
        for manifest in super()._existing_manifests():
            entries = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
            left = [entry for entry in entries if entry.data_file.file_path not in self.dropping]
            if len(left) == len(entries):
                kept.append(manifest)
            elif left:
                kept.append(self._written(manifest.partition_spec_id, left, manifest.content))
        return kept

    def _manifests(self) -> list[ManifestFile]:
        specs = {file.spec_id for file in self.adding}
        return super()._manifests() + [
            self._written(
                spec, [_added(file, self._snapshot_id) for file in self.adding if file.spec_id == spec], DELETES
            )
            for spec in sorted(specs)
        ]

    def _written(self, spec_id: int, entries: Sequence[ManifestEntry], content: ManifestContent) -> ManifestFile:
        kind = _Deletes if content == DELETES else ManifestWriterV2
        at = self.spec(spec_id), self.schema(), self.new_manifest_output(), self._snapshot_id, self._compression
        with kind(*at) as writer:
            for entry in entries:
                if content == DELETES and entry.data_file in self.adding:
                    writer.add_entry(entry)
                else:
                    writer.existing(entry)
        return writer.to_manifest_file()


def _added(file: DataFile, snapshot_id: int) -> ManifestEntry:
    return ManifestEntry.from_args(
        status=ManifestEntryStatus.ADDED,
        snapshot_id=snapshot_id,
        sequence_number=None,
        file_sequence_number=None,
        data_file=file,
    )


def row_delta(
    table: Table, files: Sequence[DataFile] = (), deletes: Sequence[DataFile] = (), dropped: Sequence[str] = ()
) -> None:
    """One commit that adds ``files`` and ``deletes`` and takes away files of either kind by their paths."""
    change = table.transaction()
    producer = _RowDelta(operation=Operation.OVERWRITE, transaction=change, io=table.io)
    producer.adding, producer.dropping = deletes, frozenset(dropped)
    with producer:
        for file in files:
            producer.append_data_file(file)
    change.commit_transaction()


def laid(table: Table, rows: pa.Table) -> list[Laid]:
    """Data files of ``rows``, which nobody sees yet."""
    return Stager(table).lay(conform(rows, table.schema()), str(uuid4()))


def deleting(
    table: Table, positions: Mapping[str, Sequence[int]], like: DataFile | None = None, *, told: bool = False
) -> DataFile:
    """A delete file in the partition of ``like``; ``told``: its bounds say which data file it concerns, if one."""
    path = f"{table.location()}/data/{uuid4()}-foreign-deletes.parquet"
    pairs = [(file, position) for file, found in sorted(positions.items()) for position in sorted(found)]
    with table.io.new_output(path).create() as stream:
        pq.write_table(pa.Table.from_pylist([{"file_path": f, "pos": p} for f, p in pairs], _SCHEMA), stream)
    bounds = {PATH_ID: pairs[0][0].encode()} if told and len(positions) == 1 else {}
    file = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=like.partition if like is not None else Record(),
        record_count=len(pairs),
        file_size_in_bytes=Path(path.removeprefix("file://")).stat().st_size,
        lower_bounds=bounds,
        upper_bounds=bounds,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
    )
    file.spec_id = like.spec_id if like is not None else table.metadata.default_spec_id
    return file


def set_head(table: Table, snapshot_id: int) -> Table:
    """Move the head to any snapshot; returns the table with it."""
    update = SetSnapshotRefUpdate(ref_name=MAIN_BRANCH, type="branch", snapshot_id=snapshot_id)
    table.catalog.commit_table(table, (), (update,))
    return table.refresh()


def delete_files(table: Table) -> list[DataFile]:
    """The head's delete files."""
    snapshot = table.current_snapshot()
    found = [] if snapshot is None else snapshot.manifests(table.io)
    return [
        entry.data_file
        for manifest in found
        if manifest.content == DELETES
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
    ]


def alive(table: Table, key: Sequence[int]) -> tuple[Alive, dict[str, list[int]]]:
    """Where the living row of each key lies, the key given by field ids; and each file's deleted positions."""
    found: Alive = {}
    dead: dict[str, list[int]] = {}
    for task in table.scan().plan_files():
        path = task.file.file_path
        with table.io.new_input(path).open() as stream:
            rows = pq.ParquetFile(stream).read()
        names = {int(one.metadata[b"PARQUET:field_id"]): one.name for one in rows.schema}
        gone = {int(p) for one in task.delete_files for p in _deleted(table, one, path)}
        dead[path] = sorted(position for position in gone if position < len(rows))
        for position, values in enumerate(zip(*(rows[names[one]].to_pylist() for one in key), strict=True)):
            if position not in gone:
                assert found.setdefault(values, (path, position)) == (path, position), "a key is there twice"
    return found, dead


def _deleted(table: Table, file: DataFile, path: str) -> np.ndarray[Any, Any]:
    positions = _read_deletes(table.io, file).get(path)
    return np.zeros(0, np.int64) if positions is None else positions.to_numpy()


def rows(*ids: int, part: int = 0) -> pa.Table:
    return pa.table({"v": [f"v{n}" for n in ids], "id": ids, "part": [part] * len(ids)}, ORDERS)


def keys_of(*ids: int) -> Hashes:
    return hashes(pa.table({"k": pa.array(ids, pa.int64())}))


def where(index: KeyIndex, keys: Sequence[Any]) -> dict[tuple[Any, ...], tuple[str, int]]:
    """What the index says of ``keys``."""
    columns = [pa.array(column) for column in zip(*keys, strict=True)]
    files, positions = index.find(hashes(pa.table(columns, [str(at) for at in range(len(columns))])))
    assert ((files < 0) == (positions < 0)).all()
    return {
        key: (index.file(file).file_path, position)
        for key, file, position in zip(keys, files.tolist(), positions.tolist(), strict=True)
        if file >= 0
    }


def check(index: KeyIndex, table: Table, key: Sequence[int] = (2,), others: Sequence[Any] = tuple(range(200))) -> None:
    """The index says what PyIceberg says, of every key that is there and of others."""
    found, dead = alive(table, key)
    asked = {**dict.fromkeys(found), **dict.fromkeys((one,) for one in others if len(key) == 1)}
    assert where(index, list(asked)) == found
    for path, positions in dead.items():
        number = index.number(path)
        assert number is not None
        assert index.deleted(number).tolist() == positions
    assert index.at == table.metadata.current_snapshot_id


def commit(index: KeyIndex, table: Table, ids: Sequence[int], gone: Sequence[int] = (), part: int = 0) -> Table:
    """A commit as lakeward makes it: ``ids`` come (again), ``gone`` go; the index follows without reading."""
    index.advance(table)
    files, positions = index.find(keys_of(*ids, *gone))
    touched = [(n, np.sort(positions[files == n])) for n in np.unique(files[files >= 0]).tolist()]
    merged = [Gone(index.file(n), np.union1d(index.deleted(n), new)) for n, new in touched]
    shrunk = [one for one in merged if len(one.positions) < one.file.record_count]
    deletes = write_deletes(table, shrunk, f"{table.metadata.new_snapshot_id()}")
    came = laid(table, rows(*ids, part=part))
    paths = {one.file.file_path for one in merged}
    dropped = [one.file_path for one in delete_files(table) if concerns(one) in paths]
    dropped += paths - {one.file.file_path for one in shrunk}
    row_delta(table, [one.file for one in came], deletes, dropped)
    index.landed(table, [Arrived(one.file, keys_of(*ids)[one.rows]) for one in came], touched, deletes)
    return table
