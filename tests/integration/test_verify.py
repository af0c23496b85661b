"""The audit against real servers: transactions, compaction, topics made anew, a table in S3 behind a REST catalog."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.minio import Minio

from lakeward.assembly import Assembly
from lakeward.clock import SystemClock
from lakeward.config import from_mapping
from lakeward.engine import Engine
from lakeward.pipeline import Until
from lakeward.sinks.iceberg.inspection import examine_files
from lakeward.sources.kafka_client import close
from lakeward.verification import SourceComparison, Verdict, verify

FIELDS = {"id": "long", "name": "string"}
OFTEN = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}


class Stream:
    """A topic on a real broker, and the table that it feeds."""

    def __init__(self, kafka: Kafka, topic: str, sink: dict[str, Any], table: str = "shop.orders") -> None:
        self.kafka = kafka
        self.topic = topic
        self.name = table
        self.document = {
            "name": "orders",
            "source": {"kafka": {"bootstrap_servers": kafka.bootstrap_servers}},
            "decode": {"json": {"fields": FIELDS}},
            "sink": {"iceberg": sink},
            "tables": [{"topics": [topic], "table": table}],
        }

    def send(self, numbers: Sequence[int], **properties: Any) -> None:
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap_servers, **properties})
        for number in numbers:
            producer.produce(self.topic, message(number), key=b"k%d" % (number % 5))
        assert producer.flush(30) == 0

    def run(self) -> None:
        group = {"bootstrap_servers": self.kafka.bootstrap_servers, "group_id": uuid.uuid4().hex}
        self.assembly(source={"kafka": group}).pipeline().run(Until(caught_up=True))

    def assembly(self, **changes: Any) -> Assembly:
        return Assembly(from_mapping({**self.document, **changes}), SystemClock(), random.Random())

    def verify(self) -> Verdict:
        assembly = self.assembly()
        target = assembly.target(assembly.config.tables[0], self.name)
        engine = Engine(assembly.config.catalog_properties())
        return verify(target, engine, SourceComparison(assembly, SystemClock(), lambda *_: None))


def message(number: int) -> bytes:
    return b'{"id":%d,"name":"n%d"}' % (number, number)


@pytest.fixture
def stream(kafka: Kafka, fresh_topic: str, tmp_path: Path) -> Stream:
    return Stream(kafka, fresh_topic, {"warehouse": str(tmp_path)})


def found(verdict: Verdict) -> tuple[int, ...]:
    return tuple(verdict.figures["source"][what] for what in ("compared", "missing", "extra", "changed"))


def test_aborted_transactions_and_their_markers_are_no_records(stream: Stream) -> None:
    stream.kafka.create_topic(stream.topic, 2)
    producer = Producer({"bootstrap.servers": stream.kafka.bootstrap_servers, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    for number, commit in enumerate([True, False, True, True, False]):
        producer.begin_transaction()
        for k in range(10):
            producer.produce(stream.topic, message(number * 10 + k), partition=k % 2)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)
    stream.run()
    verdict = stream.verify()
    assert verdict.passed, verdict
    assert found(verdict) == (30, 0, 0, 0)
    assert verdict.not_checked == ()


def test_records_that_compaction_took_away_are_said_and_the_rest_compared(stream: Stream) -> None:
    stream.kafka.create_topic(stream.topic, 1, OFTEN)
    stream.send(range(50))
    stream.run()
    compact(stream)
    stream.run()
    verdict = stream.verify()
    assert verdict.passed, verdict
    gone = verdict.figures["account"]["records"] - verdict.figures["source"]["records"]
    assert gone > 0
    assert verdict.not_checked == (f"{gone} compacted away in Kafka",)
    table = stream.assembly().catalog.load_table("shop.orders")
    last = max(table.scan(selected_fields=("id",)).to_arrow()["id"].to_pylist())  # the newest of its key
    table.delete(f"id = {last}")
    assert found(stream.verify())[1:] == (1, 0, 0)


def compact(stream: Stream) -> None:
    """Write until the first records are gone."""
    reader = Consumer({"bootstrap.servers": stream.kafka.bootstrap_servers, "group.id": "x"})
    try:
        for number in range(100, 1000):
            stream.send([number])
            reader.assign([TopicPartition(stream.topic, 0, 0)])
            first = reader.consume(1, 5)
            if first and (first[0].offset() or 0) > 0:
                return
    finally:
        close(reader)
    pytest.fail("the broker compacted nothing")


def test_a_topic_that_was_made_anew_is_not_compared(stream: Stream) -> None:
    stream.kafka.create_topic(stream.topic, 1)
    stream.send(range(20))
    stream.run()
    assert found(stream.verify()) == (20, 0, 0, 0)
    admin = stream.kafka.admin()
    admin.delete_topics([stream.topic], operation_timeout=30)[stream.topic].result()
    stream.kafka.create_topic(stream.topic, 1)
    stream.send(range(100, 130))
    verdict = stream.verify()
    assert verdict.problems == ()
    assert verdict.not_checked == (
        f"topic {stream.topic}, which was deleted and created again since",
        "20 of a topic that is gone",
    )


def test_a_table_in_s3_behind_a_rest_catalog(
    kafka: Kafka, iceberg_rest: IcebergRest, s3: Minio, fresh_topic: str, fresh_namespace: str
) -> None:
    sink = {"catalog": {**iceberg_rest.pyiceberg_properties, "type": "rest"}}
    stream = Stream(kafka, fresh_topic, sink, f"{fresh_namespace}.orders")
    kafka.create_topic(fresh_topic, 3)
    stream.send(range(40))
    stream.run()
    stream.send(range(40, 60))
    stream.run()
    verdict = stream.verify()
    assert verdict.passed, verdict
    assert found(verdict) == (60, 0, 0, 0)
    table = stream.assembly().catalog.load_table(stream.name)
    lost = next(iter(table.scan().plan_files())).file.file_path
    bucket, _, key = lost.removeprefix("s3://").partition("/")
    s3.client().delete_object(Bucket=bucket, Key=key)
    assert stream.verify().problems == (f"data file {lost} is gone",)
    assert examine_files(table, random.Random(0)).data == 2


def test_brokers_that_are_away_leave_the_verdict_unfinished(own_kafka: Kafka, tmp_path: Path) -> None:
    stream = Stream(own_kafka, "orders", {"warehouse": str(tmp_path)})
    own_kafka.create_topic("orders", 1)
    stream.send(range(5))
    stream.run()
    own_kafka.kill()
    verdict = stream.verify()
    assert (verdict.passed, verdict.problems, verdict.exit_code) == (False, (), 3)
    assert verdict.figures["rows"] == {"counted": 5}
    assert "does not answer" in verdict.unreachable[0]
