"""Follows a table's business sequences from batch to batch, across restarts and workers (PROTOCOL M4)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from lakeward.gaps import Gaps, Kept
from lakeward.ledger import LedgerEntry
from lakeward.outcomes import Batch
from lakeward.positions import Partition
from lakeward.sequences import Finding, Rule, State, check, dump, load

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RECENT = 5
"""Findings kept for display."""


class Shelf(Protocol):
    """Where small files beside the table are kept."""

    name: str

    def keep(self, name: str, content: bytes) -> None:
        """Write a file; the same name is only ever given the same content."""

    def kept(self, name: str) -> bytes | None:
        """Read it back; None where it is gone."""


class SequenceWatch:
    """One table's sequences. `follow` runs on its committing thread; ``recent`` is for display.

    What it remembers is a cache: a state counts only where the entry that a batch extends names its file. A batch that
    was refused, a hand-over between workers and a rollback therefore need no undoing.
    """

    def __init__(self, rule: Rule, shelf: Shelf) -> None:
        self.recent: tuple[Finding, ...] = ()
        self._rule = rule
        self._shelf = shelf
        self._states: dict[Partition, tuple[Kept, State]] = {}

    def follow(self, batch: Batch, entry: LedgerEntry | None) -> Batch:
        """The batch with what its sequences add; ``entry`` is what the table said when its rows were taken.

        Raises:
            ConfigurationError: the rows lack a column that the rule names. StorageError, UnreachableError: try again.
        """
        if not batch.traces:
            return batch
        anew = {loss.partition for loss in batch.accepted if loss.end <= loss.start}
        before = {p: kept for p, kept in (entry.gaps.states if entry and entry.gaps else {}).items() if p not in anew}
        states = self._load({p: kept for p, kept in before.items() if p in batch.claim})
        checked = check(self._rule, batch.parts, batch.traces, states)
        if not checked.states:
            return replace(batch, gaps=Gaps())
        content = dump(self._rule, checked.states)
        kept = Kept(f"gaps-{batch.id}", zlib.crc32(content))
        self._shelf.keep(kept.name, content)
        self._states.update({p: (kept, state) for p, state in checked.states.items()})
        self._tell(checked.findings)
        return replace(batch, gaps=Gaps(checked.counts, dict.fromkeys(checked.states, kept)))

    def _load(self, wanted: Mapping[Partition, Kept]) -> dict[Partition, State]:
        states: dict[Partition, State] = {}
        files: dict[Kept, Mapping[Partition, State]] = {}
        for partition, kept in wanted.items():
            held = self._states.get(partition)
            if held is not None and held[0] == kept:
                states[partition] = held[1]
                continue
            if kept not in files:
                files[kept] = self._read(kept)
            if partition in files[kept]:
                states[partition] = files[kept][partition]
        return states

    def _read(self, kept: Kept) -> Mapping[Partition, State]:
        content = self._shelf.kept(kept.name)
        found = None
        if content is None:
            reason = "the file is gone"
        elif zlib.crc32(content) != kept.checksum:
            reason = "the file has other content"
        else:
            found, reason = load(self._rule, content), "it was written with other settings of gaps"
        if found is None:
            log.warning("sequences begin anew", table=self._shelf.name, file=kept.name, reason=reason)
        return found or {}

    def _tell(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            log.warning(
                "sequence broken",
                table=self._shelf.name,
                kind=finding.kind,
                key=finding.key,
                partition=str(finding.partition),
                offset=finding.offset,
                before=finding.before,
                after=finding.after,
            )
        self.recent = (*self.recent, *findings)[-RECENT:]  # replaced, never changed: another thread shows it
