"""The keys of change events: which columns identify a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lakeward.decoding import json_reference
from lakeward.decoding.debezium_members import Finder, NDInt
from lakeward.decoding.debezium_wrapping import WRAPPING, Unwrapped, unwrap
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.records import NULL, Blobs, Reject

MOST_SETS = 16
"""Sets of names that are remembered; a topic has one, another when the primary key of its table is changed."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of ``n`` messages.

    ``values``: what they hold, objects. ``which`` int32[n]: the index in ``names`` of the names that a key has, 0: it
    has none that can be read. ``group`` and ``schema`` as in `Unwrapped`.
    """

    values: Blobs
    which: NDArray[np.int32]
    names: list[tuple[str, ...]]
    group: NDArray[np.int32]
    schema: Blobs


class KeyReader:
    """Reads keys, as JSON objects.

    Args:
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(self, cache_folder: Path | None) -> None:
        self._cache_folder = cache_folder
        self._finder = Finder(WRAPPING, cache_folder)
        self._known: dict[tuple[str, ...], Finder] = {}

    def read(self, keys: Blobs) -> Keys:
        """Tell of every key which names it has."""
        rejects: list[Reject] = []
        unwrapped = unwrap(keys, self._finder, rejects)
        return self.named(unwrapped)

    def named(self, unwrapped: Unwrapped) -> Keys:
        """The keys, with the names in them."""
        values = unwrapped.payload
        which = np.zeros(len(values), np.int32)
        names: list[tuple[str, ...]] = [()]
        rest = np.flatnonzero(values.length != NULL)
        for known in list(self._known):
            rest = self._match(values, rest, known, which, names)
        for _ in range(2):
            own = _names(values, rest[:1])
            if own and own not in self._known:
                self._remember(own)
                rest = self._match(values, rest, own, which, names)
        for i in rest.tolist():
            own = _names(values, np.array([i]))
            if own not in names:
                names.append(own)
            which[i] = names.index(own)
        return Keys(values, which, names, unwrapped.group, unwrapped.schema)

    def _remember(self, names: tuple[str, ...]) -> None:
        if len(self._known) >= MOST_SETS:
            self._known.pop(next(iter(self._known)))
        self._known[names] = Finder(names, self._cache_folder)

    def _match(
        self,
        values: Blobs,
        rest: NDInt,
        wanted: tuple[str, ...],
        which: NDArray[np.int32],
        names: list[tuple[str, ...]],
    ) -> NDInt:
        """Mark those of ``rest`` that have the names ``wanted``; return the others."""
        if not len(rest):
            return rest
        found = self._known[wanted].find(values.select(rest))
        fits = (found.count == len(wanted)) & (found.length >= 0).all(axis=1)
        if fits.any():
            names.append(wanted)
            which[rest[fits]] = len(names) - 1
        left: NDInt = rest[~fits]
        return left


def _names(values: Blobs, index: NDInt) -> tuple[str, ...]:
    """The names in the first key of ``index``; none where it is no object."""
    for i in index.tolist():
        try:
            return tuple(json_reference.parse(values.get(i) or b""))
        except NotDecodableError:
            return ()
    return ()
