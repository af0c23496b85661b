"""Questions to the brokers about topics."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import Consumer

from lakeward.positions import Partition
from lakeward.sources.kafka_catalogue import Catalogue
from lakeward.sources.kafka_client import close
from lakeward.testing.broker import EmbeddedBroker


def test_several_threads_may_ask_for_ids_at_once_and_one_client_answers_them_all() -> None:
    with EmbeddedBroker({"a": 1, "b": 2}) as broker:
        properties = {"bootstrap.servers": broker.bootstrap_servers, "group.id": "g", "log_level": 0}
        consumer = Consumer(properties)
        catalogue = Catalogue(consumer, {key: value for key, value in properties.items() if key != "group.id"})
        first = catalogue.identities(["a", "b"])
        client = catalogue._admin
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: catalogue.identities(["a", "b"]), range(60), timeout=60))
        assert catalogue._admin is client
        close(consumer)
        assert catalogue.identities(["a", "b", "missing"]) == first
    assert None not in first.values()
    assert answers == [first] * 60


class Joining(Consumer):
    """A consumer that must not be asked for metadata: librdkafka would join its group again."""

    def list_topics(self, *_: object, **__: object) -> None:
        raise AssertionError("asked through the consumer")


def test_questions_about_topics_do_not_go_through_a_consumer_that_may_be_joining() -> None:
    with EmbeddedBroker({"a": 1, "b": 2}) as broker:
        properties = {"bootstrap.servers": broker.bootstrap_servers, "log_level": 0}
        consumer = Joining({**properties, "group.id": "g"})
        catalogue = Catalogue(consumer, properties)
        assert set(catalogue.partitions(["a", "b"])) == {Partition("a", 0), Partition("b", 0), Partition("b", 1)}
        assert set(catalogue.identities(["a"])) == {"a"}
        close(consumer)
