"""The librdkafka inside the confluent-kafka wheel, called directly for what its Python binding does not offer.

Both uses of the library in one process share one copy, so a handle made by one is good for the other. What is relied
on beyond the public C interface is checked before it is used, and pinned by tests.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import confluent_kafka

_P, _I, _N = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_TEXT = ctypes.c_char_p
_SIGNATURES: dict[str, tuple[Any, Sequence[Any]]] = {
    "rd_kafka_version": (_I, ()),
    "rd_kafka_name": (_TEXT, (_P,)),
    "rd_kafka_err2str": (_TEXT, (_I,)),
    "rd_kafka_conf_new": (_P, ()),
    "rd_kafka_conf_set": (_I, (_P, _TEXT, _TEXT, _TEXT, _N)),
    "rd_kafka_new": (_P, (_I, _P, _TEXT, _N)),
    "rd_kafka_destroy": (None, (_P,)),
    "rd_kafka_topic_name": (_TEXT, (_P,)),
    "rd_kafka_queue_new": (_P, (_P,)),
    "rd_kafka_queue_destroy": (None, (_P,)),
    "rd_kafka_queue_get_partition": (_P, (_P, _TEXT, ctypes.c_int32)),
    "rd_kafka_queue_forward": (None, (_P, _P)),
    "rd_kafka_consume_batch_queue": (ctypes.c_ssize_t, (_P, _I, _P, _N)),
    "rd_kafka_message_destroy": (None, (_P,)),
    "rd_kafka_message_errstr": (_TEXT, (_P,)),
    "rd_kafka_message_headers": (_I, (_P, ctypes.POINTER(_P))),
    "rd_kafka_message_timestamp": (ctypes.c_int64, (_P, _P)),
    "rd_kafka_header_get_all": (
        _I,
        (_P, _N, ctypes.POINTER(_TEXT), ctypes.POINTER(_P), ctypes.POINTER(_N)),
    ),
    "rd_kafka_mock_cluster_new": (_P, (_P, _I)),
    "rd_kafka_mock_cluster_destroy": (None, (_P,)),
    "rd_kafka_mock_cluster_bootstraps": (_TEXT, (_P,)),
    "rd_kafka_mock_set_controller_id": (_I, (_P, ctypes.c_int32)),
    "rd_kafka_mock_topic_create": (_I, (_P, _TEXT, _I, _I)),
    "rd_kafka_mock_topic_delete": (_I, (_P, _TEXT)),
    "rd_kafka_mock_partition_delete_records": (_I, (_P, _TEXT, _I, ctypes.c_int64)),
    "rd_kafka_mock_broker_set_down": (_I, (_P, ctypes.c_int32)),
    "rd_kafka_mock_broker_set_up": (_I, (_P, ctypes.c_int32)),
    "rd_kafka_mock_broker_set_rtt": (_I, (_P, ctypes.c_int32, _I)),
    "rd_kafka_mock_push_request_errors_array": (None, (_P, ctypes.c_int16, _N, _P)),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, (_P, ctypes.c_int32)),
    "rd_kafka_mock_start_request_tracking": (None, (_P,)),
    "rd_kafka_mock_clear_requests": (None, (_P,)),
    "rd_kafka_mock_get_requests": (ctypes.POINTER(_P), (_P, ctypes.POINTER(_N))),
    "rd_kafka_mock_request_id": (ctypes.c_int32, (_P,)),
    "rd_kafka_mock_request_api_key": (ctypes.c_int16, (_P,)),
    "rd_kafka_mock_request_destroy_array": (None, (ctypes.POINTER(_P), _N)),
}


class Message(ctypes.Structure):
    """``rd_kafka_message_t``: public and stable, laid out as C does it."""

    _fields_ = (
        ("err", ctypes.c_int),
        ("rkt", _P),
        ("partition", ctypes.c_int32),
        ("payload", _P),
        ("len", _N),
        ("key", _P),
        ("key_len", _N),
        ("offset", ctypes.c_int64),
        ("private", _P),
    )


@dataclass(frozen=True, slots=True)
class Library:
    """``calls`` has the functions of the library as attributes; ``path`` is where it lies."""

    calls: ctypes.CDLL
    path: Path

    def address(self, function: str) -> int:
        """Where ``function`` starts."""
        address = ctypes.cast(getattr(self.calls, function), _P).value
        if address is None:  # pragma: no cover - dlsym would have raised
            raise LookupError(function)
        return address


@cache
def load() -> Library | None:
    """The wheel's own library; None where there is none, or where it is not the one that the binding uses."""
    package = Path(confluent_kafka.__file__).parent
    candidates = [
        *package.parent.glob("confluent_kafka.libs/librdkafka-*.so*"),
        *package.glob(".dylibs/librdkafka*.dylib"),
    ]
    if len(candidates) != 1:
        return None
    try:
        calls = ctypes.CDLL(str(candidates[0]))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(calls, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    if calls.rd_kafka_version() != confluent_kafka.libversion()[1]:
        return None
    return Library(calls, candidates[0])


def handle_of(client: object, client_id: str) -> int | None:
    """The ``rd_kafka_t *`` inside a confluent_kafka client that was made with ``client.id`` = ``client_id``.

    It is the first field behind the Python object's own header. None where what is found there does not answer to
    that name.
    """
    library = load()
    handle = ctypes.c_size_t.from_address(id(client) + object.__basicsize__).value
    # An rd_kafka_t is heap memory, aligned; anything else is not followed.
    if library is None or handle < 4096 or handle % 8:
        return None
    name = library.calls.rd_kafka_name(handle)
    return handle if name is not None and name.startswith(client_id.encode() + b"#") else None
