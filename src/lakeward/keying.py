"""What a table's mode makes of decoded rows: changes of their keys, or rows that are all added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.changes import Changes, Effect
from lakeward.layout import DELETED
from lakeward.records import Decoded, DecodedPart, Reject

NO_KEY = "no-key"
NULL_KEY = "null-key"
TRUNCATED = "truncate-marked"
TRUNCATED_REASON = "the source's table was truncated, and `on_delete: mark` cannot mark rows that no event names"
UNORDERED = "truncate-unordered"
UNORDERED_REASON = (
    "the source's table was truncated, and in a topic of several partitions nothing tells which changes came before it"
)


@dataclass(frozen=True, slots=True)
class Upserting:
    """How changes reach a table. ``key``: the columns that identify rows, by the table's names; none: the event's own.

    ``marks``: a deleted row stays, and its column `DELETED` turns true.
    """

    key: tuple[str, ...] = ()
    marks: bool = False


def appended(decoded: Decoded) -> Decoded:
    """Every row is added, whatever its event did to its key."""
    return replace(decoded, parts=[replace(part, changes=None) for part in decoded.parts])


def upserted(decoded: Decoded, how: Upserting, partitions: int = 1) -> Decoded:
    """Every row changes the row of its key; those without one become rejects (codes `NO_KEY`, `NULL_KEY`).

    The changes know their order: parts take turns in the stream. ``partitions``: so many has the topic; with more than
    one, nothing tells which of the others' changes came before a truncation, and it is a reject (`UNORDERED`).
    """
    rejects = list(decoded.rejects)
    parts: list[DecodedPart] = []
    for part in decoded.parts:
        changes = part.changes or Changes.upserts(how.key, len(part.index))
        changes = replace(changes, key=how.key or changes.key, order=part.index)
        changed = replace(part, changes=changes)
        if partitions > 1:
            changed = _without_truncations(changed, UNORDERED, UNORDERED_REASON, rejects)
        if how.marks:
            changed = _marked(_without_truncations(changed, TRUNCATED, TRUNCATED_REASON, rejects))
        kept = _with_keys(changed, rejects)
        if len(kept.index):
            parts.append(replace(kept, rows=_optional(kept.rows)))
    return replace(decoded, parts=parts, rejects=sorted(rejects, key=lambda reject: reject.index))


def _optional(rows: pa.Table) -> pa.Table:
    """``rows`` with columns that may all be null: a deletion tells no more than the key, and columns get dropped."""
    return pa.Table.from_arrays(rows.columns, schema=pa.schema([field.with_nullable(True) for field in rows.schema]))


def _without_truncations(part: DecodedPart, code: str, reason: str, rejects: list[Reject]) -> DecodedPart:
    changes = part.changes
    if changes is None or not (truncates := changes.effect == Effect.TRUNCATE).any():
        return part
    rejects += [Reject(int(index), code, reason, part.schema_id) for index in part.index[truncates]]
    return part.select(np.flatnonzero(~truncates))


def _marked(part: DecodedPart) -> DecodedPart:
    """Deletions as changes that leave every value but the mark as it was."""
    changes = part.changes
    if changes is None:
        return part
    gone = changes.effect == Effect.DELETE
    effect = np.where(gone, np.uint8(Effect.MARK), changes.effect).astype(np.uint8)
    absent = dict(changes.absent)
    if gone.any():
        for name in part.rows.column_names:
            if name not in changes.key:
                absent[name] = absent[name] | gone if name in absent else gone
    rows = part.rows.append_column(pa.field(DELETED, pa.bool_()), pa.array(gone))
    return replace(part, rows=rows, changes=replace(changes, effect=effect, absent=absent))


def _with_keys(part: DecodedPart, rejects: list[Reject]) -> DecodedPart:
    changes = part.changes
    if changes is None:
        return part
    needed = changes.effect != Effect.TRUNCATE
    refused = np.zeros(len(part.index), np.bool_)
    for code, reason, mask in _mistakes(part, changes):
        bad = mask & needed & ~refused
        rejects += [Reject(int(index), code, reason, part.schema_id) for index in part.index[bad]]
        refused |= bad
    return part.select(np.flatnonzero(~refused)) if refused.any() else part


def _mistakes(part: DecodedPart, changes: Changes) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    every = np.ones(len(part.index), np.bool_)
    if not changes.key:
        yield NO_KEY, "the record has no key", every
    for name in changes.key:
        if name not in part.rows.column_names:
            yield NO_KEY, f'the record has no column "{name}", which is part of the key', every
        else:
            yield NULL_KEY, f'"{name}" is part of the key, and it is null', _null(part.rows.column(name))


def _null(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    if not column.null_count:
        return np.zeros(len(column), np.bool_)
    mask: NDArray[np.bool_] = column.is_null().to_numpy()
    return mask
