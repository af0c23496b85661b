"""Where a source continues, and what a commit says about it (PROTOCOL, section 1)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Partition(NamedTuple):
    """One ordered sequence of records: a Kafka topic's partition."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Witness(NamedTuple):
    """The last record consumed below a position: read back, it proves that the log is still the same log."""

    offset: int
    timestamp: int
    """Milliseconds since the epoch; -1 where the broker keeps none."""
    checksum: int

    @staticmethod
    def checksum_of(value: bytes | memoryview | None) -> int:
        """The checksum of a record's value; 0 for a tombstone."""
        return 0 if value is None else zlib.crc32(value)


class Position(NamedTuple):
    """Where a partition continues: ``next`` is the first offset that is not in the table."""

    next: int
    leader_epoch: int | None = None
    witness: Witness | None = None


class Span(NamedTuple):
    """The offsets ``[start, end)`` of one partition that a commit adds."""

    start: int
    end: int


Positions = Mapping[Partition, Position]
Claim = Mapping[Partition, Span]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a partition holds now: ``low`` is its first offset, ``end`` the one after its last."""

    low: int
    end: int


@dataclass(frozen=True, slots=True)
class Account:
    """How a run of records is accounted for: ``records == rows + skipped + letters``.

    Tombstones in append mode are skipped; ``letters`` are dead letters, less those that were brought back as rows.
    """

    records: int = 0
    rows: int = 0
    skipped: int = 0
    letters: int = 0

    def plus(self, other: Account) -> Account:
        """The two together."""
        return Account(
            self.records + other.records,
            self.rows + other.rows,
            self.skipped + other.skipped,
            self.letters + other.letters,
        )
