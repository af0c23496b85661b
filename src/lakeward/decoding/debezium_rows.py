"""From what change events hold to the rows of a table and what these do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.changes import Changes, Effect
from lakeward.decoding.debezium_envelope import Part
from lakeward.decoding.debezium_events import Sources, events
from lakeward.decoding.debezium_members import NDInt, NDMask, same
from lakeward.records import NULL, Blobs, DecodedPart, RawBatch, Reject

DELETED = ord("d")


@dataclass(frozen=True, slots=True)
class Images:
    """Rows as events tell them. ``index`` int64[rows]: their messages, ascending; ``absent`` as in `Changes`."""

    rows: pa.Table
    index: NDInt
    absent: Mapping[str, NDMask] = field(default_factory=dict)

    def select(self, rows: NDInt) -> Images:
        """Those at ``rows``."""
        absent = {name: mask[rows] for name, mask in self.absent.items()}
        return Images(self.rows.take(pa.array(rows)), self.index[rows], absent)


@dataclass(slots=True)
class Stream:
    """What ``n`` messages are, whatever their format.

    Shapes and types: ``part`` and ``operation`` as in `Envelopes`; ``key`` int32[n], the index in ``names`` of the
    columns that the message's key has; ``known`` the columns that rows have as far as anybody knows.
    """

    part: NDArray[np.uint8]
    operation: NDArray[np.uint8]
    sources: Sources
    images: list[Images]
    key: NDArray[np.int32]
    names: Sequence[tuple[str, ...]]
    known: pa.Schema | None
    rejects: list[Reject]
    keys_of: Callable[[NDInt, tuple[str, ...]], Images]
    """Reads the keys of messages, which have these names; adds to the rejects."""


def settle(raw: RawBatch, stream: Stream, cache_folder: Path | None, *, keyed: bool) -> NDInt:
    """Decide what becomes no row: marks it in ``stream`` and returns all messages that are skipped.

    Deletions without an image are needed where rows have keys; a tombstone that follows its own deletion says nothing
    new.
    """
    part = stream.part
    tombstones = np.flatnonzero(part == Part.TOMBSTONE)
    part[tombstones] = Part.SKIPPED
    if keyed and len(tombstones):
        told = tombstones[~_repeats(raw, tombstones, part, cache_folder) & (raw.keys.length[tombstones] != NULL)]
        part[told] = Part.DELETE
        stream.operation[told] = DELETED
    if stream.known is None and not stream.images and not (part == Part.DELETE).any():
        part[part == Part.TRUNCATE] = Part.SKIPPED  # no column is known, so there is no table
    return np.flatnonzero(part == Part.SKIPPED)


def parts(stream: Stream, *, keyed: bool) -> Iterator[DecodedPart]:
    """The rows, those of one schema and key together; messages that have one by then are no rejects."""
    imaged = np.concatenate([np.empty(0, np.int64), *(images.index for images in stream.images)])
    gone = np.setdiff1d(np.flatnonzero(stream.part == Part.DELETE), imaged)
    used = np.union1d(stream.key[imaged], stream.key[gone])
    truncated = np.flatnonzero(stream.part == Part.TRUNCATE)
    pieces: list[tuple[Images, tuple[str, ...]]] = []
    for which in used.tolist():
        names = tuple(stream.names[which]) if keyed else ()
        found = list(_whole(stream, which, names, single=len(used) == 1))
        deleted = gone[stream.key[gone] == which]
        if len(deleted):
            keys = stream.keys_of(deleted, tuple(stream.names[which])) if which else _nothing(deleted)
            known = found[-1].rows.schema if found else stream.known
            _add(found, _typed(keys, known, stream.rejects), stream.known)
        pieces += [(images, names) for images in found]
    if len(truncated):
        _truncate(pieces, truncated, stream)
    for images, names in pieces:
        if len(images.index):
            yield _part(stream, images, names, keyed=keyed)


def _repeats(raw: RawBatch, tombstones: NDInt, part: NDArray[np.uint8], cache_folder: Path | None) -> NDMask:
    """Whether a tombstone follows a deletion of the same key, with nothing of its partition between them."""
    order = np.lexsort((np.arange(len(part)), raw.partition))
    place = np.empty(len(part), np.int64)
    place[order] = np.arange(len(part))
    before = order[np.maximum(place[tombstones] - 1, 0)]
    follows: NDMask = (place[tombstones] > 0) & (raw.partition[before] == raw.partition[tombstones])
    follows &= part[before] == Part.DELETE
    follows[follows] = same(raw.keys, before[follows], tombstones[follows], cache_folder)
    return follows


def _whole(stream: Stream, which: int, names: tuple[str, ...], *, single: bool) -> Iterator[Images]:
    """The images of messages with this key, key columns that they lack added."""
    for images in stream.images:
        chosen = images if single else images.select(np.flatnonzero(stream.key[images.index] == which))
        lacking = [name for name in names if name not in chosen.rows.column_names]
        if lacking and len(chosen.index):
            keys = stream.keys_of(chosen.index, names)
            if not len(keys.index):
                continue
            chosen = chosen.select(np.flatnonzero(np.isin(chosen.index, keys.index)))
            rows = chosen.rows
            for name in lacking:
                rows = rows.append_column(keys.rows.schema.field(name), keys.rows.column(name))
            chosen = Images(rows, chosen.index, chosen.absent)
        yield chosen


def _typed(keys: Images, known: pa.Schema | None, rejects: list[Reject]) -> Images:
    """``keys`` with the types that the columns are known to have; those that cannot be had are rejects."""
    rows = keys.rows
    for k, column in enumerate(rows.schema):
        wanted = column if known is None or column.name not in known.names else known.field(column.name)
        if wanted.type == column.type:
            continue
        try:
            rows = rows.set_column(k, wanted, rows.column(k).cast(wanted.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            reason = f"field {column.name!r} of the key is {column.type}, and its column {wanted.type}"
            rejects += [Reject(i, "wrong-type", reason) for i in keys.index.tolist()]
            return Images(rows.slice(0, 0).select([]), np.empty(0, np.int64))
    return Images(rows, keys.index)


def _nothing(index: NDInt) -> Images:
    """Rows without a value."""
    return Images(pa.table({}), index)


def _add(found: list[Images], keys: Images, known: pa.Schema | None) -> None:
    """Add rows of which only ``keys`` are known, to the last of ``found`` where there is one."""
    if found:
        found[-1] = _joined(found[-1], keys)
        return
    schema = keys.rows.schema if known is None else known
    found.append(_joined(Images(_empty(schema, keys.rows.schema), np.empty(0, np.int64)), keys))


def _empty(schema: pa.Schema, keys: pa.Schema) -> pa.Table:
    lacking = [one for one in keys if one.name not in schema.names]
    return pa.schema([*schema, *lacking]).empty_table()


def _joined(images: Images, keys: Images) -> Images:
    """Both, in the order of their messages."""
    schema = _empty(images.rows.schema, keys.rows.schema).schema
    tables = [_filled(images.rows, len(images.index), schema), _filled(keys.rows, len(keys.index), schema)]
    index = np.concatenate([images.index, keys.index])
    order = np.argsort(index)
    none = np.zeros(len(keys.index), np.bool_)
    absent = {name: np.concatenate([mask, none])[order] for name, mask in images.absent.items()}
    return Images(pa.concat_tables(tables).take(pa.array(order)).combine_chunks(), index[order], absent)


def _filled(rows: pa.Table, count: int, schema: pa.Schema) -> pa.Table:
    """``rows`` with the columns of ``schema``, null where they lack them."""
    columns = [
        rows.column(one.name).cast(one.type) if one.name in rows.column_names else pa.nulls(count, one.type)
        for one in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _truncate(pieces: list[tuple[Images, tuple[str, ...]]], truncated: NDInt, stream: Stream) -> None:
    """Add the truncations, which have no key and no values."""
    if pieces:
        last = max(range(len(pieces)), key=lambda k: (bool(pieces[k][1]), k))
        images, names = pieces[last]
        pieces[last] = _joined(images, _nothing(truncated)), names
    elif stream.known is not None:
        empty = Images(stream.known.empty_table(), np.empty(0, np.int64))
        names = next((names for names in stream.names if names), ())
        pieces.append((_joined(empty, _nothing(truncated)), names))


def _part(stream: Stream, images: Images, names: tuple[str, ...], *, keyed: bool) -> DecodedPart:
    told = events(stream.operation, stream.sources, images.index)
    if not keyed:
        return DecodedPart(images.rows, images.index, events=told)
    part = stream.part[images.index]
    effect = np.full(len(part), Effect.UPSERT, np.uint8)
    effect[part == Part.DELETE] = Effect.DELETE
    effect[part == Part.TRUNCATE] = Effect.TRUNCATE
    absent = {name: mask for name, mask in images.absent.items() if mask.any()}
    return DecodedPart(images.rows, images.index, changes=Changes(names, effect, absent), events=told)


def joined(several: list[Images]) -> Images:
    """All in the order of their messages."""
    found = _nothing(np.empty(0, np.int64))
    for one in several:
        found = _joined(found, one) if len(found.index) else one
    return found


def with_all(rows: pa.Table, schema: pa.Schema | None) -> pa.Table:
    """``rows`` with all columns of ``schema``: what these rows do not tell must not be taken for null."""
    return rows if schema is None else _filled(rows, rows.num_rows, _empty(rows.schema, schema).schema)


def chosen(values: Blobs, index: NDInt) -> Blobs:
    """Those of ``values`` at ``index``; the same object where that is all of them."""
    return values if len(index) == len(values) else values.select(index)
