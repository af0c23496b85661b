"""From the buffers that a program has filled to Arrow arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding.avro_native import MAX_SIZELESS_ITEMS, WORD_SLACK
from lakeward.decoding.avro_program import Column, Extent, Program, Slot
from lakeward.decoding.avro_types import Array, Decimal, Duration, Enum, Fixed, FixedUuid, Map, OneOf, Record, Scalar

Buffers = Sequence[NDArray[Any]]


def allocate(program: Program, messages: int, size: int) -> list[NDArray[Any]]:
    """The buffers for ``messages`` messages of ``size`` bytes together: as large as these bytes can make them.

    Memory that stays unwritten is address space only.
    """
    rows = program.smallest[0]
    # One more than there can be rows: a message that fails has begun to write its own.
    items = [min(messages, size // rows + 1) if rows else messages]
    items += [size // least if least else messages * int(MAX_SIZELESS_ITEMS) for least in program.smallest[1:]]
    return [_buffer(slot, items[slot.scope], size) for slot in program.slots]


def growth(program: Program) -> int:
    """How many bytes of buffers one byte of messages can need: a null of one byte stands for a whole value."""
    needed = 1.0
    for slot in program.slots:
        least = program.smallest[slot.scope]
        if slot.extent is not Extent.BYTES and least:
            needed += np.dtype(slot.dtype).itemsize * slot.width / least
        else:
            needed += 1
    return int(needed)


def arrays(program: Program, schema: pa.Schema, buffers: Buffers, counts: NDArray[np.int64]) -> list[pa.Array]:
    """One array a column of ``schema``, from what the program wrote; ``counts`` as it left them."""
    filled = _Filled(buffers, counts)
    return [filled.array(column, field.type) for column, field in zip(program.columns, schema, strict=True)]


def _buffer(slot: Slot, items: int, size: int) -> NDArray[Any]:
    match slot.extent:
        case Extent.BYTES:
            return np.empty(size + WORD_SLACK, slot.dtype)
        case Extent.OFFSETS:
            buffer = np.empty(items + 1, slot.dtype)
            buffer[0] = 0
            return buffer
        case Extent.ITEMS:
            return np.empty(items * slot.width, slot.dtype)


@dataclass(frozen=True, slots=True)
class _Filled:
    """What a program has written."""

    buffers: Buffers
    counts: NDArray[np.int64]

    def array(self, column: Column, kind: pa.DataType) -> pa.Array:  # noqa: C901, PLR0911 - one case a type
        """The values of ``column`` as an array of ``kind``."""
        count = int(self.counts[column.scope])
        valid = None if column.valid is None else _bits(self.buffers[column.valid][:count])
        slots = [self.buffers[slot] for slot in column.slots]
        match column.node:
            case Scalar("null"):
                return pa.nulls(count, kind)
            case Scalar("boolean") | Record(()):
                parts = [_bits(slots[0][:count])]
            case Scalar("string" | "bytes" | "uuid") | FixedUuid():
                parts = [_buffer_of(slots[0][: count + 1]), _buffer_of(slots[1][: int(slots[0][count])])]
            case Enum(symbols):
                index = pa.Array.from_buffers(pa.int32(), count, [valid, _buffer_of(slots[0][:count])])
                return pa.array(symbols, kind).take(index)
            case Decimal():
                parts = [_buffer_of(slots[0][: count * 2])]
            case Fixed(size):
                parts = [_buffer_of(slots[0][: count * size])]
            case Array():
                items = self.array(column.children[0], kind.value_type)
                return pa.Array.from_buffers(kind, count, [valid, _buffer_of(slots[0][: count + 1])], children=[items])
            case Map():
                pairs = [
                    self.array(one, of)
                    for one, of in zip(column.children, (kind.key_type, kind.item_type), strict=True)
                ]
                entries = pa.StructArray.from_arrays(pairs, fields=[kind.key_field, kind.item_field])
                return pa.Array.from_buffers(
                    kind, count, [valid, _buffer_of(slots[0][: count + 1])], children=[entries]
                )
            case Duration():
                numbers = [pa.Array.from_buffers(pa.int64(), count, [None, _buffer_of(slot[:count])]) for slot in slots]
                return pa.Array.from_buffers(kind, count, [valid], children=numbers)
            case Record() | OneOf():
                members = [self.array(child, kind.field(k).type) for k, child in enumerate(column.children)]
                return pa.Array.from_buffers(kind, count, [valid], children=members)
            case _:
                parts = [_buffer_of(slots[0][:count])]
        return pa.Array.from_buffers(kind, count, [valid, *parts])


def _bits(flags: NDArray[np.uint8]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _buffer_of(values: NDArray[Any]) -> pa.Buffer:
    """``values`` as an Arrow buffer, copied where most of the allocation behind them would stay alive for nothing."""
    whole = values if values.base is None else values.base
    return pa.py_buffer(values if 2 * values.nbytes >= whole.nbytes else values.copy())
