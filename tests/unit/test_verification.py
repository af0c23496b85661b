"""The audit finds what is wrong with a table, says what it cannot know, and passes what is right."""

from __future__ import annotations

import itertools
import random
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pyiceberg.table import Table

from lakeward.assembly import Assembly, Choices
from lakeward.cli import main
from lakeward.clock import SystemClock
from lakeward.config import from_mapping
from lakeward.decoding.json import JsonDecoder
from lakeward.engine import Engine
from lakeward.errors import UnreachableError
from lakeward.ledger import encode, key_of
from lakeward.metadata_columns import with_metadata
from lakeward.outcomes import Batch
from lakeward.pipeline import Until
from lakeward.positions import Account, Partition, Position, Span
from lakeward.records import Blobs, RawBatch
from lakeward.seeking import seek, shifts
from lakeward.sinks.iceberg.inspection import examine_files
from lakeward.sources import kafka_reader
from lakeward.starts import Holdings
from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import produce, producer_of
from lakeward.testing.waiting import joined
from lakeward.verification import SourceComparison, Verdict, source, verify

FIELDS = {"id": "long", "price": "decimal(18,6)", "ratio": "double", "name": "string"}
SCHEMA = pa.schema(
    [("id", pa.int64()), ("price", pa.decimal128(18, 6)), ("ratio", pa.float64()), ("name", pa.string())]
)
CODE = Path(tempfile.gettempdir()) / "lakeward-tests-code"
"""Compiled once for all runs."""
DECODER = JsonDecoder(FIELDS, CODE)
GROUPS = itertools.count()
KEYED = {"_partition": "partition", "_offset": "offset"}


def message(number: int) -> bytes:
    return b'{"id":%d,"price":"%d.000001","ratio":%s,"name":"n%d"}' % (
        number,
        number,
        repr(number / 7).encode(),
        number % 3,
    )


def row(number: int, **changes: Any) -> pa.Table:
    values = {"id": number, "price": Decimal(f"{number}.000001"), "ratio": number / 7, "name": f"n{number % 3}"}
    return pa.Table.from_pylist([{**values, **changes}], schema=SCHEMA)


class Stream:
    """A topic of two partitions, the table it feeds, and the audit of both."""

    def __init__(self, folder: Path, broker: EmbeddedBroker, **table: Any) -> None:
        self.folder = folder
        self.ends: dict[int, int] = {}
        self.broker = broker
        self.config: dict[str, Any] = {
            "name": "orders",
            "source": {"kafka": self.kafka()},
            "decode": {"json": {"fields": FIELDS}},
            "sink": {"iceberg": {"warehouse": str(folder / "wh")}},
            "tables": [{"topics": ["orders"], "table": "shop.orders", **table}],
        }

    def kafka(self) -> dict[str, str]:
        """A group of its own for each run: nobody waits for the one before to be given up."""
        return {"bootstrap_servers": self.broker.bootstrap_servers, "group_id": f"g{next(GROUPS)}"}

    def send(self, numbers: Sequence[int], partition: int = 0) -> None:
        self.send_raw([message(n) for n in numbers], partition)

    def send_raw(self, payloads: Sequence[bytes | None], partition: int = 0) -> None:
        produce(producer_of(self.broker.bootstrap_servers), "orders", payloads, homes=[partition] * len(payloads))

    def run(self) -> None:
        self.assembly(source={"kafka": {**self.config["source"]["kafka"], **self.kafka()}}).pipeline().run(
            Until(caught_up=True)
        )

    def fill(self, numbers: Sequence[int], partition: int = 0) -> None:
        """Send, and commit as the pipeline would, without the wait for a group."""
        payloads = [message(n) for n in numbers]
        self.send_raw(payloads, partition)
        count, start = len(payloads), self.ends.get(partition, 0)
        raw = RawBatch(
            "orders",
            np.full(count, partition, np.int32),
            np.arange(start, start + count),
            np.zeros(count, np.int64),
            Blobs.of([None] * count),
            Blobs.of(payloads),
        )
        (part,) = DECODER.decode(raw).parts
        self.ends[partition] = start + count
        assembly = self.assembly()
        table = assembly.config.tables[0]
        home = Partition("orders", partition)
        made = Batch(
            id=uuid.uuid4().hex,
            parts=[with_metadata(part, raw, dict(table.metadata_columns), 0)],
            claim={home: Span(start, start + count)},
            upto={home: Position(start + count)},
            sources={"orders": None},
            account=Account(count, count, 0),
        )
        target = assembly.target(table, "shop.orders")
        target.commit(target.stage(made))

    def seek(self, to: dict[Partition, int]) -> None:
        """As `lakeward seek` does."""
        assembly = self.assembly()
        target = assembly.target(assembly.config.tables[0], "shop.orders")
        entry = target.find().entry
        assert entry is not None
        holdings = Holdings(assembly.survey(["orders"]), {})
        target.commit(target.stage(seek(entry, shifts(entry, to, holdings), holdings, uuid.uuid4().hex)))

    def assembly(self, **changes: Any) -> Assembly:
        config = from_mapping({**self.config, **changes})
        return Assembly(config, SystemClock(), random.Random(), Choices(code_cache=CODE))

    def verify(self, *, against_source: bool = True, **changes: Any) -> Verdict:
        assembly = self.assembly(**changes)
        target = assembly.target(assembly.config.tables[0], "shop.orders")
        comparison = SourceComparison(assembly, SystemClock(), lambda *_: None) if against_source else None
        return verify(target, Engine(assembly.config.catalog_properties()), comparison)

    def table(self) -> Table:
        return self.assembly().catalog.load_table("shop.orders")

    def files(self) -> list[Path]:
        return [Path(task.file.file_path.removeprefix("file://")) for task in self.table().scan().plan_files()]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({"orders": 2}) as running:
        yield running


