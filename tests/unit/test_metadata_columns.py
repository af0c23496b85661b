"""What Kafka knows of a record, as columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lakeward.changes import Changes, Effect, Events
from lakeward.metadata_columns import changed, type_of, with_metadata
from lakeward.records import Blobs, DecodedPart, RawBatch

KINDS = {
    "k": "key",
    "t": "topic",
    "p": "partition",
    "o": "offset",
    "ts": "timestamp",
    "h": "header.trace",
}
RAW = RawBatch(
    "orders",
    np.array([2, 0, 2], np.int32),
    np.array([10, 5, 11], np.int64),
    np.array([1500, -1, -2500], np.int64),
    Blobs.of([b"a", None, b""]),
    Blobs.of([b"1", b"2", b"3"]),
    [[("trace", b"x"), ("trace", b"y")], [], [("other", b"z"), ("trace", None)]],
)


def test_every_kind_of_column_says_what_the_source_knew() -> None:
    rows = with_metadata(DecodedPart(pa.table({"v": [1, 2, 3]}), np.arange(3)), RAW, KINDS, 0)
    assert rows.schema.names == ["v", *KINDS]
    assert all(rows.schema.field(name).type == type_of(kind) for name, kind in KINDS.items())
    assert rows.column("k").to_pylist() == [b"a", None, b""]
    assert rows.column("t").to_pylist() == ["orders"] * 3
    assert rows.column("p").to_pylist() == [2, 0, 2]
    assert rows.column("o").to_pylist() == [10, 5, 11]
    assert rows.column("ts").cast(pa.int64()).to_pylist()[0] == 1_500_000
    assert rows.column("ts").to_pylist()[1] is None
    assert rows.column("h").to_pylist() == [b"y", None, None]


def test_rows_keep_their_own_message_when_others_were_rejected_or_skipped() -> None:
    rows = with_metadata(DecodedPart(pa.table({"v": [2]}), np.array([1])), RAW, KINDS, 0)
    assert rows.select(["k", "p", "o"]).to_pylist() == [{"k": None, "p": 0, "o": 5}]


def test_a_source_without_headers_gives_nulls() -> None:
    bare = RawBatch(RAW.topic, RAW.partition, RAW.offset, RAW.timestamp, RAW.keys, RAW.values)
    rows = with_metadata(DecodedPart(pa.table({"v": [1, 2, 3]}), np.arange(3)), bare, {"h": "header.x"}, 0)
    assert rows.column("h").null_count == 3


def test_keys_that_do_not_lie_next_to_each_other_are_joined_right() -> None:
    keys = Blobs(np.frombuffer(b"..bb.a", np.uint8), np.array([5, 0, 2], np.int64), np.array([1, -1, 2], np.int32))
    raw = RawBatch("t", RAW.partition, RAW.offset, RAW.timestamp, keys, RAW.values)
    rows = with_metadata(DecodedPart(pa.table({"v": [1, 2, 3]}), np.arange(3)), raw, {"k": "key"}, 0)
    assert rows.column("k").to_pylist() == [b"a", None, b"bb"]


def test_change_events_tell_what_was_done_when_and_where_in_the_sources_log() -> None:
    moment = pa.timestamp("us", "UTC")
    events = Events(
        pa.array(["c", "d"]), pa.array([1_700_000_000_123_456, None], moment), pa.array(["0/16B3748", None])
    )
    kinds = {
        "_cdc_operation": "operation",
        "_at": "source_timestamp",
        "_ms": "source_timestamp_ms",
        "_lsn": "source_position",
    }
    rows = with_metadata(DecodedPart(pa.table({"v": [1, 2]}), np.array([0, 2]), events=events), RAW, kinds, 0)
    assert rows.column("_cdc_operation").to_pylist() == ["c", "d"]
    assert rows.column("_at").cast(pa.int64()).to_pylist() == [1_700_000_000_123_456, None]
    assert rows.column("_ms").to_pylist() == [1_700_000_000_123, None]
    assert rows.column("_lsn").to_pylist() == ["0/16B3748", None]
    assert all(rows.schema.field(name).type == type_of(kind) for name, kind in kinds.items())


def test_records_that_are_no_change_events_leave_those_columns_null() -> None:
    rows = with_metadata(DecodedPart(pa.table({"v": [1]}), np.array([0])), RAW, {"op": "operation"}, 0)
    assert rows.column("op").to_pylist() == [None]


def test_the_time_of_ingestion_is_the_callers() -> None:
    rows = with_metadata(DecodedPart(pa.table({"v": [1, 2]}), np.array([0, 1])), RAW, {"at": "ingestion_time"}, 1_234)
    assert rows.column("at").cast(pa.int64()).to_pylist() == [1_234_000] * 2


def test_a_row_that_is_only_marked_keeps_what_its_event_does_not_tell() -> None:
    moment = pa.timestamp("us", "UTC")
    events = Events(pa.array(["d", "d"]), pa.array([1, None], moment), pa.array(["0/1", None]))
    changes = Changes(("v",), np.array([Effect.MARK, Effect.MARK], np.uint8))
    part = DecodedPart(pa.table({"v": [1, 2]}), np.arange(2), changes=changes, events=events)
    told = changed(part, {"op": "operation", "at": "source_timestamp", "lsn": "source_position", "k": "key"})
    assert told is not None
    assert {name: mask.tolist() for name, mask in told.absent.items()} == {"at": [False, True], "lsn": [False, True]}
