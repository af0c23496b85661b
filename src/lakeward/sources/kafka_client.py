"""Connecting to Kafka: settings, the properties that exactly-once rests on, and what errors mean for an operator."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException

from lakeward.clock import Clock
from lakeward.errors import ConfigurationError, LakewardError, PermissionDeniedError, UnreachableError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CONNECT_S = 10.0
"""How long brokers have to answer at the start, in seconds."""

REQUEST_S = 10.0
"""How long one question to the brokers may take, in seconds."""

CLOSE_S = 10.0
"""How long a consumer may take to close, in seconds; one was seen to wait for a broker's answer for ever."""


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """What to read.

    ``topics`` are whole names, ``patterns`` Python regular expressions that match whole names; ``properties`` are
    further librdkafka properties; ``headers`` asks for message headers; ``poll_records`` bounds one poll.
    ``sole`` says whether nobody else can have the ``group.instance.id`` among the properties now; None: somebody can.
    """

    bootstrap_servers: str
    group_id: str
    topics: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)
    headers: bool = False
    poll_records: int = 20_000
    sole: Callable[[], bool] | None = None


DEFAULTS: Mapping[str, Any] = {
    # A worker that was killed is given up after this long; heartbeats come from a thread of their own.
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 1500,
    "topic.metadata.refresh.interval.ms": 5000,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 2000,
    "socket.connection.setup.timeout.ms": 5000,
    # One queue for all partitions: these bound what is fetched ahead, however many there are. Small messages take five
    # times their size in it, and what one fetch brings comes on top.
    "queued.max.messages.kbytes": 65536,
    "queued.min.messages": 100_000,
    "fetch.message.max.bytes": 1 << 20,
    "fetch.max.bytes": 8 << 20,
    "fetch.queue.backoff.ms": 20,
    "fetch.wait.max.ms": 100,
    "log.connection.close": False,
    "check.crcs": True,
}
"""Properties that a user may set otherwise."""

OURS: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "partition.assignment.strategy": "cooperative-sticky",
}
"""Properties that exactly-once rests on (PROTOCOL S4)."""

TAKEN = frozenset(OURS) | {"bootstrap.servers", "metadata.broker.list", "group.id", "client.id"}

BROKERS_OWN = frozenset({"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"})
"""What the brokers decide under the newer group protocol (KIP-848); librdkafka refuses it there."""

_DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,  # noqa: SLF001  librdkafka's own codes are spelled so
    }
)
_HANDSHAKE = frozenset({KafkaError._SSL, KafkaError.UNSUPPORTED_SASL_MECHANISM, KafkaError.ILLEGAL_SASL_STATE})  # noqa: SLF001

_CONNECTION_DETAIL = re.compile(r"^\S+/\S+: (?=Connect to )|(?<=refused) \(after \d+ms in state \w+\)$")
"""What librdkafka adds to a refused connection and the address does not need."""

_MISUNDERSTANDING = ("SSL_HANDSHAKE", "security.protocol", "SASL handshake")