@pytest.fixture
def stream(tmp_path: Path, broker: EmbeddedBroker) -> Stream:
    """Three commits: 30 records, 30 in the other partition, 40 more."""
    return filled(Stream(tmp_path, broker))


@pytest.fixture
def keyed(tmp_path: Path, broker: EmbeddedBroker) -> Stream:
    """The same, and each row says which record it is."""
    return filled(Stream(tmp_path, broker, metadata_columns=KEYED))


def filled(stream: Stream) -> Stream:
    stream.fill(range(30), 0)
    stream.fill(range(30, 60), 1)
    stream.fill(range(60, 100), 0)
    return stream


def found(verdict: Verdict) -> dict[str, int]:
    return {what: verdict.figures["source"][what] for what in ("compared", "missing", "extra", "changed")}


def passes(verdict: Verdict) -> bool:
    assert not verdict.problems, verdict
    return verdict.passed


@pytest.mark.parametrize("native", [False, True])
def test_a_table_that_holds_what_the_stream_said_passes(
    tmp_path: Path, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, *, native: bool
) -> None:
    stream = Stream(tmp_path, broker)
    stream.send(range(60), 0)
    stream.run()
    stream.send(range(60, 100), 1)
    stream.run()
    monkeypatch.setattr(source, "REFERENCE_MOST", 0 if native else 1000)
    verdict = stream.verify()
    assert passes(verdict)
    assert found(verdict) == {"compared": 100, "missing": 0, "extra": 0, "changed": 0}
    assert verdict.figures["source"]["decoder"] == ("the pipeline's own decoder" if native else "Python's json")
    assert verdict.not_checked == ()
    assert dict(verdict.lines)["ledger"] == "2 commits, contiguous, 2 partitions"
    assert dict(verdict.lines)["account"] == "100 records = 100 rows + 0 skipped"


def test_without_the_source_it_says_that_the_values_were_not_compared(stream: Stream) -> None:
    verdict = stream.verify(against_source=False)
    assert passes(verdict)
    assert verdict.not_checked == ("the values against the source (--against-source)",)


def test_tombstones_are_records_without_rows(stream: Stream) -> None:
    stream.send_raw([None, message(100), None])
    stream.run()
    verdict = stream.verify()
    assert passes(verdict)
    assert found(verdict)["compared"] == 101
    assert dict(verdict.lines)["account"] == "103 records = 101 rows + 2 skipped"


def test_records_that_were_not_committed_yet_are_not_missing(stream: Stream) -> None:
    stream.send(range(200, 230))
    assert passes(stream.verify())


