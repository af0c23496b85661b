"""Staged, committed, acked: three types, and the three ways a commit can end (DESIGN, principles 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakeward.changes import Changes
from lakeward.gaps import Gaps
from lakeward.ledger import LedgerEntry, Loss
from lakeward.letters import Lettering
from lakeward.positions import Account, Claim, Partition, Positions
from lakeward.records import Trace


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one table and the positions they take it to; what one commit adds.

    ``id`` is minted once and stays the same over all attempts. ``parts`` are Arrow tables in arrival order, their
    schemas as the decoder made them; none in a positions-only commit. ``claim`` and ``upto`` name the same
    partitions. ``sources`` are the topics' ids where the broker tells them. ``writer`` is a library append's claim:
    (handle id, append number). ``adopts`` is the pipeline whose positions it takes over (PROTOCOL F4). ``known``
    are the claimed partitions whose position is known from the table: one that it does not know any more was rolled
    back to before its first commit (PROTOCOL C2c). ``oldest_ms`` is the earliest record's timestamp, milliseconds since
    the epoch. ``traces`` tell where the rows of each part came from, on a table whose sequences are followed; ``gaps``
    is what that found. ``letters`` are rows that must be durable in the dead-letter table before this is committed
    (PROTOCOL D1); ``lettering`` is what the entry is told. ``changes`` tell, part by part, what the rows do to those of
    their keys; none in mode append, where every row is added.
    """

    id: str
    parts: Sequence[pa.Table]
    claim: Claim
    upto: Positions
    sources: Mapping[str, str | None]
    account: Account
    accepted: Sequence[Loss] = ()
    writer: tuple[str, int] | None = None
    oldest_ms: int | None = None
    adopts: str | None = None
    known: frozenset[Partition] = frozenset()
    traces: Sequence[Trace] = ()
    gaps: Gaps | None = None
    letters: pa.Table | None = None
    lettering: Lettering | None = None
    changes: Sequence[Changes] = ()


@dataclass(frozen=True, slots=True)
class Staged:
    """A batch whose files are written and visible to nobody. ``files`` is the sink's own."""

    batch: Batch
    files: Any
    rows: int
    bytes: int
    """Size of the staged files."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a table holds at one snapshot."""

    rows: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CommitReceipt:
    """Proof that a batch is in the table. Only this can be acked."""

    table: str
    commit: str
    snapshot_id: int
    sequence_number: int
    rows: int
    files: int
    bytes: int
    before: Totals
    after: Totals
    duration_ms: int
    """From the start of staging to the proof, all attempts included."""
    attempts: int
    entry: LedgerEntry


@dataclass(frozen=True, slots=True)
class Refused:
    """The table's positions are not what the batch extends: drop it and continue at ``entry`` (PROTOCOL C5).

    ``covered``: everything in the batch was already in the table.
    """

    entry: LedgerEntry | None
    covered: bool
    reason: str


Outcome = CommitReceipt | Refused


@dataclass(frozen=True, slots=True)
class Found:
    """What a table knows of a pipeline (PROTOCOL, section 3).

    ``exists`` says whether the table is there; ``entry`` is None where no commit of the pipeline is on its ancestry
    (NONE). UNPROVEN is not a value: it raises `LedgerError`. ``at_head``: the entry is the head's own (F5).
    ``rewound``: the table has shown a higher entry than this one, so that something else than lakeward has rolled it
    back since (F6). ``highest``: the highest number that the table shows anywhere. ``others``: what the table knows of
    other pipelines, by name (F4).
    """

    exists: bool
    entry: LedgerEntry | None
    at_head: bool = True
    rewound: bool = False
    highest: int = 0
    others: Mapping[str, LedgerEntry] = field(default_factory=dict)
