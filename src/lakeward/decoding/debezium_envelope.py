"""What each message of a change stream is: a change, and which of its bytes are what, or nothing that becomes a row."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lakeward.decoding.debezium_members import Finder, Members, NDInt, NDMask
from lakeward.decoding.debezium_wrapping import WRAPPING, unwrap
from lakeward.records import NULL, Blobs, Reject

_NAMES = (
    "before after source transaction op ts_ms ts_us ts_ns updateDescription "
    "status id event_count data_collections databaseName schemaName ddl tableChanges"
)
PARTS = (*WRAPPING, *_NAMES.split())
OBJECT, STRING = ord("{"), ord('"')
IMAGES = np.frombuffer(b"cur", np.uint8)
DELETION, TRUNCATION, MESSAGE = ord("d"), ord("t"), ord("m")
TRANSACTION_MEMBERS = ("status", "id", "event_count", "data_collections")
HEARTBEATS = "__debezium-heartbeat"


class Part(IntEnum):
    """What a message is."""

    REFUSED = 0
    SKIPPED = 1
    TOMBSTONE = 2
    ROW = 3
    """A change with the row's image after it."""
    FLAT = 4
    """No envelope: the row itself."""
    UPDATE = 5
    """A change with nothing but what was updated."""
    DELETE = 6
    TRUNCATE = 7


@dataclass(frozen=True, slots=True)
class Envelopes:
    """What ``n`` messages are.

    Shapes and types: ``part`` uint8[n], of `Part`; ``operation`` uint8[n], the letter, 0 where none is told; ``group``
    int32[n], which of the distinct schemas written into the messages is theirs, -1: none; ``schema``, ``image`` (of
    `Part.ROW` and `Part.FLAT`), ``update`` and ``source`` Blobs of n.
    """

    part: NDArray[np.uint8]
    operation: NDArray[np.uint8]
    group: NDArray[np.int32]
    schema: Blobs
    image: Blobs
    update: Blobs
    source: Blobs
    rejects: list[Reject]

    def __len__(self) -> int:
        return len(self.part)

    def where(self, *parts: Part) -> NDInt:
        """The messages that are one of these."""
        return np.flatnonzero(np.isin(self.part, np.array(parts, np.uint8)))


class EnvelopeReader:
    """Takes messages apart.

    Args:
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(self, cache_folder: Path | None) -> None:
        self._finder = Finder(PARTS, cache_folder)

    def read(self, topic: str, values: Blobs) -> Envelopes:
        """Say what each of ``values`` is."""
        rejects: list[Reject] = []
        unwrapped = unwrap(values, self._finder, rejects)
        inner, found = unwrapped.payload, unwrapped.members
        operation = found.get("op")
        letter = np.where((found.first("op") == STRING) & (operation.length == 3), 1, 0).astype(np.uint8)
        told = np.flatnonzero(letter)
        letter[told] = inner.data[operation.start[told] + 1]
        image, update = found.get("after"), found.get("updateDescription")
        enveloped = _enveloped(found)
        imaged = np.isin(found.first("after"), [OBJECT, STRING])
        part = parts_of(enveloped, letter, imaged, found.first("updateDescription") == OBJECT, rejects)
        part[_silent(topic, found) & ~enveloped] = Part.SKIPPED
        part[inner.length == NULL] = Part.TOMBSTONE
        part[[reject.index for reject in rejects]] = Part.REFUSED
        flat = part == Part.FLAT
        image = Blobs(inner.data, np.where(flat, inner.start, image.start), np.where(flat, inner.length, image.length))
        letter[flat] = 0
        return Envelopes(part, letter, unwrapped.group, unwrapped.schema, image, update, found.get("source"), rejects)


def parts_of(
    enveloped: NDMask, letter: NDArray[np.uint8], imaged: NDMask, updated: NDMask, rejects: list[Reject]
) -> NDArray[np.uint8]:
    """What messages are, by their operations and whether they hold an image after it or an update's description.

    Those without an envelope are flat; adds to ``rejects`` those that are no change.
    """
    part = np.full(len(letter), Part.FLAT, np.uint8)
    part[enveloped] = Part.REFUSED
    changes = enveloped & np.isin(letter, IMAGES)
    part[changes & imaged] = Part.ROW
    part[changes & ~imaged & updated] = Part.UPDATE
    for code, kind in ((DELETION, Part.DELETE), (TRUNCATION, Part.TRUNCATE), (MESSAGE, Part.SKIPPED)):
        part[enveloped & (letter == code)] = kind
    refused = np.flatnonzero(part == Part.REFUSED)
    rejects += (_refusal(i, known) for i, known in zip(refused.tolist(), changes[refused].tolist(), strict=True))
    return part


def _enveloped(found: Members) -> NDMask:
    others = [found.first(name) != 0 for name in ("after", "before")]
    told: NDMask = (found.first("op") == STRING) & ((found.first("source") == OBJECT) | others[0] | others[1])
    return told


def _silent(topic: str, found: Members) -> NDMask:
    """Heartbeats, marks of transactions and changes of schemas."""
    marks = [found.first(name) != 0 for name in TRANSACTION_MEMBERS]
    transaction: NDMask = np.logical_and.reduce(marks) & (found.count <= len(TRANSACTION_MEMBERS) + 1)
    schema = (found.first("source") == OBJECT) & ((found.first("tableChanges") != 0) | (found.first("ddl") != 0))
    if topic.startswith(HEARTBEATS):
        transaction |= (found.first("ts_ms") != 0) & (found.count == 1)
    silent: NDMask = transaction | schema
    return silent


def _refusal(index: int, known: bool) -> Reject:  # noqa: FBT001  one of two sentences
    if known:
        return Reject(index, "no-after", "the event has no image of the row after the change")
    return Reject(index, "unknown-operation", "the event's operation is none of c, u, r, d, t, m")
