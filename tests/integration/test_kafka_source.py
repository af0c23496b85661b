"""The source contract against a real Kafka, and what only a real one does: transactions, more partitions, restarts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from servers.kafka import Kafka

from lakeward.clock import SystemClock
from lakeward.errors import OperatorError
from lakeward.positions import Partition, Position
from lakeward.sources.kafka import KafkaSource
from lakeward.sources.kafka_client import KafkaSettings

pytest.register_assert_rewrite("source_suite")
sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from source_suite import Reader, SourceContract, fresh, numbered  # noqa: E402  found through the lines above

ANSWER_S = 60.0


class RealCluster:
    def __init__(self, kafka: Kafka) -> None:
        self.bootstrap_servers = kafka.bootstrap_servers
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})

    def create(self, topic: str, partitions: int, **config: str) -> None:
        # Records of any time, and no retention that takes the old ones away while a test runs.
        ages = {"message.timestamp.before.max.ms": str(2**62), "retention.ms": "-1"}
        config = {**ages, "max.message.bytes": "8000000", **config}
        answer = self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)], operation_timeout=10)
        answer[topic].result(ANSWER_S)

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic], operation_timeout=10)[topic].result(ANSWER_S)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        place = TopicPartition(topic, partition, before)
        self.admin.delete_records([place])[place].result(ANSWER_S)

    def grow(self, topic: str, partitions: int) -> None:
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(ANSWER_S)


@pytest.fixture(scope="module")
def cluster(kafka: Kafka) -> RealCluster:
    return RealCluster(kafka)


@pytest.fixture(params=[True, False], ids=["native", "plain"])
def native(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def transact(cluster: RealCluster) -> Callable[..., None]:
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "transactional.id": fresh("writer")})
    producer.init_transactions(10)

    def transact(topic: str, values: list[bytes], *, commit: bool) -> None:
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=0)
        producer.flush(10)
        (producer.commit_transaction if commit else producer.abort_transaction)(10)

    return transact


class TestRealKafka(SourceContract):
    def test_reached_passes_the_markers_of_transactions(self, topic, transact, open_reader) -> None:
        place = Partition(topic, 0)
        transact(topic, numbered(3), commit=True)
        reader = open_reader(topic)
        reader.until(lambda: reader.reached.get(place) == 4)
        assert reader.got[place] == list(enumerate(numbered(3)))
        transact(topic, numbered(2), commit=True)
        reader.until(lambda: reader.reached[place] == 7)
        assert reader.offsets(place) == [0, 1, 2, 4, 5]

    def test_aborted_messages_are_passed_and_never_handed_over(self, topic, transact, open_reader) -> None:
        place = Partition(topic, 0)
        transact(topic, numbered(3), commit=True)
        transact(topic, [b"aborted"] * 4, commit=False)
        reader = open_reader(topic)
        reader.until(lambda: reader.reached.get(place) == 9)
        assert reader.values(place) == numbered(3)
        assert reader.source.partitions([topic])[place].end == 9

    def test_an_open_transaction_ends_the_topic_until_it_is_decided(self, cluster, topic, open_reader) -> None:
        place = Partition(topic, 0)
        producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "transactional.id": fresh("writer")})
        producer.init_transactions(10)
        producer.begin_transaction()
        producer.produce(topic, b"later", partition=0)
        producer.flush(10)
        reader = open_reader(topic)
        reader.until(lambda: place in reader.reached)
        assert reader.reached[place] == 0
        assert reader.source.partitions([topic])[place].end == 0
        producer.commit_transaction(10)
        reader.until(lambda: reader.reached[place] == 2)
        assert reader.values(place) == [b"later"]

    def test_beginning_between_messages_and_a_marker_is_in_range(self, topic, transact, open_reader) -> None:
        place = Partition(topic, 0)
        transact(topic, numbered(3), commit=True)
        reader = open_reader(topic)
        reader.starts = {place: Position(3)}
        reader.until(lambda: reader.reached.get(place) == 4)
        assert reader.offsets(place) == []

    def test_partitions_that_are_added_are_assigned(self, cluster, topic, send, open_reader) -> None:
        reader = open_reader(topic)
        reader.until(lambda: len(reader.mine) == 3)
        cluster.grow(topic, 4)
        added = Partition(topic, 3)
        reader.until(lambda: added in reader.mine)
        send(topic, numbered(3), 3)
        reader.read(added, upto=3)
        assert reader.values(added) == numbered(3)

    def test_offsets_at_a_time(self, topic, send, open_reader) -> None:
        first, second, empty = (Partition(topic, number) for number in range(3))
        for number in range(5):
            send(topic, [b"x"], 0, timestamp=1_700_000_000_000 + 1000 * number)
        send(topic, [b"x"], 1, timestamp=1_600_000_000_000)
        source = open_reader(topic).source
        assert source.offsets_at([first, second, empty], 1_700_000_001_500) == {first: 2, second: 1, empty: 0}
        assert source.offsets_at([first], 0) == {first: 0}
        assert source.offsets_at([], 0) == {}


class TestNewerGroupProtocol(SourceContract):
    MEMBERSHIP: ClassVar[Mapping[str, Any]] = {"group.protocol": "consumer"}

    @pytest.fixture
    def native(self) -> bool:
        return True


@pytest.mark.parametrize("native", [True, False], indirect=True)
def test_a_worker_with_a_name_that_stops_leaves_its_partitions_to_others(cluster, native) -> None:
    topic, group = fresh("topic"), fresh("group")
    cluster.create(topic, 4)
    first, second = (_member(cluster, topic, group, name, native=native) for name in ("a", "b"))

    def share() -> bool:
        first.poll(0.01)
        second.poll(0.01)
        return len(first.mine) == len(second.mine) == 2

    first.until(share)
    first.source.close()
    asking = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})

    def alone() -> bool:
        return len(asking.describe_consumer_groups([group])[group].result(ANSWER_S).members) == 1

    second.until(alone)  # long before its session of a minute would have timed out
    second.until(lambda: len(second.mine) == 4)
    second.source.close()


def test_a_worker_whose_name_somebody_else_takes_stops_and_says_so(cluster) -> None:
    topic, group = fresh("topic"), fresh("group")
    cluster.create(topic, 2)
    first, second = (_member(cluster, topic, group, "a", native=True) for _ in range(2))
    first.until(lambda: len(first.mine) == 2)
    second.until(lambda: len(second.mine) == 2)
    with pytest.raises(OperatorError, match="under the name of this one"):
        first.until(lambda: False)
    first.source.close()
    second.until(lambda: len(second.reached) == 2)
    second.source.close()


def test_a_worker_whose_name_nobody_else_can_have_comes_back_when_the_broker_fences_it(cluster) -> None:
    topic, group = fresh("topic"), fresh("group")
    places = [Partition(topic, number) for number in range(2)]
    cluster.create(topic, 2)
    sole = _member(cluster, topic, group, "a", native=True, sole=lambda: True)
    other = _member(cluster, topic, group, "a", native=True)
    sole.until(lambda: len(sole.mine) == 2)
    send = _sender(cluster)
    send(topic, numbered(10))
    sole.read(*places[:1], upto=10)
    other.until(lambda: len(other.mine) == 2)  # as if the broker had forgotten who has the name
    sole.starts = {places[0]: Position(6)}
    sole.until(lambda: sole.lost == set(places))
    sole.until(lambda: sole.mine == set(places))
    send(topic, numbered(5, 10))
    sole.read(*places[:1], upto=15)
    assert sole.got[places[0]] == list(enumerate(numbered(15)))[6:]
    with pytest.raises(OperatorError, match="under the name of this one"):
        other.until(lambda: False)
    other.source.close()
    sole.source.close()


def _member(cluster: RealCluster, topic: str, group: str, name: str, *, native: bool, **more: Any) -> Reader:
    properties = {"group.instance.id": name, "session.timeout.ms": 60_000, "heartbeat.interval.ms": 200}
    settings = KafkaSettings(cluster.bootstrap_servers, group, (topic,), properties=properties, **more)
    source = KafkaSource(settings, SystemClock(), native=native)
    source.open()
    return Reader(source)


def test_a_broker_that_is_killed_and_comes_back_is_waited_for(own_kafka: Kafka) -> None:
    cluster = RealCluster(own_kafka)
    topic = fresh("topic")
    cluster.create(topic, 1)
    place = Partition(topic, 0)
    reader, send = _reader(own_kafka, topic), _sender(own_kafka)
    send(topic, numbered(5))
    reader.read(place, upto=5)
    own_kafka.kill()
    for _ in range(10):
        reader.poll()
    own_kafka.start()
    _sender(own_kafka)(topic, numbered(5, 5))
    reader.read(place, upto=10)
    assert reader.got[place] == list(enumerate(numbered(10)))
    reader.source.close()


def _reader(kafka: Kafka, topic: str) -> Reader:
    source = KafkaSource(KafkaSettings(kafka.bootstrap_servers, fresh("group"), (topic,)), SystemClock())
    source.open()
    return Reader(source)


def _sender(kafka: Kafka | RealCluster) -> Callable[[str, list[bytes]], Any]:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})

    def send(topic: str, values: list[bytes]) -> None:
        for value in values:
            producer.produce(topic, value, partition=0)
        assert producer.flush(30) == 0

    return send
