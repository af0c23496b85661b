"""Which offsets a table has taken, and which of them Kafka can still be asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lakeward.positions import Bounds, Partition, Span
from lakeward.records import RawBatch
from lakeward.sources.kafka_reader import KafkaReader
from lakeward.verification.audit import Seen
from lakeward.verification.commits import Commits
from lakeward.verification.verdict import Findings


@dataclass(slots=True)
class Coverage:
    """What is read again: ``spans`` by partition, in order, none empty.

    ``gone`` says why the table may hold rows whose records cannot be read any more; empty where it may not.
    ``anew``: the table's first position is not known, so that Kafka may hold records that were never taken.
    """

    spans: Mapping[Partition, Sequence[Span]]
    gone: list[str] = field(default_factory=list)
    expired: int = 0
    anew: bool = False

    @property
    def offsets(self) -> int:
        """How many offsets there are: as many records at most."""
        return sum(span.end - span.start for spans in self.spans.values() for span in spans)

    def inside(self, raw: RawBatch) -> RawBatch:
        """The messages of ``raw`` that were taken: not those in a loss that was accepted (PROTOCOL S3)."""
        broken = {p: spans for p, spans in self.spans.items() if p.topic == raw.topic and len(spans) > 1}
        keep = np.ones(len(raw), np.bool_)
        for partition, spans in broken.items():
            mine = raw.partition == partition.number
            taken = np.zeros(len(raw), np.bool_)
            for span in spans:
                taken |= (raw.offset >= span.start) & (raw.offset < span.end)
            keep &= ~mine | taken
        return raw if keep.all() else raw.select(np.flatnonzero(keep))

    def settle(self, records: int, seen: Seen, reader: KafkaReader, findings: Findings) -> None:
        """Compare how many ``records`` were read with how many the ledger accounts for."""
        accounted = seen.entry.account.records
        if records > accounted and not self.anew:
            findings.problems.append(
                f"Kafka holds {records:,} records below the positions; the ledger accounts for {accounted:,}"
            )
        if records >= accounted or self.gone:
            return
        # Offsets prove nothing here: transactions leave holes too (PROTOCOL M5).
        told = reader.compacted(sorted({p.topic for p in self.spans}))
        if all(compacted is False for compacted in told.values()):
            findings.problems.append(
                f"Kafka holds {records:,} records below the positions, and nothing has expired; "
                f"the ledger accounts for {accounted:,}"
            )
        else:
            self.gone.append("compacted away in Kafka")


def taken(commits: Commits) -> tuple[dict[Partition, list[Span]], set[Partition]]:
    """The offsets that the claims on the ancestry took, and the partitions whose log began again below (S3)."""
    found: dict[Partition, list[Span]] = {}
    again: set[Partition] = set()
    for commit in commits.all:
        entry = commit.record.entry
        for partition, span in (entry.claim if entry is not None else {}).items():
            spans = found.setdefault(partition, [])
            if spans and span.start < spans[-1].end:
                again.add(partition)
                spans.clear()
            if spans and span.start == spans[-1].end:
                spans[-1] = Span(spans[-1].start, span.end)
            else:
                spans.append(span)
    return found, again


def covered(seen: Seen, topics: Collection[str], reader: KafkaReader, findings: Findings) -> Coverage:
    """What of the table's stream can be read again.

    Raises:
        UnreachableError: the brokers do not say what they hold.
    """
    found, again = taken(seen.commits)
    bounds = reader.partitions(topics)
    coverage = Coverage({}, anew=not seen.commits.complete)
    if again or coverage.anew or any(p.topic not in topics for p in found):
        coverage.gone.append("no longer known to be in Kafka")
    other = _recreated(seen, topics, reader)
    for topic in sorted(other):
        findings.not_checked.append(f"topic {topic}, which was deleted and created again since")
        coverage.gone.append("of a topic that is gone")
    spans: dict[Partition, list[Span]] = {}
    for partition, parts in found.items():
        if partition.topic not in topics or partition.topic in other:
            continue
        if partition not in bounds:
            findings.not_checked.append(f"{partition}, which is not in Kafka any more")
            coverage.gone.append("of a partition that is gone")
            continue
        position, end = seen.entry.positions[partition].next, bounds[partition].end
        if end < position:
            findings.problems.append(f"{partition} ends at {end:,} in Kafka, the table's position is {position:,}")
        clipped = _clip(parts, bounds[partition])
        coverage.expired += sum(s.end - s.start for s in parts) - sum(s.end - s.start for s in clipped)
        if clipped:
            spans[partition] = clipped
    if coverage.expired:
        coverage.gone.append("expired from Kafka")
    coverage.spans = spans
    return coverage


def _clip(spans: Sequence[Span], bounds: Bounds) -> list[Span]:
    clipped = [Span(max(span.start, bounds.low), min(span.end, bounds.end)) for span in spans]
    return [span for span in clipped if span.start < span.end]


def _recreated(seen: Seen, topics: Collection[str], reader: KafkaReader) -> set[str]:
    """The topics whose id is not the one that the ledger knows (PROTOCOL section 1)."""
    known = {topic: seen.entry.sources.get(topic) for topic in topics}
    asked = [topic for topic, identity in known.items() if identity is not None]
    told = reader.identities(asked) if asked else {}
    return {topic for topic in asked if told.get(topic) is not None and told[topic] != known[topic]}
