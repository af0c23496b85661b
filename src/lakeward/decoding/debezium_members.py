"""Which bytes of messages are which part of a change event."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakeward.decoding import debezium_kernel, native, text
from lakeward.decoding.code_cache import CodeCache, WarmUp
from lakeward.decoding.debezium_kernel import (
    Found,
    Names,
    compare,
    find_members,
    read_whole_numbers,
    write_log_places,
)
from lakeward.records import NULL, Blobs

WORD = 8
NDInt = NDArray[np.int64]
NDMask = NDArray[np.bool_]
ABSENT = 0
"""The first byte of what is not there."""


@dataclass(frozen=True, slots=True)
class Members:
    """Members of ``n`` objects.

    Shapes and types: ``count`` int32[n], how many members each has, -1 where it is not a plainly written object;
    ``group`` int32[n], which of the distinct values of the first name it holds, -1 for none.
    """

    data: NDArray[np.uint8]
    at: NDArray[np.int64]
    length: NDArray[np.int32]
    count: NDArray[np.int32]
    group: NDArray[np.int32]
    names: tuple[str, ...]

    def get(self, name: str) -> Blobs:
        """The values of member ``name`` as they are written; null where it is not there."""
        g = self.names.index(name)
        length = np.ascontiguousarray(self.length[:, g])
        return Blobs(self.data, np.where(length == NULL, 0, self.at[:, g]), length)

    def first(self, name: str) -> NDArray[np.uint8]:
        """The first byte of each value; `ABSENT` where there is none."""
        return first_byte(self.get(name))


class Finder:
    """Finds the members that have these names.

    Args:
        names: at least one; values of the first are also told apart.
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(self, names: Sequence[str], cache_folder: Path | None) -> None:
        self.names = tuple(names)
        self._tokens = _tokens(names)
        self._find = kept(find_members, cache_folder, _warm_find)

    def find(self, objects: Blobs) -> Members:
        """Look at every object that is not null."""
        n, k = len(objects), len(self.names)
        found = _room(n, k)
        self._find(*read_only(objects), self._tokens, found)
        at, length = found.at.reshape(n, k), found.length.reshape(n, k)
        return Members(objects.data, at, length, found.members, found.group, self.names)


def first_byte(values: Blobs) -> NDArray[np.uint8]:
    """The first byte of each; `ABSENT` where there is none."""
    found = np.zeros(len(values), np.uint8)
    filled = np.flatnonzero(values.length > 0)
    found[filled] = values.data[values.start[filled]]
    return found


def whole_numbers(values: Blobs, cache_folder: Path | None) -> tuple[NDInt, NDMask]:
    """The integers that are written there, and where there is one that fits 64 bits."""
    numbers, valid = np.empty(len(values), np.int64), np.empty(len(values), np.uint8)
    kept(read_whole_numbers, cache_folder, _warm_read)(*read_only(values), numbers, valid)
    return numbers, valid.astype(np.bool_)


def same(values: Blobs, one: NDInt, other: NDInt, cache_folder: Path | None) -> NDMask:
    """Whether the byte strings at ``one`` are those at ``other``, pair by pair."""
    found = np.empty(len(one), np.uint8)
    kept(compare, cache_folder, _warm_compare)(*read_only(values), one, other, found)
    return found.astype(np.bool_)


def log_places(places: NDInt, valid: NDMask, cache_folder: Path | None) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Places in a PostgreSQL log as text: offsets and bytes."""
    ends, out = np.empty(len(places) + 1, np.int32), np.empty(len(places) * 17, np.uint8)
    kept(write_log_places, cache_folder, _warm_write)(places, valid.astype(np.uint8), ends, out)
    return ends, out[: ends[-1]]


def read_only(values: Blobs) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The arrays as views of one type, whatever the source hands over: numba compiles for each type that it meets."""
    views = [np.ascontiguousarray(array).view() for array in (values.data, values.start, values.length)]
    for view in views:
        view.flags.writeable = False
    return views[0], views[1], views[2]


@cache
def kept(function: Callable[..., Any], cache_folder: Path | None, warm_up: WarmUp) -> Callable[..., Any]:
    """``function``, compiled, its code kept in ``cache_folder``; ``warm_up`` calls it with the types of every call."""
    if cache_folder is None:
        return function
    module = inspect.getmodule(function)
    if module is None:
        raise TypeError("a compiled function without a module")
    plain = inspect.unwrap(getattr(function, "py_func", function))
    name, arguments = plain.__name__, ", ".join(inspect.signature(plain).parameters)
    program = (
        f'"""Written by lakeward."""\n\nfrom {module.__name__} import {name}\n\n\n'
        f"def decode({arguments}):\n    return {name}({arguments})\n"
    )
    depends = "".join(map(inspect.getsource, (native, text, debezium_kernel, module)))
    return CodeCache(cache_folder).function(program, depends=depends, warm_up=warm_up)


def _room(objects: int, names: int) -> Found:
    places = objects * names
    each = (np.empty(objects, np.int32) for _ in range(2))
    return Found(np.zeros(places, np.int64), np.empty(places, np.int32), *each)


def _tokens(names: Sequence[str]) -> Names:
    tokens = [f'"{name}":'.encode() for name in names]
    width = -(-max(map(len, tokens)) // WORD) * WORD
    return Names(
        words=_words([token.ljust(width, b"\0") for token in tokens]),
        masks=_words([(b"\xff" * len(token)).ljust(width, b"\0") for token in tokens]),
        size=np.array([len(token) for token in tokens], np.uint64),
        follows=((np.arange(len(tokens) + 1) + 1) % (len(tokens) + 1)).astype(np.uint64),
    )


def _words(tokens: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(tokens), "<u8").astype(np.uint64)


def _warm_find(find: Callable[..., Any]) -> None:
    find(*read_only(Blobs.of(())), _tokens(["a"]), _room(0, 1))


def _warm_compare(compare_pairs: Callable[..., Any]) -> None:
    nothing = np.empty(0, np.int64)
    compare_pairs(*read_only(Blobs.of(())), nothing, nothing, np.empty(0, np.uint8))


def _warm_read(read: Callable[..., Any]) -> None:
    read(*read_only(Blobs.of(())), np.empty(0, np.int64), np.empty(0, np.uint8))


def _warm_write(write: Callable[..., Any]) -> None:
    write(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(1, np.int32), np.empty(0, np.uint8))
