"""The embedded broker, here and in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from confluent_kafka import Consumer, TopicPartition

from lakeward.errors import UnreachableError
from lakeward.sources.kafka_client import close
from lakeward.testing.broker import EmbeddedBroker, parse_topics
from lakeward.testing.generators import Market, avro_payloads, homes_of, keys_of
from lakeward.testing.producing import produce, producer_of


def ends(servers: str, topic: str, partitions: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "ends", "log.connection.close": False})
    answers = consumer.offsets_for_times([TopicPartition(topic, number, -1) for number in range(partitions)], timeout=5)
    close(consumer)
    return [answer.offset for answer in answers]


def test_a_load_arrives_whole_at_the_partitions_it_was_sent_to() -> None:
    trades = Market(1).trades(25_000)
    homes = homes_of(trades, 4)
    with EmbeddedBroker({"trades": 4}) as broker:
        producer = producer_of(broker.bootstrap_servers)
        assert produce(producer, "trades", avro_payloads(trades, 1), keys_of(trades), homes) == 25_000
        assert ends(broker.bootstrap_servers, "trades", 4) == [homes.count(number) for number in range(4)]


def test_messages_that_nobody_takes_are_an_error() -> None:
    with EmbeddedBroker({"trades": 1}) as broker:
        producer = producer_of(broker.bootstrap_servers, {"message.timeout.ms": 500, "log_level": 2})
        broker.down()
        with pytest.raises(UnreachableError, match="3 of 3 messages to trades"):
            produce(producer, "trades", [b"a", None, b"c"])


def test_a_broker_in_its_own_process_says_where_it_is_and_stops_with_its_input(tmp_path) -> None:
    place = tmp_path / "port"
    command = [sys.executable, "-m", "lakeward.testing.broker", "--topics", "t:2", "--port-file", str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--until-eof"], **pipes) as process:
        try:
            servers = process.stdout.readline().strip()
            assert place.read_text(encoding="utf-8") == servers
            produce(producer_of(servers, {"log_level": 2}), "t", [b"x"], homes=[1])
            assert ends(servers, "t", 2) == [0, 1]
            process.stdin.close()
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_topics_are_named_with_their_partitions() -> None:
    assert parse_topics("trades:6,quotes:3,company") == {"trades": 6, "quotes": 3, "company": 1}
    assert parse_topics("") == {}


def test_closing_twice_is_harmless() -> None:
    broker = EmbeddedBroker({"t": 1})
    broker.close()
    broker.close()
