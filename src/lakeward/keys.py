"""128-bit hashes of keys, by which rows of one key are told from all others without comparing values.

Two keys are taken for one where their hashes agree. The hash is SipHash-1-3 with 128 bits of output, over words that
tell any two keys apart: among a billion keys the odds that any two agree by chance are about 1 in 10^21.

It is seeded anew in each process, because whoever chooses keys must not be able to choose two with one hash: that
would merge their rows. So a hash means nothing in another process, and is never stored where one could read it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.compiled import compiled, inlined, read_only

Hashes = NDArray[np.uint64]
"""Shape (n, 2): the hash of row i is the 128 bits of its two words."""

_Word: TypeAlias = np.uint64
_Part = Callable[[NDArray[np.uint64], int], None]
"""Takes the values of one column into the states of as many rows, from a row on."""
_U = np.uint64
_BLOCK = 8192
"""Rows whose states are in work at once: they stay in the processor's nearer caches."""
_SEED = np.frombuffer(secrets.token_bytes(16), np.uint64)
_DIGITS = 38
"""As many as two words hold."""
_SHORT = (pa.string(), pa.binary())
_LONG = (pa.large_string(), pa.large_binary())


def hashes(columns: pa.Table) -> Hashes:
    """The hash of each row of ``columns``: uint64[n, 2].

    Equal rows have equal hashes, whatever chunks they lie in, and also where a column's type was widened in between
    (int to long, float to double, more digits for a decimal, 64-bit offsets, dictionaries). -0.0 equals 0.0, every NaN
    equals every other; times and timestamps are equal where they are the same microsecond. Nulls are equal inside
    nested values, and maps of the same entries in whatever order; ``columns`` themselves hold none.

    Raises:
        ValueError: there are no columns, a value is null, a time is no whole microsecond, or a type has no equality.
    """
    if not columns.num_columns:
        raise ValueError("a key has at least one column")
    for name in columns.column_names:
        if columns.column(name).null_count:
            raise ValueError(f'column "{name}" of a key holds {columns.column(name).null_count} nulls')
    out = np.empty((columns.num_rows, 2), np.uint64)
    at = 0
    for batch in columns.to_batches():
        _hash([_part(column) for column in batch.columns], out[at : at + batch.num_rows])
        at += batch.num_rows
    return out


def _hash(parts: Sequence[_Part], out: Hashes) -> None:
    """Hash as many rows as ``out`` has."""
    state = np.empty((min(_BLOCK, len(out)), 4), np.uint64)
    for start in range(0, len(out), _BLOCK):
        rows = min(_BLOCK, len(out) - start)
        _begin(state[:rows], _SEED)
        for part in parts:
            part(state[:rows], start)
        _finish(state[:rows], out[start : start + rows])


