"""What is said when Kafka cannot be reached or is configured wrongly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Self

import pytest
from confluent_kafka import Consumer, KafkaError

from lakeward.clock import SystemClock
from lakeward.errors import (
    ConfigurationError,
    LakewardError,
    OperatorError,
    PermissionDeniedError,
    UnreachableError,
)
from lakeward.positions import Partition
from lakeward.sources import kafka_client
from lakeward.sources.kafka import DAMAGED, KafkaSource, _raise_or_log
from lakeward.sources.kafka_client import OURS, KafkaSettings, Trouble, consumer_of, properties_of
from lakeward.sources.kafka_intake import Event
from lakeward.testing.broker import EmbeddedBroker


@pytest.fixture(autouse=True)
def short_wait(monkeypatch) -> None:
    monkeypatch.setattr(kafka_client, "CONNECT_S", 1.5)


def opening(servers: str, **properties: object) -> LakewardError:
    source = KafkaSource(KafkaSettings(servers, "g", ("t",), properties=properties), SystemClock())
    with pytest.raises(LakewardError) as caught:
        source.open()
    source.close()
    return caught.value


@pytest.fixture
def listener() -> Callable[[bytes], str]:
    """A server that answers every connection with the same bytes, and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))

    def start(answer: bytes) -> str:
        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(1)
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield start
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def test_a_port_where_nobody_listens_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    error = opening(address)
    assert isinstance(error, UnreachableError)
    assert address in error.what
    assert "refused" in error.what
    assert "bootstrap_servers" in error.way_out


def test_a_host_that_does_not_exist_is_named() -> None:
    error = opening("no-such-host.invalid:9092")
    assert isinstance(error, UnreachableError)
    assert "no-such-host.invalid" in error.what
    assert "host name" in error.way_out


def test_a_server_that_is_not_kafka_is_named(listener) -> None:
    address = listener(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    error = opening(address)
    assert isinstance(error, UnreachableError | PermissionDeniedError)
    assert address in error.what


def test_tls_towards_a_plain_listener_says_what_to_check() -> None:
    with EmbeddedBroker() as broker:
        error = opening(broker.bootstrap_servers, **{"security.protocol": "SSL"})
    assert isinstance(error, PermissionDeniedError)
    assert broker.bootstrap_servers in error.what
    assert "security.protocol" in error.way_out


def test_a_password_never_reaches_an_error() -> None:
    with EmbeddedBroker() as broker:
        error = opening(
            broker.bootstrap_servers,
            **{
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "u",
                "sasl.password": "hunter2-secret",
            },
        )
    assert "hunter2" not in f"{error} {error.__cause__}"


@pytest.mark.parametrize("name", sorted(OURS))
def test_properties_that_the_promise_rests_on_are_refused(name) -> None:
    with pytest.raises(ConfigurationError, match=name):
        properties_of(KafkaSettings("h:1", "g", properties={name: OURS[name]}), "c")


def test_other_properties_are_the_users() -> None:
    settings = KafkaSettings("h:1", "g", properties={"session.timeout.ms": 45000})
    assert properties_of(settings, "c")["session.timeout.ms"] == 45000


def test_under_the_newer_group_protocol_nothing_is_set_that_librdkafka_refuses_there() -> None:
    newer = KafkaSettings("h:1", "g", properties={"group.protocol": "consumer"})
    kafka_client.close(consumer_of(properties_of(newer, "c")))
    classic = properties_of(KafkaSettings("h:1", "g"), "c")
    assert classic["partition.assignment.strategy"] == "cooperative-sticky"


def test_a_worker_whose_name_was_taken_over_asks_for_an_operator() -> None:
    fatal = f"Fatal error: {KafkaError(KafkaError.FENCED_INSTANCE_ID).str()}: and more"
    with pytest.raises(OperatorError, match="under the name of this one"):
        _raise_or_log(Event(None, KafkaError._FATAL, 0, fatal))


def test_a_property_that_does_not_exist_is_a_configuration_error() -> None:
    assert isinstance(opening("127.0.0.1:1", **{"no.such.property": 1}), ConfigurationError)


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        (KafkaError._AUTHENTICATION, PermissionDeniedError, "sasl"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, PermissionDeniedError, "sasl"),
        (KafkaError._SSL, PermissionDeniedError, "ssl"),
        (KafkaError._RESOLVE, UnreachableError, "host names"),
        (KafkaError._TRANSPORT, UnreachableError, "bootstrap_servers"),
    ],
)
def test_each_kind_of_trouble_names_its_way_out(code, kind, word) -> None:
    trouble = Trouble("kafka:9092")
    trouble.heard(KafkaError(code, "said so"))
    trouble.heard(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    error = trouble.as_error()
    assert type(error) is kind
    assert "kafka:9092" in error.what
    assert "said so" in error.what
    assert word in error.way_out


@pytest.mark.parametrize("code", sorted(DAMAGED))
def test_messages_that_cannot_be_read_stop_the_table_and_are_never_skipped(code) -> None:
    with pytest.raises(OperatorError, match="t/3 cannot be read at offset 17"):
        _raise_or_log(Event(Partition("t", 3), code, 17, "said so"))


def test_reading_without_the_right_to_is_refused_by_name() -> None:
    with pytest.raises(PermissionDeniedError, match="t/3"):
        _raise_or_log(Event(Partition("t", 3), KafkaError.TOPIC_AUTHORIZATION_FAILED, 0, "said so"))


def test_a_consumer_that_does_not_close_holds_nobody_up() -> None:
    held = threading.Event()
    consumer = StubbornConsumer(held)
    kafka_client.close(consumer, 0.05)
    assert not consumer.closed
    held.set()
    kafka_client.close(consumer, 10.0)
    assert consumer.closed


class StubbornConsumer(Consumer):
    """Closes when it is let go."""

    def __new__(cls, _: threading.Event) -> Self:
        return super().__new__(cls)

    def __init__(self, let_go: threading.Event) -> None:
        super().__init__({"bootstrap.servers": "127.0.0.1:9", "group.id": "g", "log_level": 2})
        self._let_go = let_go
        self.closed = False

    def close(self) -> None:
        assert self._let_go.wait(60)
        super().close()
        self.closed = True
