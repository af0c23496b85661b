"""Where one table's dead letters go: taken with its records, durable before the commit that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from lakeward.clock import Clock
from lakeward.dead_letters.rows import Owner, confirmations, letters_of, sealed
from lakeward.dead_letters.share import Share
from lakeward.errors import OperatorError
from lakeward.ledger import LedgerEntry
from lakeward.letters import Lettering, Letters
from lakeward.outcomes import Batch
from lakeward.positions import Account
from lakeward.records import RawBatch, Reject
from lakeward.stages import Target

LOOK = "`lakeward dead-letters list` shows those that were set aside before."


class Letterbox:
    """One pipeline's dead letters of one table. ``target`` is the dead-letter table, ``most`` the `max_rate`."""

    def __init__(self, target: Target, owner: Owner, most: float, clock: Clock) -> None:
        self.target = target
        self.owner = owner
        self._clock = clock
        self._most = most
        self._share = Share(most)

    def take(self, raw: RawBatch, rejects: Sequence[Reject]) -> pa.Table | None:
        """The letters of ``raw``; None where all of it is well.

        Raises:
            OperatorError: they are too many; nothing of ``raw`` may be taken (PROTOCOL D5).
        """
        if self._share.exceeded(len(raw), len(rejects)):
            raise OperatorError(
                f"{self.owner.table}: {self._share.letters + len(rejects):,} of the last "
                f"{self._share.records + len(raw):,} records cannot be written, more than max_rate {self._most:g} lets "
                f"pass; the next of them: {told(raw, rejects)}",
                "Nothing of them is lost: positions stay below. Look whether decoding and schema are those of the "
                f"topic; to set so many aside, raise dead_letters.max_rate. {LOOK}",
            )
        self._share.count(len(raw), len(rejects))
        return letters_of(raw, rejects, self._clock.now_ms()) if rejects else None

    def seal(self, batch: Batch, letters: pa.Table, entry: LedgerEntry | None) -> Batch:
        """``batch`` with the rows that must be durable before it; ``entry`` is the target's last one that is known."""
        state = entry.letters if entry is not None else Letters()
        rows = [sealed(letters, self.owner, batch.id, batch.sources), confirmations(state, self.owner)]
        return replace(batch, letters=pa.concat_tables(rows), lettering=Lettering(confirmed=dict(state.open)))


def posting(commit: str, rows: pa.Table) -> Batch:
    """The batch that appends ``rows`` to a dead-letter table, under the id of the commit that they belong to."""
    return Batch(
        id=commit,
        parts=(rows,),
        claim={},
        upto={},
        sources={},
        account=Account(len(rows), len(rows)),
    )


def told(raw: RawBatch, rejects: Sequence[Reject]) -> str:
    """Where the first of ``rejects`` is, and what is wrong with it; never what it says."""
    reject = min(rejects, key=lambda r: r.index)
    place = f"{raw.topic}, partition {int(raw.partition[reject.index])}, offset {int(raw.offset[reject.index])}"
    schema = f", schema id {reject.schema_id}" if reject.schema_id is not None else ""
    return f"topic {place}{schema}: {reject.reason} [{reject.code}]"
