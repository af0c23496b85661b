"""Which table a topic's records go to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of ``tables:``. Either ``topics`` or ``pattern``; ``table`` may use the pattern's groups or {topic}."""

    table: str
    topics: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None

    def table_for(self, topic: str) -> str | None:
        """The table that ``topic`` feeds through this route; None where it feeds none. Patterns match whole names."""
        if topic in self.topics:
            return self.table
        match = self.pattern.fullmatch(topic) if self.pattern else None
        if match is None:
            return None
        return self.table.format_map({"topic": topic, **{k: v or "" for k, v in match.groupdict().items()}})


def tables_for(routes: Sequence[Route], topic: str) -> list[tuple[int, str]]:
    """Every (route's index, table) that ``topic`` feeds; a table once, by the first route that names it."""
    found: dict[str, int] = {}
    for index, route in enumerate(routes):
        table = route.table_for(topic)
        if table is not None:
            found.setdefault(table, index)
    return [(index, table) for table, index in found.items()]
