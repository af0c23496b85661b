"""What a ledger entry says of business sequences: counts, and where the last numbers are kept (PROTOCOL M4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lakeward.positions import Partition


@dataclass(frozen=True, slots=True)
class GapCounts:
    """``gaps`` holes with ``missing`` numbers in them, numbers seen twice in a row, and numbers that went back."""

    gaps: int = 0
    missing: int = 0
    duplicates: int = 0
    regressions: int = 0

    def plus(self, other: GapCounts) -> GapCounts:
        """The two together."""
        return GapCounts(
            self.gaps + other.gaps,
            self.missing + other.missing,
            self.duplicates + other.duplicates,
            self.regressions + other.regressions,
        )


class Kept(NamedTuple):
    """A file beside the table: its name, and the CRC-32 of its content."""

    name: str
    checksum: int


@dataclass(frozen=True, slots=True)
class Gaps:
    """``counts`` since the pipeline's first commit, or of one batch; ``states``: which file holds a partition's."""

    counts: GapCounts = field(default_factory=GapCounts)
    states: Mapping[Partition, Kept] = field(default_factory=dict)

    def then(self, batch: Gaps) -> Gaps:
        """These, and what a batch adds: its partitions' states replace the ones before."""
        return Gaps(self.counts.plus(batch.counts), {**self.states, **batch.states})

    def document(self) -> list[Any]:
        """As JSON: the four counts, then each file with its checksum and its partitions."""
        files: dict[Kept, list[list[Any]]] = {}
        for partition, kept in sorted(self.states.items()):
            files.setdefault(kept, []).append(list(partition))
        counts = self.counts
        return [
            [counts.gaps, counts.missing, counts.duplicates, counts.regressions],
            [[*kept, partitions] for kept, partitions in sorted(files.items())],
        ]

    @staticmethod
    def of(document: list[Any]) -> Gaps:
        """Read `document` back.

        Raises:
            ValueError, TypeError: it is not one.
        """
        counts, files = document
        states = {Partition(t, n): Kept(name, checksum) for name, checksum, partitions in files for t, n in partitions}
        return Gaps(GapCounts(*counts), states)
