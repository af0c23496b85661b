"""Which offsets a table has taken, and which of them Kafka can still be asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lakeward.ledger import LedgerEntry
from lakeward.positions import Bounds, Partition, Span
from lakeward.records import RawBatch
from lakeward.sinks.iceberg.authorship import Kind
from lakeward.sources.kafka_reader import KafkaReader
from lakeward.verification.audit import Seen
from lakeward.verification.commits import Commits
from lakeward.verification.verdict import Findings


@dataclass(slots=True)
class Coverage:
    """What is read again: ``spans`` by partition, none empty; where two overlap, the table holds the records twice.

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
        """The messages of ``raw`` that were taken, each as often as it was: not those in a loss that was accepted."""
        broken = {p: spans for p, spans in self.spans.items() if p.topic == raw.topic and len(spans) > 1}
        if not broken:
            return raw
        times = np.ones(len(raw), np.int64)
        for partition, spans in broken.items():
            mine = raw.partition == partition.number
            times[mine] = 0
            for span in spans:
                times += mine & (raw.offset >= span.start) & (raw.offset < span.end)
        return raw.select(np.repeat(np.arange(len(raw)), times))

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


def taken(commits: Commits) -> tuple[dict[Partition, list[Span]], bool]:
    """The offsets that the claims on the ancestry took, in their order; and whether there were others before (S3).

    Spans overlap where an operator has moved a position back: those records are in the table more than once. What was
    taken of a topic that was created again since is not among them.
    """
    found: dict[Partition, list[Span]] = {}
    before: LedgerEntry | None = None
    others = False
    for commit in commits.all:
        entry = commit.record.entry
        if entry is None:
            continue
        for topic in _created_again(before, entry):
            others = True
            found = {partition: spans for partition, spans in found.items() if partition.topic != topic}
        for partition, span in entry.claim.items():
            spans = found.setdefault(partition, [])
            if spans and span.start < spans[-1].end and commit.deed.kind is not Kind.SEEK:
                others = True  # the log was cut: what was taken from there on has been replaced
                spans.clear()
            if spans and span.start == spans[-1].end:
                spans[-1] = Span(spans[-1].start, span.end)
            else:
                spans.append(span)
        before = entry
    return found, others


def _created_again(before: LedgerEntry | None, after: LedgerEntry) -> list[str]:
    known = before.sources if before is not None else {}
    return [topic for topic, now in after.sources.items() if now and known.get(topic) not in {None, now}]


def covered(seen: Seen, topics: Collection[str], reader: KafkaReader, findings: Findings) -> Coverage:
    """What of the table's stream can be read again.

    Raises:
        UnreachableError: the brokers do not say what they hold.
    """
    found, others = taken(seen.commits)
    bounds = reader.partitions(topics)
    coverage = Coverage({}, anew=not seen.commits.complete)
    if others or coverage.anew or any(p.topic not in topics for p in found):
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
