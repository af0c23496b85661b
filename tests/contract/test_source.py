"""The source contract against the embedded broker, gathering natively and the plain way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lakeward.clock import SystemClock
from lakeward.positions import Partition, Position
from lakeward.sources.kafka import KafkaSource
from lakeward.sources.kafka_client import KafkaSettings
from lakeward.testing.broker import LIST_OFFSETS, OFFSET_COMMIT, EmbeddedBroker

pytest.register_assert_rewrite("source_suite")
sys.path.insert(0, str(Path(__file__).parent))

from source_suite import Reader, SourceContract, numbered  # noqa: E402  found through the line above


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
