"""The ledger entry: everything a pipeline's next start needs, stored by each commit (PROTOCOL, section 1).

Pure: encoding, decoding and comparing. Where an entry is kept, and how it is found again, is the sinks' business.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

from lakeward.errors import LedgerError
from lakeward.gaps import Gaps
from lakeward.letters import Interval, Lettering, Letters
from lakeward.positions import Account, Claim, Partition, Position, Positions, Span, Witness

FORMAT = 1
KEY_PREFIX = "lakeward."


def key_of(pipeline: str) -> str:
    """The snapshot summary key and table property under which ``pipeline`` keeps its entry."""
    return KEY_PREFIX + pipeline


@dataclass(frozen=True, slots=True)
class Loss:
    """Offsets ``[start, end)`` of a partition that an operator's setting gave up (PROTOCOL S3).

    ``end`` lies below ``start`` where the topic began anew. ``after`` is the number of the entry whose position was
    given up: a topic may be created again with as many records as before, and that is another loss.
    """

    partition: Partition
    start: int
    end: int
    after: int = 0


@dataclass(frozen=True, slots=True)
class Writer:
    """The last library append of one handle (PROTOCOL C9): its number and when, milliseconds since the epoch."""

    number: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One pipeline's state in one table; complete, never a delta.

    ``sources`` maps each topic to the id that its broker gives it (None where it tells none); ``claim`` is what the
    commit that wrote this entry added, empty in entries that a commit only carried along (PROTOCOL I5).
    """

    table: str
    commit: str
    number: int
    positions: Positions = field(default_factory=dict)
    sources: Mapping[str, str | None] = field(default_factory=dict)
    claim: Claim = field(default_factory=dict)
    writers: Mapping[str, Writer] = field(default_factory=dict)
    accepted: tuple[Loss, ...] = ()
    account: Account = field(default_factory=Account)
    """Cumulative since the pipeline's first commit in this table."""
    letters: Letters = field(default_factory=Letters)
    gaps: Gaps | None = None
    """None until a batch was followed for gaps."""

    def carried(self) -> LedgerEntry:
        """This entry as another pipeline's commit carries it along: the same state, no claim (PROTOCOL I5)."""
        return replace(self, claim={})

    def rolled_back(self, commit: str, highest: int) -> LedgerEntry:
        """This entry as a rollback restores it over one that is numbered ``highest`` (PROTOCOL B1)."""
        letters = self.letters.rewound(self.number, highest)
        return replace(self, commit=commit, number=highest + 1, claim={}, letters=letters)


def encode(entry: LedgerEntry) -> str:
    """One line of JSON, keys sorted: the same entry is always the same text."""
    positions: dict[str, dict[str, Any]] = {}
    for (topic, number), at in sorted(entry.positions.items()):
        row: list[Any] = [at.next, at.leader_epoch, list(at.witness) if at.witness else None]
        while row[-1] is None:
            row.pop()
        positions.setdefault(topic, {})[str(number)] = row
    document: dict[str, Any] = {
        "format": FORMAT,
        "table": entry.table,
        "commit": entry.commit,
        "number": entry.number,
        "positions": positions,
        "sources": dict(entry.sources),
        "claim": _nest(entry.claim),
        "account": [entry.account.records, entry.account.rows, entry.account.skipped, entry.account.letters],
    }
    if entry.letters.line:
        letters = entry.letters
        document["letters"] = [letters.line, dict(letters.open), [list(i) for i in letters.undone], letters.replays]
    if entry.writers:
        document["writers"] = {handle: [w.number, w.time_ms] for handle, w in entry.writers.items()}
    if entry.gaps is not None:
        document["gaps"] = entry.gaps.document()
    if entry.accepted:
        document["accepted"] = [[*loss.partition, loss.start, loss.end, loss.after] for loss in entry.accepted]
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _nest(claim: Claim) -> dict[str, dict[str, list[int]]]:
    nested: dict[str, dict[str, list[int]]] = {}
    for (topic, number), span in sorted(claim.items()):
        nested.setdefault(topic, {})[str(number)] = [span.start, span.end]
    return nested