def properties_of(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    """The whole librdkafka configuration.

    Raises:
        ConfigurationError: a property that is ours is set otherwise (PROTOCOL S4).
    """
    wrong = sorted(TAKEN & set(settings.properties))
    if wrong:
        raise ConfigurationError(
            f"these librdkafka properties are not open to configuration: {', '.join(wrong)}",
            "Exactly-once rests on them. Remove them from source.kafka.properties.",
        )
    newer = settings.properties.get("group.protocol") == "consumer"
    given_up = BROKERS_OWN - set(settings.properties) if newer else frozenset()
    return {
        **{name: value for name, value in DEFAULTS.items() if name not in given_up},
        **settings.properties,
        **{name: value for name, value in OURS.items() if name not in given_up},
        "bootstrap.servers": settings.bootstrap_servers,
        "group.id": settings.group_id,
        "client.id": client_id,
    }


class Trouble:
    """What librdkafka says about its connections: logged once until it has passed, and the last word kept."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._down = False
        self.last: KafkaError | None = None
        self.telling: KafkaError | None = None
        """The last error that says more than that everything is down."""

    def heard(self, error: KafkaError) -> None:
        """Take what librdkafka says through its ``error_cb``."""
        self.last = error
        if error.code() != KafkaError._ALL_BROKERS_DOWN and not (self.telling and is_denied(self.telling)):  # noqa: SLF001
            self.telling = error
        if not self._down and (error.code() == KafkaError._ALL_BROKERS_DOWN or is_denied(error)):  # noqa: SLF001
            self._down = True
            log.warning("brokers do not answer; waiting for them", servers=self._servers, reason=self.reason)

    def passed(self) -> None:
        """A broker has answered."""
        if self._down:
            log.info("brokers answer again", servers=self._servers)
        self._down, self.last, self.telling = False, None, None

    @property
    def reason(self) -> str:
        """The most telling word so far."""
        said = self.telling or self.last
        return _CONNECTION_DETAIL.sub("", said.str()) if said is not None else "no answer"

    def as_error(self) -> LakewardError:
        """What to raise when the brokers cannot be reached."""
        said = self.telling
        if said is not None and said.code() in _DENIED:
            return PermissionDeniedError(
                f"Kafka at {self._servers} refuses us: {said.str()}",
                "Check the sasl.* and security.protocol properties under source.kafka.properties.",
            )
        if said is not None and is_denied(said):
            return PermissionDeniedError(
                f"Kafka at {self._servers} and this client do not agree on how to connect: {self.reason}",
                "Check security.protocol, ssl.* and sasl.mechanism under source.kafka.properties, and the port.",
            )
        if said is not None and said.code() == KafkaError._RESOLVE:  # noqa: SLF001
            return UnreachableError(
                f"Kafka at {self._servers} cannot be found: {said.str()}",
                "Check the host names in source.kafka.bootstrap_servers.",
            )
        return UnreachableError(
            f"Kafka at {self._servers} does not answer: {self.reason}",
            "Check source.kafka.bootstrap_servers (host and port), and that the brokers are up.",
        )


def consumer_of(properties: Mapping[str, Any]) -> Consumer:
    """A consumer with ``properties``; it connects on its own, later.

    Raises:
        ConfigurationError: librdkafka does not take one of them.
    """
    try:
        return Consumer(dict(properties))
    except KafkaException as failure:
        raise ConfigurationError(
            f"librdkafka refuses its configuration: {failure.args[0].str()}",
            "Correct source.kafka.properties; librdkafka's CONFIGURATION.md lists what there is.",
        ) from failure


def close(consumer: Consumer, patience_s: float = CLOSE_S) -> None:
    """Close, and go on where that takes longer: a broker that does not answer must not keep anybody from the end."""
    closing = threading.Thread(target=consumer.close, name="closing", daemon=True)
    closing.start()
    closing.join(patience_s)
    if closing.is_alive():
        log.warning("a consumer does not close; left to itself", seconds=patience_s)


def is_denied(error: KafkaError) -> bool:
    """Whether ``error`` says that credentials or rights are missing, or that client and listener speak differently.

    A listener that hangs up over the wrong protocol is a broken connection to librdkafka; only its words tell.
    """
    return error.code() in _DENIED | _HANDSHAKE or any(word in error.str() for word in _MISUNDERSTANDING)


def connect(consumer: Consumer, trouble: Trouble, clock: Clock, patience_s: float = CONNECT_S) -> None:
    """Wait until a broker answers.

    Raises:
        UnreachableError: none does within ``patience_s`` seconds.
        PermissionDeniedError: one refuses us.
    """
    deadline = clock.monotonic() + patience_s
    while True:
        try:
            consumer.list_topics(timeout=0.5)
        except KafkaException as failure:
            consumer.poll(0)  # lets librdkafka say why
            error = failure.args[0]
            if is_denied(error):
                trouble.heard(error)
            if (trouble.telling is not None and is_denied(trouble.telling)) or clock.monotonic() >= deadline:
                raise trouble.as_error() from failure
        else:
            trouble.passed()
            return


def unanswered(what: str, failure: KafkaException) -> LakewardError:
    """The error for a question about ``what`` that the brokers did not answer."""
    error = failure.args[0]
    if is_denied(error):
        return PermissionDeniedError(
            f"Kafka refuses {what}: {error.str()}", "Give this user the right to describe and read these topics."
        )
    return UnreachableError(f"Kafka did not answer about {what}: {error.str()}", "Ask again when the brokers are up.")