@pytest.mark.parametrize("native", [False, True])
def test_a_missing_row_is_found_and_its_record_named(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, *, native: bool
) -> None:
    monkeypatch.setattr(source, "REFERENCE_MOST", 0 if native else 1000)
    stream.table().delete("id = 65")
    verdict = stream.verify()
    assert found(verdict) == {"compared": 100, "missing": 1, "extra": 0, "changed": 0}
    assert any("orders/0 offset 35" in problem for problem in verdict.problems)
    assert verdict.exit_code == 1


def test_a_row_that_is_there_twice_is_found_whoever_appended_it(stream: Stream) -> None:
    stream.table().append(row(42))
    verdict = stream.verify()
    assert found(verdict) == {"compared": 100, "missing": 0, "extra": 1, "changed": 0}
    assert not verdict.passed


@pytest.mark.parametrize(
    "changes",
    [
        {"price": Decimal("65.000002")},
        {"ratio": 65 / 7 + 2e-15},
        {"name": "n2 "},
        {"name": None},
    ],
)
def test_one_changed_value_is_found(stream: Stream, changes: dict[str, Any]) -> None:
    table = stream.table()
    with table.transaction() as transaction:
        transaction.delete("id = 65")
        transaction.append(row(65, **changes))
    verdict = stream.verify()
    assert found(verdict) == {"compared": 100, "missing": 0, "extra": 0, "changed": 1}
    assert any("orders/0 offset 35" in problem for problem in verdict.problems)


def test_a_zero_that_lost_its_sign_is_a_changed_value(stream: Stream) -> None:
    stream.send_raw([b'{"id":500,"ratio":-0.0}'])
    stream.run()
    assert passes(stream.verify())
    with stream.table().transaction() as transaction:
        transaction.delete("id = 500")
        transaction.append(pa.Table.from_pylist([{"id": 500, "ratio": 0.0}], schema=SCHEMA))
    assert found(stream.verify())["changed"] == 1


def test_equal_rows_count_and_nulls_equal_each_other(tmp_path: Path, broker: EmbeddedBroker) -> None:
    stream = Stream(tmp_path, broker)
    stream.send_raw([b'{"id":1}', b"{}", b'{"id":1}'])
    stream.run()
    verdict = stream.verify()
    assert passes(verdict)
    assert found(verdict)["compared"] == 3


def test_with_partition_and_offset_columns_the_changed_column_is_named(keyed: Stream) -> None:
    assert passes(keyed.verify())
    table = keyed.table()
    rows = table.scan("id = 65").to_arrow()
    changed = rows.set_column(1, rows.schema.field("price"), pa.array([Decimal("0.5")], pa.decimal128(18, 6)))
    with table.transaction() as transaction:
        transaction.delete("id = 65")
        transaction.append(changed)
    verdict = keyed.verify()
    assert found(verdict) == {"compared": 100, "missing": 0, "extra": 0, "changed": 1}
    assert any("in price" in problem and "orders/0 offset 35" in problem for problem in verdict.problems)


def test_with_partition_and_offset_columns_a_duplicate_is_one_even_where_its_values_differ(keyed: Stream) -> None:
    table = keyed.table()
    rows = table.scan("id = 65").to_arrow()
    table.append(rows.set_column(3, rows.schema.field("name"), pa.array(["other"], rows.schema.field("name").type)))
    verdict = keyed.verify()
    assert found(verdict) == {"compared": 100, "missing": 0, "extra": 1, "changed": 0}


def test_a_row_above_the_position_is_wrong(keyed: Stream) -> None:
    table = keyed.table()
    rows = table.scan("id = 65").to_arrow()
    table.append(rows.set_column(rows.schema.get_field_index("_offset"), "_offset", pa.array([1000], pa.int64())))
    verdict = keyed.verify()
    assert any("above the table's own position" in problem for problem in verdict.problems)


@pytest.mark.parametrize("name", ["stream", "keyed"])
def test_what_expired_from_kafka_is_said_and_the_rest_compared(name: str, request: pytest.FixtureRequest) -> None:
    stream: Stream = request.getfixturevalue(name)
    stream.broker.delete_records("orders", 0, 20)
    verdict = stream.verify()
    assert passes(verdict)
    assert found(verdict) == {"compared": 80, "missing": 0, "extra": 0, "changed": 0}
    assert verdict.not_checked == ("20 expired from Kafka",)


