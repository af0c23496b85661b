"""An embedded Kafka broker: librdkafka's own mock cluster, in this process or in one of its own.

It speaks the real protocol over TCP: groups, rebalances, offset commits, headers, tombstones. It has no admin
interface, and keeps what it holds in memory: at most 5 MiB (as sent, compressed) and 100,000 record batches a
partition; older batches make room.

In a process of its own, so that a writer can be killed while the broker lives::

    python -m lakeward.testing.broker --topics trades:6,quotes:3 --port-file /tmp/broker

It prints its bootstrap servers (and writes them into the file), and runs until it is told to stop; with
``--until-eof`` also until its standard input ends, so that it does not outlive a parent that held the other end.
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lakeward.errors import ConfigurationError
from lakeward.sources.librdkafka import Library, load
from lakeward.testing.waiting import returned

PRODUCER = 0
"""The kind of client that the mock cluster lives in; any would do."""

FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, JOIN_GROUP, HEARTBEAT = 1, 2, 3, 8, 11, 12
"""Kafka's numbers of the requests that `EmbeddedBroker.fail` is asked for."""


class EmbeddedBroker:
    """One running broker (or several) with ``topics``: name to number of partitions.

    Topics that a producer names are created with four partitions.

    Raises:
        ConfigurationError: this installation of confluent-kafka does not bring its own library.
    """

    def __init__(self, topics: Mapping[str, int] | None = None, brokers: int = 1) -> None:
        self._library = _library()
        calls = self._library.calls
        reason = ctypes.create_string_buffer(512)
        settings = calls.rd_kafka_conf_new()
        for key, value in ((b"log_level", b"2"), (b"log.connection.close", b"false")):
            calls.rd_kafka_conf_set(settings, key, value, reason, len(reason))
        self._client = calls.rd_kafka_new(PRODUCER, settings, reason, len(reason))
        self._cluster = calls.rd_kafka_mock_cluster_new(self._client, brokers)
        self.bootstrap_servers: str = calls.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        calls.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        calls.rd_kafka_mock_set_controller_id(self._cluster, 1)  # without one, clients cannot ask for topic ids
        for topic, partitions in (topics or {}).items():
            self.create(topic, partitions)

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic."""
        self._call("rd_kafka_mock_topic_create", topic.encode(), partitions, 1)

    def delete(self, topic: str) -> None:
        """Delete a topic and what it holds."""
        self._call("rd_kafka_mock_topic_delete", topic.encode())

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Let everything below the offset ``before`` expire."""
        self._call("rd_kafka_mock_partition_delete_records", topic.encode(), partition, before)

    def down(self) -> None:
        """Drop all connections and accept none, keeping what is stored."""
        self._call("rd_kafka_mock_broker_set_down", -1)

    def up(self) -> None:
        """Accept connections again."""
        self._call("rd_kafka_mock_broker_set_up", -1)

    def slow(self, milliseconds: int) -> None:
        """Delay every answer."""
        self._call("rd_kafka_mock_broker_set_rtt", -1, milliseconds)

    def fail(self, request: int, errors: Sequence[int]) -> None:
        """Answer the next requests of a kind with these Kafka error codes, one each."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.calls.rd_kafka_mock_push_request_errors_array(self._cluster, request, len(errors), array)

    def note_requests(self) -> None:
        """Take note of requests from now on."""
        self._library.calls.rd_kafka_mock_start_request_tracking(self._cluster)
        self._library.calls.rd_kafka_mock_clear_requests(self._cluster)

    def noted(self, request: int) -> list[int]:
        """Which brokers got requests of a kind since `note_requests`, by their ids from 1 on, one each."""
        calls, count = self._library.calls, ctypes.c_size_t()
        requests = calls.rd_kafka_mock_get_requests(self._cluster, ctypes.byref(count))
        try:
            of_kind = [r for r in requests[: count.value] if calls.rd_kafka_mock_request_api_key(r) == request]
            return [calls.rd_kafka_mock_request_id(r) for r in of_kind]
        finally:
            calls.rd_kafka_mock_request_destroy_array(requests, count)

    def close(self) -> None:
        """Stop, and forget everything. A second time does nothing."""
        if self._cluster:
            cluster, self._cluster = self._cluster, None
            returned(lambda: self._destroy(cluster), "the embedded broker's stop")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _destroy(self, cluster: Any) -> None:
        # Both wait for threads of librdkafka, without a bound.
        self._library.calls.rd_kafka_mock_cluster_destroy(cluster)
        self._library.calls.rd_kafka_destroy(self._client)

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._library.calls, function)(self._cluster, *arguments)
        if code:
            reason = self._library.calls.rd_kafka_err2str(code).decode()
            raise RuntimeError(f"the embedded broker refuses {function.removeprefix('rd_kafka_mock_')}: {reason}")


def _library() -> Library:
    library = load()
    if library is None:
        raise ConfigurationError(
            "there is no embedded broker: this confluent-kafka was not installed from a wheel with its own librdkafka",
            "Install confluent-kafka from PyPI (`pip install --force-reinstall --only-binary :all: confluent-kafka`).",
        )
    return library


def parse_topics(text: str) -> dict[str, int]:
    """``trades:6,quotes:3`` as {name: partitions}; a name alone has one.

    Raises:
        ValueError: a number of partitions is not one.
    """
    topics: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, partitions = part.partition(":")
        topics[name] = int(partitions or 1)
    return topics


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a broker until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m lakeward.testing.broker", description=main.__doc__)
    parser.add_argument("--topics", type=parse_topics, default={}, help="trades:6,quotes:3")
    parser.add_argument("--port-file", type=Path, help="where to write the bootstrap servers")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with EmbeddedBroker(options.topics) as broker:
        if options.port_file is not None:
            draft = options.port_file.with_name(options.port_file.name + ".draft")
            draft.write_text(broker.bootstrap_servers, encoding="utf-8")
            draft.replace(options.port_file)
        sys.stdout.write(broker.bootstrap_servers + "\n")
        sys.stdout.flush()
        if options.until_eof:
            threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
        stop.wait()


def _stop_at_end_of_input(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(1):
        pass
    stop.set()


if __name__ == "__main__":
    main()
