"""How many of a table's records are dead letters lately: a flood means that the configuration is wrong."""

from __future__ import annotations

from collections import deque

WINDOW = 1_000
"""The share is taken of at least so many records: one bad record of ten is no flood."""


class Share:
    """Of the last `WINDOW` records, or as many as one fetch brought. ``most``: the share that is let pass, 0 to 1."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._counts: deque[tuple[int, int]] = deque()
        self.records = self.letters = 0

    def exceeded(self, records: int, letters: int) -> bool:
        """Whether so many more of both are a flood; they are not counted."""
        seen, bad = self.records + records, self.letters + letters
        for old_records, old_letters in self._counts:
            if seen - old_records < WINDOW:
                break
            seen, bad = seen - old_records, bad - old_letters
        return bad > self._most * max(seen, WINDOW)

    def count(self, records: int, letters: int) -> None:
        """Add to the last records; those before them fade."""
        self._counts.append((records, letters))
        self.records, self.letters = self.records + records, self.letters + letters
        while self.records - self._counts[0][0] >= WINDOW:
            old_records, old_letters = self._counts.popleft()
            self.records, self.letters = self.records - old_records, self.letters - old_letters
