"""The dead letters of a table: those that the account counts are there, and explain what is no row (PROTOCOL D2)."""

from __future__ import annotations

from collections import Counter

import numpy as np

from lakeward.dead_letters.book import Book, read
from lakeward.dead_letters.rows import PLACE, Owner
from lakeward.ledger import LedgerEntry
from lakeward.records import RawBatch
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.verification.verdict import Findings, plural


class Waiting:
    """The letters that wait, by place. A place may have several: an operator can have it read again."""

    def __init__(self, book: Book | None = None) -> None:
        columns = [book.open.column(name).to_pylist() for name in PLACE] if book is not None else [[], [], []]
        self._left = Counter(zip(*columns, strict=True))
        by_topic: dict[str, list[int]] = {}
        for topic, _, offset in self._left:
            by_topic.setdefault(topic, []).append(offset)
        self._offsets = {topic: np.unique(offsets) for topic, offsets in by_topic.items()}

    def without(self, raw: RawBatch) -> RawBatch:
        """``raw`` less the messages that are letters, each as often as it is one."""
        offsets = self._offsets.get(raw.topic)
        if offsets is None:
            return raw
        keep = np.ones(len(raw), np.bool_)
        for i in np.flatnonzero(np.isin(raw.offset, offsets)).tolist():
            place = (raw.topic, int(raw.partition[i]), int(raw.offset[i]))
            if self._left[place] > 0:
                self._left[place] -= 1
                keep[i] = False
        return raw if keep.all() else raw.select(np.flatnonzero(keep))


def audit_letters(target: IcebergTarget, shelf: IcebergTarget, entry: LedgerEntry, findings: Findings) -> Waiting:
    """Are the letters there that the account of ``target`` says? ``entry`` was loaded before ``shelf`` is read.

    Raises:
        UnreachableError: catalog or store do not answer.
    """
    if not entry.letters.line:
        return Waiting()
    book = read(shelf, Owner(target.settings.pipeline, target.name), entry)
    text = f"{len(book.open):,} wait, {len(book.replayed):,} were brought back"
    if book.void:
        text += f"; {book.void:,} of commits that are not in the table do not count"
    findings.say("letters", text, waiting=len(book.open), replayed=len(book.replayed), void=book.void)
    if len(book.open) != entry.account.letters:
        findings.problems.append(
            f"{plural(len(book.open), 'dead letter')} can be found in {shelf.name}; "
            f"the account says that {entry.account.letters:,} wait"
        )
    return Waiting(book)
