"""What an audit found out, and how it is collected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN = 10
"""How many of a kind are named; of the others, how many there are."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one table.

    ``lines``: (topic, sentence). ``problems``: what is wrong, in sentences. ``unreachable``: the servers that were
    away, so that less was checked than asked for. ``figures``: the numbers behind the lines, by topic.
    """

    table: str
    passed: bool
    lines: Sequence[tuple[str, str]]
    problems: Sequence[str]
    not_checked: Sequence[str]
    unreachable: Sequence[str] = ()
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: all was checked and is right, or what could not be checked was not asked for. 1: wrong. 3: a server."""
        return 1 if self.problems else 3 if self.unreachable else 0

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "lines": dict(self.lines)}


@dataclass(slots=True)
class Findings:
    """A verdict in the making."""

    table: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def say(self, topic: str, text: str, **figures: Any) -> None:
        """Add a line and the figures behind it."""
        self.lines.append((topic, text))
        self.figures[topic] = figures

    def verdict(self) -> Verdict:
        """The end of it; a table passes when nothing is wrong and no server that was needed was away."""
        return Verdict(
            self.table,
            not self.problems and not self.unreachable,
            tuple(self.lines),
            tuple(self.problems),
            tuple(self.not_checked),
            tuple(self.unreachable),
            dict(self.figures),
        )


def plural(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(items: Iterable[object], count: int | None = None) -> str:
    """The first `SHOWN` of ``items``, and how many more; ``count`` is how many there are where not all are given."""
    texts = [str(item) for item in items]
    shown = texts[:SHOWN]
    more = (len(texts) if count is None else count) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