@pytest.mark.parametrize("name", ["stream", "keyed"])
def test_a_change_among_what_is_left_is_found_although_the_rest_expired(
    name: str, request: pytest.FixtureRequest
) -> None:
    stream: Stream = request.getfixturevalue(name)
    stream.broker.delete_records("orders", 0, 20)
    table = stream.table()
    rows = table.scan("id = 65").to_arrow()
    with table.transaction() as transaction:
        transaction.delete("id = 65")
        transaction.append(
            rows.set_column(3, rows.schema.field("name"), pa.array(["x"], rows.schema.field("name").type))
        )
    verdict = stream.verify()
    assert found(verdict) == {"compared": 80, "missing": 0, "extra": 0, "changed": 1}


def test_rows_of_other_programs_are_counted_and_not_compared(stream: Stream) -> None:
    stream.table().append(pa.concat_tables([row(1000), row(1001)]))
    verdict = stream.verify()
    assert passes(verdict)
    assert dict(verdict.lines)["foreign"] == "1 append (another program), +2 rows"
    assert verdict.not_checked == ("2 rows of other programs",)


def test_rows_of_library_appends_are_counted_and_not_compared(stream: Stream) -> None:
    from lakeward import open_table  # noqa: PLC0415

    open_table(stream.config, "shop.orders").append([{"id": 1000}, {"id": 1001}])
    verdict = stream.verify()
    assert passes(verdict)
    assert dict(verdict.lines)["library"] == "1 append, +2 rows"
    assert verdict.not_checked == ("2 rows of library appends",)


def test_a_truncated_data_file_is_found(stream: Stream) -> None:
    file = stream.files()[0]
    file.write_bytes(file.read_bytes()[:-10])
    verdict = stream.verify()
    assert any(str(file) in problem for problem in verdict.problems)
    assert verdict.not_checked == ("rows and values, since there are files that cannot be read",)


def test_a_deleted_data_file_is_found(stream: Stream) -> None:
    file = stream.files()[0]
    file.unlink()
    verdict = stream.verify()
    assert any(problem.endswith(f"{file} is gone") for problem in verdict.problems)


def test_a_data_file_of_the_right_size_without_a_footer_is_found(stream: Stream) -> None:
    file = stream.files()[0]
    file.write_bytes(bytes(file.stat().st_size))
    verdict = stream.verify()
    assert any("no readable Parquet file" in problem for problem in verdict.problems)


def test_a_data_file_with_other_rows_than_its_manifest_says_is_found(stream: Stream, tmp_path: Path) -> None:
    file = stream.files()[0]
    size = file.stat().st_size
    shorter = pq.read_table(file).slice(1)
    for padding in range(4000):  # until the file has the same size
        pq.write_table(shorter.replace_schema_metadata({"x": "x" * padding}), file, compression="zstd")
        if file.stat().st_size >= size:
            break
    content = file.read_bytes()
    verdict = stream.verify()
    assert any(str(file) in problem and "its manifest says" in problem for problem in verdict.problems), len(content)


def test_a_damaged_page_is_found_where_values_are_compared(stream: Stream) -> None:
    file = stream.files()[0]
    content = bytearray(file.read_bytes())
    content[8:300] = bytes(292)
    file.write_bytes(content)
    verdict = stream.verify()
    assert "broken" not in dict(verdict.lines)["files"]
    assert any("cannot be read" in problem for problem in verdict.problems)


def test_a_manifest_that_is_gone_is_found(stream: Stream) -> None:
    table = stream.table()
    manifest = table.metadata.snapshots[-1].manifests(table.io)[0].manifest_path
    Path(manifest.removeprefix("file://")).unlink()
    verdict = stream.verify()
    assert any("a manifest is gone" in problem for problem in verdict.problems)


def test_a_table_that_was_rolled_back_holds_what_the_stream_said_up_to_there(stream: Stream) -> None:
    assembly = stream.assembly()
    target = assembly.target(assembly.config.tables[0], "shop.orders")
    target.roll_back(target.plan_rollback(stream.table().metadata.snapshots[1].snapshot_id), "undo")
    verdict = stream.verify()
    assert passes(verdict)
    assert found(verdict)["compared"] == 60
    stream.run()
    verdict = stream.verify()
    assert passes(verdict)
    assert found(verdict)["compared"] == 100


