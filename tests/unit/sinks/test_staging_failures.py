"""Staging that fails half-way: what is raised, and that nothing is left behind."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

from lakeward.errors import LakewardError, PermissionDeniedError, StorageError, UnreachableError
from lakeward.layout import Layout
from lakeward.sinks.iceberg.evolution import iceberg_schema
from lakeward.sinks.iceberg.layout import partition_spec, sort_order
from lakeward.sinks.iceberg.staging import Stager, discard
from lakeward.testing.faults import Fault, FaultyIO, Plan, fail, meanwhile

ROWS = pa.table(
    {
        "who": pa.array([f"w{n % 3}" for n in range(30_000)]),
        "n": pa.array([n * 2654435761 % 2**61 for n in range(30_000)]),
    }
)


@pytest.fixture
def plan() -> Plan:
    return Plan()


@pytest.fixture
def table(tmp_path: Path, plan: Plan) -> Iterator[Table]:
    """Three partitions, several files in each, on a store that follows the plan."""
    catalog = SqlCatalog("lake", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/lake")
    catalog.create_namespace("db")
    schema, layout = iceberg_schema(ROWS.schema), Layout.parse(["who"], ["n"])
    made = catalog.create_table(
        "db.t",
        schema,
        partition_spec=partition_spec(layout, schema),
        sort_order=sort_order(layout, schema),
        properties={"write.target-file-size-bytes": "16384"},
    )
    made.io = FaultyIO(made.io, plan)
    yield made
    catalog.close()


class Filling(io.RawIOBase):
    """A stream on a disk that has room for so many more bytes; closing flushes, and fails as writing does."""

    def __init__(self, inner: Any, room: int, error: int) -> None:
        self._inner = inner
        self._room = room
        self._error = error

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._inner.tell()

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(self._error, "not now", "some file")
        return self._inner.write(data)

    def close(self) -> None:
        if not self._inner.closed:
            self._inner.close()
            if self._room < 0:
                raise OSError(self._error, "not now", "some file")
        super().close()


def filling(room: int, error: int = errno.ENOSPC) -> Fault:
    return lambda call: Filling(call(), room, error)


def left(tmp_path: Path) -> list[Path]:
    return list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("room", [0, 3, 5000])
def test_a_full_disk_half_way_is_a_storage_error_and_leaves_nothing(table, plan, tmp_path, number, room):
    plan.at("write", number, filling(room))
    with pytest.raises(StorageError, match=r"writing data files: file://.*\.parquet.*\n.*room") as caught:
        Stager(table).stage([ROWS], "c1")
    assert caught.value.directive == "retry"
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StorageError),
        (
            OSError("When initiating multiple part upload: AWS Error NO_SUCH_BUCKET during CreateMultipartUpload"),
            StorageError,
        ),
        (FileNotFoundError("The specified bucket does not exist"), StorageError),
        (PermissionError(errno.EACCES, "Permission denied"), PermissionDeniedError),
        (PermissionError("The Access Key Id you provided does not exist in our records."), PermissionDeniedError),
        (
            OSError("When completing multiple part upload: AWS Error ACCESS_DENIED during PutObject"),
            PermissionDeniedError,
        ),
        (
            OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7, Couldn't connect"),
            UnreachableError,
        ),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://nowhere:9000"), UnreachableError),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://nowhere:9000"), UnreachableError),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), UnreachableError),
        (TimeoutError("timed out"), UnreachableError),
    ],
    ids=str,
)
def test_what_a_store_raises_becomes_our_error_with_its_cause(table, plan, tmp_path, error, expected):
    plan.at("write", 4, fail(error))
    with pytest.raises(LakewardError) as caught:
        Stager(table).stage([ROWS], "c1")
    assert type(caught.value) is expected
    assert caught.value.__cause__ is error
    assert caught.value.way_out
    assert left(tmp_path) == []


def test_the_same_batch_can_be_staged_again_after_a_failure(table, plan, tmp_path):
    plan.at("write", 2, filling(100))
    with pytest.raises(StorageError):
        Stager(table).stage([ROWS], "c1")
    files = Stager(table).stage([ROWS], "c1")
    assert sum(file.record_count for file in files) == len(ROWS)
    assert len(left(tmp_path)) == len(files)


def test_files_that_cannot_be_deleted_do_not_hide_the_failure(table, plan, tmp_path):
    plan.at("write", 3, filling(100))
    plan.at("delete", 1, fail(ConnectionResetError("gone")))
    with pytest.raises(StorageError):
        Stager(table).stage([ROWS], "c1")
    assert len(left(tmp_path)) <= 1
    assert plan.counts["delete"] >= 3


def test_discarding_goes_on_after_a_file_that_cannot_be_deleted(table, plan, tmp_path):
    files = Stager(table).stage([ROWS], "c1")
    plan.at("delete", 2, fail(ConnectionResetError("gone")))
    discard(table.io, files)
    assert [str(path) for path in left(tmp_path)] == [files[1].file_path.removeprefix("file://")]


def test_a_store_that_stopped_answering_is_not_asked_about_every_file(table, plan):
    files = Stager(table).stage([ROWS], "c1")
    plan.always("delete", fail(ConnectionResetError("gone")))
    discard(table.io, files)
    assert len(files) > 3
    assert plan.counts["delete"] == 2


def test_a_failing_partition_stops_the_others_before_it_is_raised(table, plan, tmp_path):
    running: list[str] = []
    record: Callable[[], None] = lambda: running.append(threading.current_thread().name)  # noqa: E731
    plan.always("write", meanwhile(record))
    plan.at("write", 1, fail(OSError(errno.ENOSPC, "full")))
    with pytest.raises(StorageError):
        Stager(table).stage([ROWS], "c1")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("staging")]
    assert left(tmp_path) == []


def test_an_interrupt_while_writing_leaves_nothing(table, plan, tmp_path):
    plan.at("write", 3, fail(KeyboardInterrupt()))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        Stager(table).stage([ROWS], "c1")
    assert left(tmp_path) == []


def test_a_disk_that_is_really_full_is_named(table, tmp_path):
    folder = Path(table.location().removeprefix("file://")) / "data" / "who=w1"
    folder.mkdir(parents=True)
    (folder / "c1-00001-000.parquet").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"who=w1/c1-00001-000\.parquet: .*No space left"):
        Stager(table).stage([ROWS], "c1")
    assert left(tmp_path) == []