def decode(text: str, where: str) -> LedgerEntry:
    """Read an entry back; ``where`` names the snapshot or property it came from.

    Raises:
        LedgerError: unknown format, or it does not parse (PROTOCOL I8).
    """
    try:
        document = json.loads(text)
        version = document["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(where, type(error).__name__) from error
    if version != FORMAT:
        raise LedgerError(
            f"the ledger entry in {where} has format {version!r}; this lakeward reads format {FORMAT}",
            "Use the lakeward version that wrote it, or a newer one.",
        )
    try:
        return LedgerEntry(
            table=document["table"],
            commit=document["commit"],
            number=int(document["number"]),
            positions={
                Partition(topic, int(number)): _position(row)
                for topic, rows in document["positions"].items()
                for number, row in rows.items()
            },
            sources=dict(document["sources"]),
            claim={
                Partition(topic, int(number)): Span(*span)
                for topic, spans in document["claim"].items()
                for number, span in spans.items()
            },
            writers={h: Writer(*w) for h, w in document.get("writers", {}).items()},
            accepted=tuple(Loss(Partition(t, n), *span) for t, n, *span in document.get("accepted", ())),
            account=Account(*document["account"]),
            letters=_letters(document.get("letters")),
            gaps=Gaps.of(document["gaps"]) if "gaps" in document else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(where, type(error).__name__) from error


def _position(row: list[Any]) -> Position:
    epoch = row[1] if len(row) > 1 else None
    witness = Witness(*row[2]) if len(row) > 2 and row[2] is not None else None
    return Position(int(row[0]), epoch, witness)


def _letters(row: list[Any] | None) -> Letters:
    if row is None:
        return Letters()
    line, opened, undone, replays = row
    return Letters(line, dict(opened), tuple(Interval(*interval) for interval in undone), replays)


def _unreadable(where: str, why: str) -> LedgerError:
    return LedgerError(
        f"the ledger entry in {where} cannot be read ({why})",
        "Something else wrote that key. Find out what did, and roll the table back to a snapshot before it.",
    )


class Step(Protocol):
    """What one commit adds to an entry: the ledger's side of a batch."""

    @property
    def id(self) -> str:
        """The commit id, the same over all attempts."""

    @property
    def claim(self) -> Claim:
        """The offsets that it adds."""

    @property
    def upto(self) -> Positions:
        """The positions after it."""

    @property
    def sources(self) -> Mapping[str, str | None]:
        """The topics' ids where the broker tells them."""

    @property
    def account(self) -> Account:
        """How its records are accounted for."""

    @property
    def accepted(self) -> Sequence[Loss]:
        """Offsets that it gives up."""

    @property
    def gaps(self) -> Gaps | None:
        """What following its sequences found (PROTOCOL M4); None where nobody follows them."""

    @property
    def adopts(self) -> str | None:
        """The pipeline whose positions it takes over (PROTOCOL F4)."""

    @property
    def writer(self) -> tuple[str, int] | None:
        """A library append's claim: (handle id, append number)."""

    @property
    def lettering(self) -> Lettering | None:
        """What it does about dead letters (PROTOCOL, section 8); None where it brings none."""


WRITERS_KEPT_MS = 24 * 3600 * 1000
"""How long the last append of a library handle is remembered, by the table's own time (PROTOCOL C9)."""


def next_entry(
    before: LedgerEntry | None, *, table: str, batch: Step, highest: int = 0, time_ms: int = 0
) -> LedgerEntry:
    """The entry of a commit that extends ``before`` by ``batch`` (PROTOCOL C2f).

    ``table`` is the table's uuid, ``highest`` the highest number that it shows anywhere (F6), ``time_ms`` the new
    snapshot's time. The caller has compared every claimed partition with ``before``; this only builds.
    """
    base = before or LedgerEntry(table=table, commit="", number=0)
    writers = {h: w for h, w in base.writers.items() if w.time_ms > time_ms - WRITERS_KEPT_MS}
    if batch.writer is not None:
        handle, append = batch.writer
        writers[handle] = Writer(append, time_ms)
    told = {topic: identity for topic, identity in batch.sources.items() if identity or topic not in base.sources}
    begun_anew = {loss.partition for loss in batch.accepted}
    kept = {p: at.witness for p, at in base.positions.items() if p not in begun_anew}
    number = max(base.number, highest) + 1
    letters = base.letters.rewound(base.number, highest)
    # A commit that only moves the position has no record to witness it; the last one still does.
    upto = {p: at if at.witness is not None else at._replace(witness=kept.get(p)) for p, at in batch.upto.items()}
    return LedgerEntry(
        table=table,
        commit=batch.id,
        number=number,
        positions={**base.positions, **upto},
        sources={**base.sources, **told},
        claim=dict(batch.claim),
        writers=writers,
        accepted=base.accepted + tuple(loss for loss in batch.accepted if loss not in base.accepted),
        account=base.account.plus(batch.account),
        letters=batch.lettering.after(letters, batch.id, number) if batch.lettering is not None else letters,
        gaps=_followed(base.gaps, batch.gaps, {loss.partition for loss in batch.accepted if loss.end <= loss.start}),
    )


def _followed(before: Gaps | None, batch: Gaps | None, begun_anew: set[Partition]) -> Gaps | None:
    """The gaps after a batch. A topic that began anew has other sequences than the one before."""
    if before is None:
        return batch
    kept = replace(before, states={p: state for p, state in before.states.items() if p not in begun_anew})
    return kept.then(batch) if batch is not None else kept


def outdated(before: LedgerEntry | None, batch: Step, highest: int) -> bool:
    """Whether ``batch`` brings back letters by a plan that ``before`` is no longer (PROTOCOL D4)."""
    if batch.lettering is None or batch.lettering.planned_on is None:
        return False
    return before is None or batch.lettering.outdated(before.letters.rewound(before.number, highest))


class Standing(StrEnum):
    """How a claim stands against what a table records (PROTOCOL C2c)."""

    EXTENDS = "extends"
    COVERED = "covered"
    REFUSED = "refused"

    @staticmethod
    def of(
        claim: Claim,
        entry: LedgerEntry | None,
        accepted: Sequence[Loss] = (),
        sources: Mapping[str, str | None] = MappingProxyType({}),
        believed: Collection[Partition] = (),
    ) -> Standing:
        """Equal everywhere: extends. Everything already in: covered. Anything else: refused.

        A topic with another id in ``sources`` than the entry's is another topic: refused, unless all positions that
        the entry has in it are given up. A partition that the entry does not know is extended from wherever the claim
        starts (PROTOCOL S2: the starts were committed, or this commit is the first), unless it is in ``believed``: then
        the entry did know it, and the table was rolled back to before that. A loss in ``accepted`` bridges the gap
        between the recorded position and the claim.
        """
        known = entry.positions if entry else {}
        recorded = entry.accepted if entry else ()
        pending = {loss.partition: loss for loss in accepted if loss not in recorded}
        if entry is not None and any(p not in pending and not _same(p.topic, sources, entry) for p in known):
            return Standing.REFUSED
        if any(p not in known for p in believed):
            return Standing.REFUSED
        if all(_extends(known.get(p), span, pending.get(p)) for p, span in claim.items()):
            return Standing.EXTENDS
        if all(p in known and p not in pending and known[p].next >= span.end for p, span in claim.items()):
            return Standing.COVERED
        return Standing.REFUSED


def _same(topic: str, sources: Mapping[str, str | None], entry: LedgerEntry) -> bool:
    """Whether ``topic`` may be what ``entry`` was fed from: brokers do not always tell an id."""
    told, known = sources.get(topic), entry.sources.get(topic)
    return told is None or known is None or told == known


def _extends(at: Position | None, span: Span, loss: Loss | None) -> bool:
    if at is None:
        return True
    if loss is not None:
        return at.next == loss.start and span.start == loss.end
    return at.next == span.start


def breaks(before: LedgerEntry | None, after: LedgerEntry) -> list[str]:
    """What is wrong with ``after`` as the successor of ``before`` on one ancestry; nothing where it is sound (I3).

    Both belong to one pipeline and one table. Sentences without values, for `verify`.
    """
    known = before.positions if before else {}
    wrong = []
    if before is not None and after.number < before.number + bool(after.claim):
        wrong.append(f"number goes from {before.number} to {after.number}")
    fresh = {loss.partition: loss for loss in after.accepted if before is None or loss not in before.accepted}
    for partition, span in after.claim.items():
        if not _extends(known.get(partition), span, fresh.get(partition)):
            wrong.append(f"{partition}: the claim starts at {span.start}, after {known[partition].next}")
        if (end := after.positions[partition].next) != span.end:
            wrong.append(f"{partition}: the claim ends at {span.end}, the position is {end}")
    for partition, at in after.positions.items():
        if partition not in after.claim and partition in known and known[partition].next != at.next:
            wrong.append(f"{partition}: moved from {known[partition].next} to {at.next} without a claim")
    wrong.extend(f"{partition}: its position is gone" for partition in known if partition not in after.positions)
    return wrong


def refuse_other_owner(others: Mapping[str, LedgerEntry], step: Step, pipeline: str) -> None:
    """A pipeline that the table does not know must not read what another one feeds it from (PROTOCOL F4).

    Raises:
        LedgerError: another pipeline's entry names the same source, and ``step`` does not adopt its positions.
    """
    for name, entry in others.items():
        for topic, identity in step.sources.items():
            known = entry.sources.get(topic)
            same = identity is None or known is None or known == identity
            if topic in entry.sources and same and name != step.adopts:
                raise LedgerError(
                    f"pipeline {name!r} already feeds this table from topic {topic}; "
                    f"pipeline {pipeline!r} would write its rows a second time",
                    f"If the pipeline was renamed, take its positions over once: `lakeward run --adopt {name}`. "
                    f"If {name!r} still runs, write to another table.",
                )
