"""The source contract against the embedded broker, gathering natively and the plain way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from lakeward.clock import SystemClock
from lakeward.errors import OperatorError
from lakeward.positions import Partition, Position
from lakeward.sources import kafka
from lakeward.sources.kafka import KafkaSource
from lakeward.sources.kafka_client import KafkaSettings
from lakeward.sources.kafka_topics import MISSING_S
from lakeward.testing.broker import HEARTBEAT, LIST_OFFSETS, OFFSET_COMMIT, EmbeddedBroker

pytest.register_assert_rewrite("source_suite")
sys.path.insert(0, str(Path(__file__).parent))

from source_suite import Reader, SourceContract, numbered  # noqa: E402  found through the line above

NAMED = {**SourceContract.MEMBERSHIP, "group.instance.id": "a"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(params=[True, False], ids=["native", "plain"])
def native(request: pytest.FixtureRequest) -> bool:
    return request.param


class TestEmbeddedBroker(SourceContract):
    def test_a_broker_that_goes_away_is_waited_for(self, cluster, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        send(topic, numbered(5))
        reader = open_reader(topic)
        reader.read(place, upto=5)
        cluster.down()
        for _ in range(5):
            reader.poll()
        cluster.up()
        send(topic, numbered(5, 5))
        reader.read(place, upto=10)
        assert reader.got[place] == list(enumerate(numbered(10)))

    def test_a_group_commit_that_fails_disturbs_nobody(self, cluster, topic, send, open_reader) -> None:
        place = Partition(topic, 0)
        send(topic, numbered(5))
        reader = open_reader(topic)
        reader.read(place, upto=5)
        cluster.fail(OFFSET_COMMIT, [29])  # TOPIC_AUTHORIZATION_FAILED
        reader.source.ack({place: Position(5)})
        send(topic, numbered(5, 5))
        reader.read(place, upto=10)
        assert reader.got[place] == list(enumerate(numbered(10)))

    def test_a_member_fenced_under_a_name_that_nobody_else_can_have_comes_back(
        self, cluster, topic, send, open_reader
    ) -> None:
        first, second, third = (Partition(topic, number) for number in range(3))
        reader = open_reader(topic, properties=NAMED, sole=lambda: True)
        reader.until(lambda: len(reader.reached) == 3)
        reader.source.pause([second])
        for place in (first, second):
            send(topic, numbered(10), place.number)
        reader.read(first, upto=10)
        before = reader.source
        cluster.fail(HEARTBEAT, [KafkaError.FENCED_INSTANCE_ID])
        reader.starts = {first: Position(4), second: Position(7)}
        reader.until(lambda: reader.lost == {first, second, third})
        reader.read(first, second, upto=10)
        assert reader.source is before
        assert reader.offsets(first) == [4, 5, 6, 7, 8, 9]
        assert reader.offsets(second) == [7, 8, 9]
        assert reader.source.partitions([topic]).keys() == {first, second, third}
        send(topic, numbered(5, 10), 2)
        reader.read(third, upto=5)
        assert reader.values(third) == numbered(5, 10)

    @pytest.mark.parametrize("sole", [None, lambda: False], ids=["given", "not-ours-any-more"])
    def test_a_member_fenced_under_a_name_that_others_can_have_stops(self, cluster, topic, open_reader, sole) -> None:
        reader = open_reader(topic, properties=NAMED, sole=sole)
        reader.until(lambda: len(reader.mine) == 3)
        cluster.fail(HEARTBEAT, [KafkaError.FENCED_INSTANCE_ID])
        with pytest.raises(OperatorError, match="under the name of this one"):
            reader.until(lambda: False)


class Jumping(SystemClock):
    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def test_a_topic_that_is_found_after_the_fence_is_read_too() -> None:
    with EmbeddedBroker({"early": 3}) as cluster, ExitStack() as stack:
        clock = Jumping()
        settings = KafkaSettings(
            cluster.bootstrap_servers, "fenced", ("early", "late"), properties=NAMED, sole=lambda: True
        )
        source = KafkaSource(settings, clock)
        source.open()
        stack.callback(source.close)
        reader = Reader(source)
        reader.until(lambda: len(reader.mine) == 3)
        cluster.note_requests()
        cluster.fail(HEARTBEAT, [KafkaError.FENCED_INSTANCE_ID])
        end = clock.monotonic() + 10
        while not cluster.noted(HEARTBEAT):
            assert clock.monotonic() < end
            source.partitions(["early"])
        cluster.create("late", 1)
        clock.ahead = MISSING_S  # subscribing comes before polling, and is refused
        reader.until(lambda: len(reader.mine) == 4)


def test_a_member_that_is_fenced_again_and_again_stops_whoever_can_have_its_name(monkeypatch) -> None:
    monkeypatch.setattr(kafka, "FENCES", 1)
    with EmbeddedBroker({"idle": 1}) as cluster, ExitStack() as stack:
        settings = KafkaSettings(cluster.bootstrap_servers, "fenced", ("idle",), properties=NAMED, sole=lambda: True)
        source = KafkaSource(settings, SystemClock())
        source.open()
        stack.callback(source.close)
        reader = Reader(source)
        reader.until(lambda: len(reader.mine) == 1)
        cluster.fail(HEARTBEAT, [KafkaError.FENCED_INSTANCE_ID] * 2)
        reader.until(lambda: not reader.mine)
        with pytest.raises(OperatorError, match="under the name of this one"):
            reader.until(lambda: False)


def test_every_leader_is_asked_once_when_its_partitions_begin() -> None:
    """A paused, sought, resumed partition is fetched after an answer of its leader, or when a second has passed."""
    with EmbeddedBroker({"wide": 4}, brokers=2) as cluster, ExitStack() as stack:
        source = KafkaSource(KafkaSettings(cluster.bootstrap_servers, "waking", ("wide",)), SystemClock())
        source.open()
        stack.callback(source.close)
        reader = Reader(source)
        reader.starts = None
        reader.until(lambda: len(reader.mine) == 4)
        cluster.note_requests()
        source.begin(dict.fromkeys(reader.mine, Position(0)))
        assert set(cluster.noted(LIST_OFFSETS)) == {1, 2}
        assert len(cluster.noted(LIST_OFFSETS)) == 2
