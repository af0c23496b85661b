"""Which dead letters count: what a ledger entry says about the commits that brought them (PROTOCOL, section 8).

Pure. A letter is written before the commit that it belongs to, and counts only if that commit is in the table: nothing
has to be undone where it never was, was refused, or was rolled back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class Interval(NamedTuple):
    """Entry numbers from ``first`` to ``last``, both included."""

    first: int
    last: int


class Confirmed(NamedTuple):
    """The dead-letter table's own note that a commit was in the target, on that line of entries, as that number."""

    line: str
    number: int


@dataclass(frozen=True, slots=True)
class Letters:
    """One pipeline's dead letters of one table, as its entry knows them.

    ``line`` is the id of the first commit that brought any (empty: none has yet); a pipeline that begins anew in the
    table has another. ``open`` maps each commit that is not yet confirmed to its number. ``undone`` are the numbers
    that a rollback took off the ancestry. ``replays`` counts the commits that brought letters back as rows.
    """

    line: str = ""
    open: Mapping[str, int] = field(default_factory=dict)
    undone: tuple[Interval, ...] = ()
    replays: int = 0

    def rewound(self, number: int, highest: int) -> Letters:
        """The same after the entry ``number`` was found, or put, below one with ``highest`` (PROTOCOL F6, B1)."""
        if highest <= number or not self.line:
            return self
        return replace(self, undone=(*self.undone, Interval(number + 1, highest)))

    def count(self, commit: str, number: int, confirmed: Iterable[Confirmed]) -> bool:
        """Whether what ``commit`` brought counts for the entry ``number``; ``confirmed``: what is noted of it (D2)."""
        return commit in self.open or any(
            note.line == self.line
            and note.number <= number
            and not any(span.first <= note.number <= span.last for span in self.undone)
            for note in confirmed
        )


@dataclass(frozen=True, slots=True)
class Lettering:
    """What a commit does about dead letters.

    ``confirmed``: commits that the dead-letter table has noted since, so that the entry may forget them.
    ``planned_on``: the commit brings letters back as rows, and was planned on this state; refused on any other (D4).
    """

    confirmed: Mapping[str, int] = field(default_factory=dict)
    planned_on: Letters | None = None

    def after(self, before: Letters, commit: str, number: int) -> Letters:
        """The state that ``commit``, as entry ``number``, leaves behind."""
        kept = {c: n for c, n in before.open.items() if self.confirmed.get(c) != n}
        return replace(
            before,
            line=before.line or commit,
            open={**kept, commit: number},
            replays=before.replays + (self.planned_on is not None),
        )

    def outdated(self, now: Letters) -> bool:
        """Whether letters were brought back, or a rollback happened, since this was planned."""
        planned = self.planned_on
        return planned is not None and (
            (planned.line, planned.undone, planned.replays) != (now.line, now.undone, now.replays)
        )
