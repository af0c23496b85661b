"""S3: how many requests a commit takes, and what happens to a commit when requests fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.iceberg_rest import IcebergRest
from servers.minio import Minio

from lakeward.clock import SystemClock
from lakeward.errors import UnreachableError
from lakeward.sinks.iceberg.compacting import at_once
from lakeward.sinks.iceberg.orphans import listed
from lakeward.sinks.iceberg.store import delete_files
from lakeward.testing.faults import Fault, fail, lose
from lakeward.testing.lake import Lake, batch, commit, expected
from lakeward.testing.proxy import Answer, StoreProxy


@pytest.fixture
def proxy(s3: Minio) -> Iterator[StoreProxy]:
    with StoreProxy(s3.port) as opened:
        yield opened


@pytest.fixture
def lake(iceberg_rest: IcebergRest, proxy: StoreProxy, fresh_namespace: str) -> Iterator[Lake]:
    """A table whose files are written and read through the proxy; the catalog's own files are not."""
    properties = {**iceberg_rest.pyiceberg_properties, "s3.endpoint": proxy.url}
    with Lake(properties, (fresh_namespace, "orders")) as opened:
        yield opened


def held(lake: Lake) -> list[int]:
    return sorted(lake.table().scan(selected_fields=("offset",)).to_arrow()["offset"].to_pylist())


def test_a_commit_takes_three_requests_one_a_file(lake: Lake, proxy: StoreProxy) -> None:
    target = lake.target(clock=SystemClock())
    commit(target, batch(0, 10))
    commit(target, batch(10, 10))
    proxy.counts.clear()
    commit(target, batch(20, 10))
    assert dict(proxy.counts) == {"PUT": 3}  # data file, manifest, manifest list


def test_compaction_reads_each_small_file_with_two_requests(lake: Lake, proxy: StoreProxy) -> None:
    target = lake.target(clock=SystemClock())
    for number in range(6):
        commit(target, batch(number, 1))
    proxy.counts.clear()
    assert lake.target(clock=SystemClock()).compact() == 6
    assert proxy.counts["GET"] == 6 + 6 + 1  # data files, manifests, the manifest list
    assert proxy.counts["PUT"] == 1 + 7 + 1  # the new file; manifests with what goes and with what comes; their list
    assert held(lake) == [*range(6)]


@pytest.mark.parametrize("fault", [fail(Answer(503)), fail(ConnectionError()), lose(ConnectionError())])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_request_that_fails_once_is_sent_again_and_nobody_notices(
    lake: Lake, proxy: StoreProxy, fault: Fault, number: int
) -> None:
    target = lake.target(clock=SystemClock())
    commit(target, batch(0, 5))
    proxy.plan.at("PUT", proxy.counts["PUT"] + number, fault)
    commit(target, batch(5, 5))
    assert held(lake) == [*range(10)]
    assert lake.breaks() == []


def test_a_store_that_goes_on_failing_is_an_error_that_may_be_tried_again_and_leaves_nothing(
    lake: Lake, proxy: StoreProxy
) -> None:
    target = lake.target(clock=SystemClock())
    commit(target, batch(0, 5))
    proxy.plan.always("PUT", fail(Answer(503)))
    with pytest.raises(UnreachableError):
        target.stage(batch(5, 5))
    proxy.plan.always("PUT", None)
    commit(target, batch(5, 5))
    assert held(lake) == [*range(10)]


def test_a_large_file_goes_in_parts_and_a_part_that_fails_is_sent_again(lake: Lake, proxy: StoreProxy) -> None:
    lake_properties = {"write.parquet.compression-codec": "uncompressed"}
    target = lake.target(clock=SystemClock(), properties=lake_properties)
    commit(target, batch(0, 5))
    proxy.plan.at("PUT PART", 2, fail(Answer(503)))
    large = batch(5, 1_500_000)
    commit(target, large)
    assert proxy.counts["BEGIN PARTS"] == proxy.counts["END PARTS"] == 1
    assert proxy.counts["PUT PART"] > 2
    assert len(held(lake)) == 1_500_005


def test_the_stream_stays_exact_while_requests_of_all_kinds_fail_now_and_then(lake: Lake, proxy: StoreProxy) -> None:
    target = lake.target(clock=SystemClock(), rewriter=at_once)
    for operation, every in {"PUT": 7, "GET": 11, "HEAD": 13}.items():
        for number in range(every, 400, every):
            proxy.plan.at(operation, number, (fail, lose)[number % 2](ConnectionError()))
    batches = [batch(number * 3, 3) for number in range(10)]
    for one in batches:
        commit(target, one)
    assert held(lake) == [*range(30)]
    assert lake.breaks() == []
    assert len(expected(*batches)) == 30


@pytest.mark.parametrize(("fault", "one_by_one"), [(None, 0), (fail(Answer(403)), 5)])
def test_files_are_deleted_many_at_once_and_one_by_one_where_the_store_refuses_that(
    lake: Lake, proxy: StoreProxy, fault: Fault | None, one_by_one: int
) -> None:
    target = lake.target(clock=SystemClock())
    commit(target, batch(0, 5))
    table = lake.table()
    paths = [f"{table.location()}/data/litter-{number}" for number in range(5)]
    for path in paths:
        with table.io.new_output(path).create() as stream:
            stream.write(b"litter")
    proxy.plan.always("DELETE MANY", fault)
    proxy.counts.clear()
    assert delete_files(table.io, [*paths, f"{table.location()}/data/never-there"]) == {}
    assert proxy.counts["DELETE MANY"] == 1
    assert proxy.counts["DELETE"] == one_by_one
    assert {stray.path for stray in listed(table.io, f"{table.location()}/data")}.isdisjoint(paths)
    assert held(lake) == [*range(5)]