def _part(array: pa.Array) -> _Part:
    """What of ``array`` goes into the hashes; under a null that is anything."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _part(array.dictionary_decode())
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return _part(array.cast(pa.large_binary()))
    if pa.types.is_fixed_size_binary(kind):
        places = np.arange(array.offset, array.offset + len(array) + 1, dtype=np.int64)
        return _spans(_buffer(array, 1, np.uint8), places * kind.byte_width)
    if kind in _SHORT or kind in _LONG:
        offsets = _buffer(array, 1, np.int32 if kind in _SHORT else np.int64)
        bounds = offsets[array.offset : array.offset + len(array) + 1] if len(array) else np.zeros(1, np.int64)
        return _spans(_buffer(array, 2, np.uint8), bounds.astype(np.int64, copy=False))
    return _words(_fixed(array))


def _fixed(array: pa.Array) -> NDArray[np.uint64]:
    """Values of the same number of words each."""
    if pa.types.is_nested(array.type):
        return _nested(array)
    if pa.types.is_decimal(array.type):
        return _decimals(array)
    words: NDArray[np.uint64] = _numbers(array).view(np.uint64).reshape(-1, 1)
    return words


def _words(values: NDArray[np.uint64]) -> _Part:
    """Values of the same number of words each: shape (n, words)."""
    values = read_only(values)
    return lambda state, start: _take_words(state, values[start : start + len(state)])


def _spans(data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> _Part:
    """Values that are the bytes between two neighbours of ``bounds``."""
    data, bounds = read_only(data), read_only(bounds)
    return lambda state, start: _take_bytes(state, data, bounds[start : start + len(state) + 1])


def _numbers(array: pa.Array) -> NDArray[Any]:
    """Values of one word each, in the widest type of their kind."""
    kind = array.type
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.int64)
    if pa.types.is_floating(kind):
        floats: NDArray[np.float64] = _filled(array, 0.0).to_numpy(zero_copy_only=False).astype(np.float64) + 0.0
        floats[np.isnan(floats)] = np.nan  # and -0.0 + 0.0 is 0.0
        return floats
    if pa.types.is_boolean(kind):
        bits: NDArray[np.int64] = _filled(array, False).to_numpy(zero_copy_only=False).astype(np.int64)
        return bits
    integers = _microseconds(array)
    if not pa.types.is_integer(integers.type):
        raise ValueError(f"a key cannot have values of type {kind}")
    values: NDArray[Any] = _filled(integers, 0).to_numpy()
    wide: NDArray[Any] = values if values.dtype.itemsize == 8 else values.astype(np.int64)
    return wide


def _microseconds(array: pa.Array) -> pa.Array:
    """Times as integers, days for dates; what is no time stays."""
    kind = array.type
    unit: pa.DataType | None = None
    if pa.types.is_date64(kind):
        unit = pa.date32()
    elif pa.types.is_time(kind):
        unit = pa.time64("us")
    elif pa.types.is_timestamp(kind):
        unit = pa.timestamp("us", kind.tz)
    elif pa.types.is_duration(kind):
        unit = pa.duration("us")
    try:
        array = array if unit is None else array.cast(unit)
    except pa.ArrowInvalid:  # its text holds the value, which must not get into an error
        raise ValueError(f"a key of type {kind} holds a time that is no whole microsecond") from None
    if pa.types.is_date32(array.type):
        return array.view(pa.int32())
    return array if unit is None else array.view(pa.int64())


def _decimals(array: pa.Array) -> NDArray[np.uint64]:
    """Values of two words each, or four where the type has more digits than two words hold."""
    if array.type.precision <= _DIGITS:
        array = array.cast(pa.decimal128(_DIGITS, array.type.scale))
    words = array.type.bit_width // 64
    values = _buffer(array, 1, np.uint64)[array.offset * words : (array.offset + len(array)) * words]
    pairs: NDArray[np.uint64] = values.reshape(-1, words)
    return pairs


def _nested(array: pa.Array) -> Hashes:
    """Values of two words each: the hashes of what they hold."""
    out = np.empty((len(array), 2), np.uint64)
    if pa.types.is_struct(array.type):
        _hash([_words(_alone(field)) for field in array.flatten()], out)
    elif pa.types.is_map(array.type):
        entries = np.empty((len(array.keys), 2), np.uint64)
        _hash([_words(_alone(array.keys)), _words(_alone(array.items))], entries)
        sums = np.empty((len(array), 3), np.uint64)
        _add_up(read_only(entries), read_only(array.offsets.to_numpy().astype(np.int64)), sums)
        _hash([_words(sums)], out)
    else:
        lists = array.cast(pa.large_list(array.type.value_type))
        _in_order(read_only(_alone(lists.values)), read_only(lists.offsets.to_numpy()), _SEED, out)
    return out


def _alone(array: pa.Array) -> Hashes:
    """The hash of each value of a column inside another; zero for null."""
    out = np.empty((len(array), 2), np.uint64)
    _hash([_part(array)], out)
    if array.null_count:
        out[array.is_null().to_numpy(zero_copy_only=False)] = 0
    return out


def _filled(array: pa.Array, value: object) -> pa.Array:
    return array.fill_null(value) if array.null_count else array


def _buffer(array: pa.Array, which: int, kind: type[Any]) -> NDArray[Any]:
    """All of one of the array's buffers, from its beginning, wherever the array itself begins."""
    buffer = array.buffers()[which]
    return np.frombuffer(buffer, kind) if buffer is not None and buffer.size else np.zeros(0, kind)


@inlined
def _round(a: _Word, b: _Word, c: _Word, d: _Word) -> tuple[_Word, _Word, _Word, _Word]:
    """SipRound."""
    a += b
    b = (b << _U(13)) | (b >> _U(51))
    b ^= a
    a = (a << _U(32)) | (a >> _U(32))
    c += d
    d = (d << _U(16)) | (d >> _U(48))
    d ^= c
    a += d
    d = (d << _U(21)) | (d >> _U(43))
    d ^= a
    c += b
    b = (b << _U(17)) | (b >> _U(47))
    b ^= c
    c = (c << _U(32)) | (c >> _U(32))
    return a, b, c, d


