"""``${VARIABLE}`` and ``${VARIABLE:-default}`` inside the scalars of a configuration.

Substitution happens after YAML was parsed, so a value can never add keys or items. What it may be read as is decided
by the setting that takes it: a port reads a number, a list reads YAML flow (``[a, b]``), a password stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

_OPEN = "${"
_REFERENCE = re.compile(r"(?P<name>[A-Za-z_]\w*)(?P<default>:-(?P<text>.*))?", re.DOTALL | re.ASCII)


class Substituted(str):
    """Text that a variable had a part in. ``whole``: the scalar was one reference and nothing else."""

    __slots__ = ("whole",)
    whole: bool

    def __new__(cls, text: str, *, whole: bool) -> Self:
        """Make one from the text after substitution."""
        self = super().__new__(cls, text)
        self.whole = whole
        return self


@dataclass(slots=True)
class Expansion:
    """A scalar after substitution; ``problems`` has one sentence for each reference that could not be replaced."""

    text: str
    problems: list[str] = field(default_factory=list)


def expand(text: str, env: Mapping[str, str]) -> Expansion:
    """Replace every reference in ``text`` by what ``env`` holds.

    The default stands in for a variable that is unset or empty, and may hold references itself. ``$${`` is a
    literal ``${``.
    """
    result = Expansion(text)
    if _OPEN not in text:
        return result
    pieces: list[str] = []
    references = 0
    at = 0
    while (found := text.find(_OPEN, at)) >= 0:
        if found > at and text[found - 1] == "$":
            pieces += (text[at : found - 1], _OPEN)
            at = found + len(_OPEN)
            continue
        end = _closing(text, found + len(_OPEN))
        if end is None:
            result.problems.append('"${" is not closed by "}"; write $${ for a literal ${')
            return result
        pieces += (text[at:found], _value(text[found + len(_OPEN) : end], env, result.problems))
        references += 1
        at = end + 1
    pieces.append(text[at:])
    plain = "".join(pieces)
    whole = references == 1 and text.startswith(_OPEN) and _closing(text, len(_OPEN)) == len(text) - 1
    result.text = Substituted(plain, whole=whole) if references else plain
    return result


def _value(reference: str, env: Mapping[str, str], problems: list[str]) -> str:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        problems.append("a reference to a variable is written ${NAME} or ${NAME:-default}")
        return ""
    name = match["name"]
    if match["default"] is None:
        if name not in env:
            problems.append(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
        return env.get(name, "")
    if env.get(name):
        return env[name]
    default = expand(match["text"], env)
    problems += default.problems
    return str(default.text)


def _closing(text: str, start: int) -> int | None:
    """Where the brace that was opened just before ``start`` is closed; braces in a default come in pairs."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return None
