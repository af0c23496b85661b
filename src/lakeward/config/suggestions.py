"""The nearest known word to one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_FEW = 16


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The word of ``known`` that was probably meant, or None where none is near."""
    folded = {_fold(candidate): candidate for candidate in known}
    matches = difflib.get_close_matches(_fold(word), list(folded), n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def hint(word: str, known: Iterable[str]) -> str:
    """The end of an error's sentence: what was probably meant, or else what there is to choose from."""
    known = list(known)
    meant = nearest(word, known)
    if meant is not None:
        return f'; did you mean "{meant}"?'
    return f"; there is {', '.join(known)}" if 0 < len(known) <= _FEW else ""


def _fold(word: str) -> str:
    return word.lower().replace("-", "_")