@inlined
def _take(a: _Word, b: _Word, c: _Word, d: _Word, word: _Word) -> tuple[_Word, _Word, _Word, _Word]:
    """One word more."""
    a, b, c, d = _round(a, b, c, d ^ word)
    return a ^ word, b, c, d


@inlined
def _start(seed: NDArray[np.uint64]) -> tuple[_Word, _Word, _Word, _Word]:
    low, high = seed[0], seed[1]
    return (
        low ^ _U(0x736F6D6570736575),
        high ^ _U(0x646F72616E646F6D) ^ _U(0xEE),
        low ^ _U(0x6C7967656E657261),
        high ^ _U(0x7465646279746573),
    )


@inlined
def _end(a: _Word, b: _Word, c: _Word, d: _Word) -> tuple[_Word, _Word]:
    c ^= _U(0xEE)
    for _ in range(3):
        a, b, c, d = _round(a, b, c, d)
    first = a ^ b ^ c ^ d
    b ^= _U(0xDD)
    for _ in range(3):
        a, b, c, d = _round(a, b, c, d)
    return first, a ^ b ^ c ^ d


@compiled
def _begin(state: NDArray[np.uint64], seed: NDArray[np.uint64]) -> None:
    a, b, c, d = _start(seed)
    for i in range(_U(len(state))):
        state[i, 0], state[i, 1], state[i, 2], state[i, 3] = a, b, c, d


@compiled
def _take_words(state: NDArray[np.uint64], words: NDArray[np.uint64]) -> None:
    for i in range(_U(len(state))):
        a, b, c, d = state[i, 0], state[i, 1], state[i, 2], state[i, 3]
        for k in range(_U(words.shape[1])):
            a, b, c, d = _take(a, b, c, d, words[i, k])
        state[i, 0], state[i, 1], state[i, 2], state[i, 3] = a, b, c, d


@compiled
def _take_bytes(state: NDArray[np.uint64], data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> None:
    """The length first, so that the values of two columns cannot run into each other."""
    for i in range(_U(len(state))):
        p, end = _U(bounds[i]), _U(bounds[i + _U(1)])
        a, b, c, d = state[i, 0], state[i, 1], state[i, 2], state[i, 3]
        a, b, c, d = _take(a, b, c, d, end - p)
        while end - p >= _U(8):
            word = _U(0)
            for k in range(8):  # LLVM makes it one load
                word |= _U(data[p + _U(k)]) << _U(8 * k)
            a, b, c, d = _take(a, b, c, d, word)
            p += _U(8)
        if p < end:
            word, shift = _U(0), _U(0)
            while p < end:
                word |= _U(data[p]) << shift
                shift += _U(8)
                p += _U(1)
            a, b, c, d = _take(a, b, c, d, word)
        state[i, 0], state[i, 1], state[i, 2], state[i, 3] = a, b, c, d


@compiled
def _finish(state: NDArray[np.uint64], out: Hashes) -> None:
    for i in range(_U(len(state))):
        out[i, 0], out[i, 1] = _end(state[i, 0], state[i, 1], state[i, 2], state[i, 3])


@compiled
def _in_order(entries: Hashes, bounds: NDArray[np.int64], seed: NDArray[np.uint64], out: Hashes) -> None:
    """Lists: how many elements, and their hashes one after the other."""
    for i in range(_U(len(out))):
        first, end = _U(bounds[i]), _U(bounds[i + _U(1)])
        a, b, c, d = _start(seed)
        a, b, c, d = _take(a, b, c, d, end - first)
        for k in range(first, end):
            a, b, c, d = _take(a, b, c, d, entries[k, 0])
            a, b, c, d = _take(a, b, c, d, entries[k, 1])
        out[i, 0], out[i, 1] = _end(a, b, c, d)


@compiled
def _add_up(entries: Hashes, bounds: NDArray[np.int64], sums: NDArray[np.uint64]) -> None:
    """Maps: how many entries, and the sum of their hashes, which no order changes."""
    for i in range(_U(len(sums))):
        first, end = _U(bounds[i]), _U(bounds[i + _U(1)])
        sums[i, 0], sums[i, 1], sums[i, 2] = end - first, _U(0), _U(0)
        for k in range(first, end):
            sums[i, 1] += entries[k, 0]
            sums[i, 2] += entries[k, 1]
