"""What the compiled reader is told about the fields, and from the buffers that it fills to Arrow arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.decoding.json_fields import arrow_type
from lakeward.decoding.json_kernel import Columns, Plan
from lakeward.decoding.json_types import Field, Kind
from lakeward.decoding.text import SLACK

WORD = 8
WIDTH: dict[Kind, tuple[str, int]] = {
    Kind.STRING: ("ends", 1),
    Kind.TEXT: ("ends", 1),
    Kind.UUID: ("ends", 1),
    Kind.BINARY: ("ends", 1),
    Kind.JSON: ("ends", 1),
    Kind.INT: ("narrow", 1),
    Kind.DATE: ("narrow", 1),
    Kind.LONG: ("wide", 1),
    Kind.TIME: ("wide", 1),
    Kind.TIMESTAMP: ("wide", 1),
    Kind.TIMESTAMPTZ: ("wide", 1),
    Kind.DECIMAL: ("wide", 2),
    Kind.DOUBLE: ("double", 1),
    Kind.FLOAT: ("single", 1),
    Kind.BOOLEAN: ("flag", 1),
    Kind.NULL: ("flag", 1),
}
"""By kind: the buffer that its values go to, and how many elements a row takes."""
ESCAPED_IN_KEYS = re.compile(r'[\x00-\x1f"\\]')


def plan(fields: Sequence[Field]) -> Plan:
    """Prepare ``fields``, none of them nested, for the reader. It expects their order until it has seen another."""
    tokens = [b"" if ESCAPED_IN_KEYS.search(field.name) else f'"{field.name}":'.encode() for field in fields]
    padded = [token + bytes(-len(token) % WORD) for token in tokens]
    words = np.frombuffer(b"".join(padded), "<u8").astype(np.uint64)
    last = [(len(token) - 1) % WORD + 1 for token in tokens]
    limits = [divmod(10**field.type.precision, 2**64) for field in fields]
    return Plan(
        kind=np.array([field.type.kind for field in fields], np.int64),
        words=words,
        word_start=np.cumsum([0, *(len(token) // WORD for token in padded)]).astype(np.uint64),
        word_mask=np.array([2 ** (8 * size) - 1 for size in last], np.uint64),
        token_size=np.array([len(token) for token in tokens], np.uint64),
        scale=np.array([field.type.scale for field in fields], np.int64),
        limit=np.array(limits, np.uint64).reshape(-1),
        follows=((np.arange(len(fields) + 1) + 1) % (len(fields) + 1) % max(len(fields), 1)).astype(np.uint64),
    )


def slack(plan: Plan) -> int:
    """How many bytes behind a record the reader may look at."""
    return SLACK + WORD * int(np.diff(plan.word_start).max(initial=0))


def allocate(fields: Sequence[Field], records: int, size: int, text: NDArray[np.uint8] | None = None) -> Columns:
    """Room for what ``records`` records of ``size`` bytes together can hold.

    ``text`` is used for their strings where it is large enough: each may hold almost all of its record, so there must
    be room for several times their bytes, most of which stays unwritten.
    """
    sizes = dict.fromkeys(("wide", "narrow", "double", "single", "flag", "ends"), 0)
    base, text_base, needed = [], [], 0
    for field in fields:
        buffer, elements = WIDTH[field.type.kind]
        base.append(sizes[buffer])
        text_base.append(needed)
        sizes[buffer] += elements * records
        if buffer == "ends":
            sizes[buffer] += 1
            needed += size + SLACK
    ends = np.empty(sizes["ends"], np.int32)
    for field, start in zip(fields, base, strict=True):
        if WIDTH[field.type.kind][0] == "ends":
            ends[start] = 0
    return Columns(
        wide=np.empty(sizes["wide"], np.int64),
        narrow=np.empty(sizes["narrow"], np.int32),
        double=np.empty(sizes["double"], np.float64),
        single=np.empty(sizes["single"], np.float32),
        flag=np.empty(sizes["flag"], np.uint8),
        ends=ends,
        text=text if text is not None and len(text) >= needed else np.empty(needed, np.uint8),
        base=np.array(base, np.int64),
        text_base=np.array(text_base, np.uint64),
        valid=np.empty(len(fields) * records, np.uint8),
        mark=np.zeros(len(fields), np.int64),
        origin=np.empty(records, np.int64),
        unusual=np.empty(records, np.int64),
        counts=np.array([0, 0, records], np.int64),
    )


def arrays(fields: Sequence[Field], out: Columns) -> list[pa.Array]:
    """One array a column, from what the reader wrote; its room for text is free again."""
    return [_array(field, g, out) for g, field in enumerate(fields) if field.type.kind is not Kind.NULL]


def _array(field: Field, g: int, out: Columns) -> pa.Array:
    rows, room = int(out.counts[0]), int(out.counts[2])
    valid = out.valid[g * room : g * room + rows]
    buffer, elements = WIDTH[field.type.kind]
    base = int(out.base[g])
    values: NDArray[Any] = getattr(out, buffer)[base : base + elements * rows]
    if buffer == "ends":
        ends = out.ends[base : base + rows + 1]
        start = int(out.text_base[g])
        text = out.text[start : start + int(ends[rows])].copy()  # or all the room for text would live as long as it
        parts = [pa.py_buffer(ends), pa.py_buffer(text)]
    elif buffer == "flag":
        parts = [_bits(values)]
    else:
        parts = [pa.py_buffer(values)]
    return pa.Array.from_buffers(arrow_type(field.type), rows, [None if valid.all() else _bits(valid), *parts])


def _bits(flags: NDArray[np.uint8]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))