def test_a_rollback_by_another_program_is_understood(stream: Stream) -> None:
    table = stream.table()
    table.manage_snapshots().rollback_to_snapshot(table.metadata.snapshots[0].snapshot_id).commit()
    verdict = stream.verify()
    assert passes(verdict)
    assert found(verdict)["compared"] == 30


@pytest.mark.parametrize("name", ["stream", "keyed"])
def test_what_an_operator_has_read_again_is_in_the_table_twice_and_what_was_skipped_is_not(
    name: str, request: pytest.FixtureRequest
) -> None:
    stream: Stream = request.getfixturevalue(name)
    stream.send(range(100, 110), 0)
    stream.seek({Partition("orders", 0): 50, Partition("orders", 1): 10})
    stream.run()
    stream.send(range(110, 120), 0)
    stream.seek({Partition("orders", 0): 85})
    stream.run()
    verdict = stream.verify()
    assert passes(verdict)
    assert found(verdict)["compared"] == 30 + 20 + 70 + 30 + 5
    assert verdict.not_checked == ()
    assert dict(verdict.lines)["given up"].startswith("45 offsets: orders/0 [70, 50)")


def test_rows_of_another_pipeline_in_the_same_table_are_counted_and_not_compared(
    stream: Stream, tmp_path: Path, broker: EmbeddedBroker
) -> None:
    broker.create("returns", 1)
    other = Stream(tmp_path, broker, topics=["returns"])
    other.config["name"] = "returns"
    produce(producer_of(broker.bootstrap_servers), "returns", [message(n) for n in range(1000, 1007)])
    other.run()
    verdict = stream.verify()
    assert passes(verdict)
    assert dict(verdict.lines)["pipelines"] == "2 appends (returns), +7 rows"
    assert verdict.not_checked == ("7 rows of other pipelines",)
    verdict = other.verify()
    assert passes(verdict)
    assert found(verdict) == {"compared": 7, "missing": 0, "extra": 0, "changed": 0}
    assert verdict.not_checked == ("100 rows of other pipelines",)


def test_a_field_that_the_table_does_not_have_is_told(stream: Stream) -> None:
    verdict = stream.verify(decode={"json": {"fields": {**FIELDS, "more": "string"}}})
    assert verdict.problems == ("the records have a field that the table does not have: more",)


def test_a_column_whose_values_would_change_in_the_table_is_told(stream: Stream) -> None:
    verdict = stream.verify(decode={"json": {"fields": {**FIELDS, "id": "double"}}})
    assert verdict.problems == ("column id: the records hold DOUBLE, the table stores BIGINT",)


def test_of_many_files_a_sample_is_opened(stream: Stream) -> None:
    found = examine_files(stream.table(), random.Random(1), most=1)
    assert (found.data, found.opened, list(found.problems)) == (3, 1, [])


def fake(stream: Stream, start: int, count: int, rows: pa.Table) -> None:
    """A commit that pretends to be the pipeline's: it claims ``count`` records of partition 0 from ``start`` on."""
    entry = stream.assembly().target(stream.assembly().config.tables[0], "shop.orders").find().entry
    assert entry is not None
    partition = Partition("orders", 0)
    forged = replace(
        entry,
        commit="forged",
        number=entry.number + 1,
        claim={partition: Span(start, start + count)},
        positions={**entry.positions, partition: Position(start + count)},
        account=entry.account.plus(Account(count, count, 0)),
    )
    stream.table().append(rows, snapshot_properties={key_of("orders"): encode(forged)})


def test_a_hole_in_the_ledger_is_found(stream: Stream) -> None:
    fake(stream, 75, 1, row(1000))
    verdict = stream.verify(against_source=False)
    assert any("orders/0: the claim starts at 75, after 70" in problem for problem in verdict.problems)
    assert "BROKEN" in dict(verdict.lines)["ledger"]


def test_a_commit_with_fewer_rows_than_it_accounts_for_is_found(stream: Stream) -> None:
    fake(stream, 70, 2, row(1000))
    verdict = stream.verify(against_source=False)
    assert any("its files change the table by 1 rows, its account says 2" in problem for problem in verdict.problems)
    assert any("the table holds 101 rows; its commits account for 102" in problem for problem in verdict.problems)


