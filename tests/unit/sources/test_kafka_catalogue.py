"""Questions to the brokers about topics."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import Consumer

from lakeward.sources.kafka_catalogue import Catalogue
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
        consumer.close()
        assert catalogue.identities(["a", "b", "missing"]) == first
    assert None not in first.values()
    assert answers == [first] * 60
