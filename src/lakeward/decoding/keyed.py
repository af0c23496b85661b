"""Plain records of a keyed topic: the last value of a key is its row, and a tombstone deletes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.changes import Changes, Effect
from lakeward.decoding.keys import KeyRules, types_of
from lakeward.records import NULL, Decoded, DecodedPart, RawBatch, Reject
from lakeward.stages import Decoder

UNREADABLE = "tombstone-without-key"
DIFFERENT = "key-differs"
MISTYPED = "key-type"


class KeyedDecoder:
    """Makes whole rows of values and deletions of tombstones; a `Decoder`.

    Where message keys are read, a value that has other key columns than its message's key is a reject (`DIFFERENT`):
    the tombstone of that key would delete another row, or none. A message without a key is taken by its value alone.
    """

    def __init__(self, decoder: Decoder, rules: KeyRules) -> None:
        self._decoder = decoder
        self._rules = rules
        self._last: pa.Schema | None = None

    def decode(self, raw: RawBatch) -> Decoded:
        """See `Decoder.decode`."""
        decoded = self._decoder.decode(raw)
        if decoded.parts:
            self._last = decoded.parts[-1].rows.schema
        rejects = list(decoded.rejects)
        parts = [replace(part, changes=Changes.upserts(self._rules.columns, len(part.index))) for part in decoded.parts]
        if self._rules.reader is None:
            rejects += [
                Reject(int(i), UNREADABLE, "it deletes a row, and nothing says how its key is read: write decode_key")
                for i in decoded.skipped
            ]
            return replace(decoded, parts=parts, rejects=_ordered(rejects), skipped=decoded.skipped[:0])
        keys = _typed(self._rules.reader.decode(raw), types_of(self._rules.columns, [self._last, self._rules.seen()]))
        settled = {reject.index for reject in rejects}
        rejects += [reject for reject in keys.rejects if reject.index not in settled]
        refused = np.zeros(len(raw), np.bool_)
        refused[[reject.index for reject in keys.rejects]] = True
        parts = [kept for part in parts if len((kept := self._agreeing(part, refused, keys, rejects)).index)]
        parts += self._deletions(raw, keys, rejects)
        return Decoded(parts, _ordered(rejects), decoded.skipped[:0])

    def schema(self, topic: str) -> pa.Schema | None:
        """See `Decoder.schema`."""
        return self._decoder.schema(topic)

    def _agreeing(self, part: DecodedPart, refused: np.ndarray, keys: Decoded, rejects: list[Reject]) -> DecodedPart:
        """The rows of ``part`` whose key columns are what their messages' keys say."""
        fits = ~refused[part.index]
        for told in keys.parts:
            common, mine, theirs = np.intersect1d(part.index, told.index, assume_unique=True, return_indices=True)
            for name in self._rules.columns:
                if not len(common) or name not in part.rows.column_names or name not in told.rows.column_names:
                    continue
                here, there = part.rows.column(name).take(pa.array(mine)), told.rows.column(name).take(pa.array(theirs))
                if here.type != there.type:
                    continue
                same = pc.fill_null(pc.equal(here, there), fill_value=False).to_numpy()
                differing = mine[~same & fits[mine]]
                rejects += [
                    Reject(int(i), DIFFERENT, f'the message\'s key is not the value of "{name}"', part.schema_id)
                    for i in part.index[differing]
                ]
                fits[differing] = False
        return part if fits.all() else part.select(np.flatnonzero(fits))

    def _deletions(self, raw: RawBatch, keys: Decoded, rejects: list[Reject]) -> list[DecodedPart]:
        gone = raw.values.length == NULL
        rejects += [Reject(int(i), UNREADABLE, "it deletes a row, and has no key") for i in keys.skipped if gone[i]]
        parts = []
        for told in keys.parts:
            chosen = np.flatnonzero(gone[told.index])
            if len(chosen):
                effect = np.full(len(chosen), Effect.DELETE, np.uint8)
                parts.append(replace(told.select(chosen), changes=Changes(self._rules.columns, effect)))
        return parts


def _typed(keys: Decoded, types: dict[str, pa.DataType]) -> Decoded:
    """``keys`` in the types of the rows; those that have no such value become rejects (`MISTYPED`)."""
    parts, rejects = [], list(keys.rejects)
    for part in keys.parts:
        typed = part
        for name, kind in types.items():
            if name in typed.rows.column_names and typed.rows.column(name).type != kind:
                typed = _cast(typed, name, kind, rejects)
        if len(typed.index):
            parts.append(typed)
    return Decoded(parts, rejects, keys.skipped)


def _cast(part: DecodedPart, name: str, kind: pa.DataType, rejects: list[Reject]) -> DecodedPart:
    at = part.rows.column_names.index(name)
    try:
        return replace(part, rows=part.rows.set_column(at, name, part.rows.column(name).cast(kind)))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        fits = np.array([_fits(value, kind) for value in part.rows.column(name)], np.bool_)
    reason = f'the key is no value of "{name}", which is {kind}'
    rejects += [Reject(int(i), MISTYPED, reason, part.schema_id) for i in part.index[~fits]]
    kept = part.select(np.flatnonzero(fits))
    return replace(kept, rows=kept.rows.set_column(at, name, kept.rows.column(name).cast(kind)))


def _fits(value: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        value.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _ordered(rejects: list[Reject]) -> list[Reject]:
    return sorted(rejects, key=lambda reject: reject.index)
