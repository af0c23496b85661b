"""What is wrong with a configuration, and where: every mistake is one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lakeward.errors import ConfigurationError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. ``line`` where the path alone does not tell it, such as the second of two equal keys."""

    path: KeyPath
    message: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a configuration came from: a name for messages, the folder its paths start at, the line of each key."""

    name: str = "configuration"
    folder: Path = field(default_factory=Path)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def line_of(self, path: KeyPath) -> int:
        """The line of ``path``, or of the nearest thing around it; 0 where there are no lines."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def failure(self, problems: Iterable[Problem]) -> ConfigurationError:
        """One error that says them all, sorted by line."""
        located = {
            (problem.line or self.line_of(problem.path), dotted(problem.path), problem.message): None
            for problem in problems
        }
        return ConfigurationError("\n".join(self._sentence(*key) for key in sorted(located, key=lambda key: key[0])))

    def _sentence(self, line: int, path: str, message: str) -> str:
        place = f"{self.name}:{line}" if line else self.name
        return ": ".join(part for part in (place, path, message) if part)


def dotted(path: KeyPath) -> str:
    """A path as people write it: ``tables[2].mode``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
