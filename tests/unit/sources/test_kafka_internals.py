"""What is relied on inside confluent-kafka and librdkafka: an upgrade that changes it must fail here first."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import confluent_kafka
import pytest
from confluent_kafka import Consumer

from lakeward.sources import librdkafka
from lakeward.sources.kafka_client import close
from lakeward.sources.kafka_gather import native_intake
from lakeward.sources.librdkafka import Message, handle_of, load


@pytest.fixture
def consumer():
    made = Consumer({"bootstrap.servers": "127.0.0.1:9", "group.id": "g", "client.id": "lakeward-pin", "log_level": 2})
    yield made
    close(made)


def test_the_wheel_brings_one_library_and_the_binding_runs_on_it() -> None:
    library = load()
    assert library is not None
    assert library.calls.rd_kafka_version() == confluent_kafka.libversion()[1]


def test_the_handle_is_the_first_field_of_a_consumer(consumer) -> None:
    handle = handle_of(consumer, "lakeward-pin")
    assert handle is not None
    assert load().calls.rd_kafka_name(handle).startswith(b"lakeward-pin#consumer-")


def test_a_handle_that_does_not_answer_to_the_name_is_not_used(consumer) -> None:
    assert handle_of(consumer, "lakeward-other") is None
    assert handle_of(consumer, "lakeward") is None
    assert native_intake(consumer, "lakeward-other", headers=False) is None


def test_a_message_is_nine_words_in_the_order_of_the_public_header() -> None:
    offsets = {name: getattr(Message, name).offset for name, _ in Message._fields_}
    assert ctypes.sizeof(Message) == 72
    assert offsets == {
        "err": 0, "rkt": 8, "partition": 16, "payload": 24, "len": 32, "key": 40, "key_len": 48, "offset": 56,
        "private": 64,
    }  # fmt: skip


def test_without_the_library_reading_goes_the_plain_way(consumer, monkeypatch) -> None:
    monkeypatch.setattr(librdkafka, "load", lambda: None)
    monkeypatch.setattr("lakeward.sources.kafka_gather.load", lambda: None)
    assert native_intake(consumer, "lakeward-pin", headers=False) is None


def test_the_command_line_and_the_package_do_not_import_numba_or_kafka() -> None:
    program = "import sys, lakeward; sys.exit('numba' in sys.modules or 'confluent_kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