def test_a_position_that_kafka_never_reached_is_found(stream: Stream) -> None:
    fake(stream, 70, 1, row(1000))
    verdict = stream.verify()
    assert any("orders/0 ends at 70 in Kafka, the table's position is 71" in problem for problem in verdict.problems)


def test_an_entry_that_cannot_be_read_fails_the_table(stream: Stream) -> None:
    stream.table().append(row(1000), snapshot_properties={key_of("orders"): "{"})
    verdict = stream.verify()
    assert not verdict.passed
    assert "cannot be read" in verdict.problems[0]


def test_a_table_that_is_not_there_fails(tmp_path: Path, broker: EmbeddedBroker) -> None:
    verdict = Stream(tmp_path, broker).verify()
    assert verdict.problems == ("the table does not exist",)


def test_offsets_that_were_given_up_are_listed_and_not_compared(tmp_path: Path, broker: EmbeddedBroker) -> None:
    stream = filled(Stream(tmp_path, broker))
    stream.send(range(100, 150))
    broker.delete_records("orders", 0, 90)
    stream.config["source"]["kafka"]["on_lost_positions"] = "earliest"
    stream.run()
    verdict = stream.verify()
    assert passes(verdict)
    assert dict(verdict.lines)["given up"] == "20 offsets: orders/0 [70, 90)"
    assert found(verdict)["compared"] == 60
    assert verdict.not_checked == ("70 expired from Kafka",)


def test_a_topic_that_the_configuration_no_longer_names_is_not_compared(stream: Stream) -> None:
    other = [{"topics": ["others"], "table": "shop.orders"}]
    verdict = stream.verify(tables=other)
    assert passes(verdict)
    assert verdict.not_checked == ("topic orders, which this configuration does not read into the table",)


def test_two_topics_are_compared_together(tmp_path: Path) -> None:
    with EmbeddedBroker({"orders": 2, "returns": 1}) as broker:
        columns = {**KEYED, "_topic": "topic"}
        stream = Stream(tmp_path, broker, topics=["orders", "returns"], metadata_columns=columns)
        produce(producer_of(broker.bootstrap_servers), "returns", [message(n) for n in range(10)])
        stream.send(range(20, 40), 1)
        stream.run()
        verdict = stream.verify()
        assert passes(verdict)
        assert found(verdict)["compared"] == 30
        stream.table().delete("_topic = 'returns' and id = 3")
        verdict = stream.verify()
        assert any("returns/0 offset 3" in problem for problem in verdict.problems)


def test_without_a_broker_the_rest_is_checked_and_the_verdict_is_unfinished(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_reader, "connect", refused)
    verdict = stream.verify()
    assert (verdict.passed, verdict.problems, verdict.exit_code) == (False, (), 3)
    assert "rows" in dict(verdict.lines)
    assert verdict.unreachable


def refused(*_: object) -> None:
    raise UnreachableError("Kafka at nowhere does not answer")


def test_a_topic_that_grows_meanwhile_is_compared_below_the_positions(stream: Stream) -> None:
    stop = threading.Event()

    def keep_sending() -> None:
        number = 1000
        while not stop.wait(0.01):
            stream.send([number])
            number += 1

    writer = threading.Thread(target=keep_sending, daemon=True)
    writer.start()
    try:
        assert passes(stream.verify())
    finally:
        stop.set()
        joined(writer, "the sender")


def test_the_command_prints_the_verdict_and_ends_with_1_where_something_is_wrong(stream: Stream) -> None:
    import yaml  # noqa: PLC0415

    file = stream.folder / "c.yaml"
    file.write_text(yaml.safe_dump(stream.config))
    good = CliRunner().invoke(main, ["verify", str(file), "--against-source"])
    assert good.exit_code == 0
    assert good.output.startswith("shop.orders  PASS\n  ledger    3 commits, contiguous, 2 partitions\n")
    assert "  source    100 compared: 0 missing, 0 extra, 0 changed" in good.output
    stream.table().delete("id = 65")
    bad = CliRunner().invoke(main, ["verify", str(file), "--against-source"])
    assert bad.exit_code == 1
    assert "shop.orders  FAIL" in bad.output
