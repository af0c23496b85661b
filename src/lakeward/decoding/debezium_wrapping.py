"""Messages that carry their schemas, `{"schema": ..., "payload": ...}`, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakeward.decoding import json_reference
from lakeward.decoding.debezium_members import Finder, Members, NDInt
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.records import NULL, Blobs, Reject

OBJECT, NOTHING = ord("{"), ord("n")
WRAPPING = ("schema", "payload")
"""The names that a `Finder` for `unwrap` looks for first."""


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """Messages without the schemas that they carry.

    Shapes and types: ``payload`` and ``schema`` Blobs of n, null where there is none; ``members`` of the payloads;
    ``group`` int32[n], which of the distinct schemas is a message's, -1: none.
    """

    payload: Blobs
    members: Members
    group: NDArray[np.int32]
    schema: Blobs


def unwrap(values: Blobs, finder: Finder, rejects: list[Reject]) -> Unwrapped:
    """Take the payloads out of ``values`` and look for the finder's names in them; adds to ``rejects``."""
    values, found = _found(values, finder, rejects)
    schemas, payloads = found.get("schema"), found.get("payload")
    wrapped = (found.count == 2) & np.isin(found.first("schema"), [OBJECT, NOTHING])
    wrapped &= np.isin(found.first("payload"), [OBJECT, NOTHING])
    if not wrapped.any():
        nothing = np.full(len(values), NULL, np.int32)
        return Unwrapped(values, found, nothing, Blobs(values.data, schemas.start, nothing))
    empty = wrapped & (found.first("payload") == NOTHING)
    length = np.where(empty, NULL, np.where(wrapped, payloads.length, values.length)).astype(np.int32)
    inner = Blobs(values.data, np.where(wrapped, payloads.start, values.start), length)
    described = wrapped & (found.first("schema") == OBJECT)
    group = np.where(described, found.group, -1).astype(np.int32)
    schema = Blobs(values.data, schemas.start, np.where(described, schemas.length, NULL).astype(np.int32))
    inner, members = _found(inner, finder, rejects)
    return Unwrapped(inner, members, group, schema)


def _found(values: Blobs, finder: Finder, rejects: list[Reject]) -> tuple[Blobs, Members]:
    """The members of ``values``, and ``values`` written so that they can be found."""
    found = finder.find(values)
    odd = np.flatnonzero((found.count < 0) & (values.length != NULL))
    if not len(odd):
        return values, found
    values = _plainly(values, odd, rejects)
    return values, finder.find(values)


def _plainly(values: Blobs, odd: NDInt, rejects: list[Reject]) -> Blobs:
    """``values`` with those at ``odd`` written without escapes in names; what is no JSON object becomes a reject."""
    start, length = values.start.copy(), values.length.copy()
    written: list[bytes] = []
    place = len(values.data)
    for i, text in _rewritten(values, odd, rejects):
        start[i], length[i] = place, len(text)
        written.append(text)
        place += len(text)
    length[[reject.index for reject in rejects]] = NULL
    data = np.concatenate([values.data, np.frombuffer(b"".join(written), np.uint8)])
    return Blobs(data, start, length)


def _rewritten(values: Blobs, odd: NDInt, rejects: list[Reject]) -> Iterator[tuple[int, bytes]]:
    for i in odd.tolist():
        try:
            yield i, json_reference.compact(json_reference.parse(values.get(i) or b"")).encode()
        except NotDecodableError as error:
            rejects.append(Reject(i, error.code, error.reason))
