"""Random declarations, records that fit them, and damage, by seed: for comparing the decoder with Python's json."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.decoding import json_reference
from lakeward.decoding.json import JsonDecoder
from lakeward.decoding.json_fields import arrow_schema, declared
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.records import Blobs, RawBatch

SCALARS = (
    *("string", "int", "long", "float", "double", "boolean", "date", "time", "timestamp", "timestamptz", "uuid"),
    *("binary", "json", "decimal(18,6)", "decimal(38,0)", "decimal(5,5)"),
)
ALPHABET = 'abc "\\/\n\té€😀\0z0{}[],:'
POISON = (
    *(b"", b" \n", b"{", b"[]", b"null", b'{"a":1}{"a":1}', b"\xef\xbb\xbf{}", b'{"a":NaN}', b'{"a":-Infinity}'),
    *(b"{" * 70, b'{"a":' * 70 + b"1" + b"}" * 70, b"[" * 100_000, b'{"a":1,"a":1}', b'{"a":01}', b'{"a":"\\ud800"}'),
    *(b'{"a":"\xff"}', b'{"a":"\x01"}', b'{"a":1} x', b'{"a":' + b"9" * 5_000 + b"}", b'{"a":1e999999999999}', b"\0"),
    *(
        b"\0\0\0\0\1",
        b"\0\0\0\0\1{}",
        b"\0\0\0\0\1\0\0\0\0\1{}",
        b'{"a":1.' + b"0" * 5_000 + b"1}",
        b"{'a':1}",
        b"{a:1}",
    ),
)
"""Messages as they should not be."""


def declaration(rng: random.Random) -> dict[str, str]:
    """One to twelve fields; about one declaration in two is flat."""
    nested = rng.random() < 0.5
    names = rng.sample(
        ["a", "b", "ab", "id", "é", "", 'q"x', "exchange_timestamp", "x y", *(f"f{k}" for k in range(9))], 12
    )
    return {name: _type(rng, 3 if nested else 0) for name in names[: rng.randint(1, 12)]}


def _type(rng: random.Random, depth: int) -> str:
    match rng.randrange(8) if depth else 7:
        case 0:
            return f"list<{_type(rng, depth - 1)}>"
        case 1:
            return f"map<string,{_type(rng, depth - 1)}>"
        case 2:
            return f"struct<a:{_type(rng, depth - 1)},b c:{_type(rng, depth - 1)}>"
        case _:
            return rng.choice(SCALARS)


def record(rng: random.Random, schema: pa.Schema, types: dict[str, str]) -> bytes:
    """The text of one record; most of its values fit."""
    names = [name for name in types if rng.random() < 0.9]
    if rng.random() < 0.3:
        rng.shuffle(names)
    members = (f"{_text(rng, name)}{_blank(rng)}:{_value(rng, types[name], schema.field(name).type)}" for name in names)
    text = _blank(rng) + "{" + _blank(rng) + ",".join(members) + "}" + _blank(rng)
    header = b"\0\0\0\0\7" if rng.random() < 0.05 else b""
    return header + text.encode("utf-8", "surrogatepass")


def damaged(rng: random.Random, payload: bytes) -> bytes:
    """The record after some mutations, or something else altogether."""
    if rng.random() < 0.2:
        return rng.choice(POISON)
    body = bytearray(payload)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(body))
        match rng.randrange(6):
            case 0:
                body[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                body.insert(at, rng.choice(b'{}[]":,\\ \n\x000129.-+eEtfnuTZ\x80\xc3\xed\xf4\xff'))
            case 2:
                del body[at : at + rng.randint(1, 4)]
            case 3:
                del body[at:]
            case 4:
                body[at : at + 1] = bytes([body[at] ^ 1 << rng.randrange(8)]) if at < len(body) else b""
            case _:
                body += bytes(body[at:])
    return bytes(body)


def compare(types: dict[str, str], payloads: list[bytes]) -> tuple[int, int]:
    """Decode ``payloads`` both ways; how many became rows, and how many rejects.

    Raises:
        AssertionError: the decoder and Python's json do not agree on a message.
    """
    fields, n = declared(types), len(payloads)
    zeros, nothing = np.zeros(n, np.int64), Blobs.of([None] * n)
    got = JsonDecoder(types).decode(RawBatch("t", np.zeros(n, np.int32), zeros, zeros, nothing, Blobs.of(payloads)))
    index, rows, rejects = [], [], []
    for i, payload in enumerate(payloads):
        try:
            rows.append(json_reference.decode(json_reference.behind_header(payload), fields))
            index.append(i)
        except NotDecodableError as error:
            rejects.append((i, error.code))
    assert [(reject.index, reject.code) for reject in got.rejects] == rejects
    assert [i for part in got.parts for i in part.index.tolist()] == index
    for part in got.parts:
        part.rows.validate(full=True)
        for g, column in enumerate(arrow_schema(fields)):
            wanted = pa.array([row[g] for row in rows], column.type)
            assert part.rows.column(g).combine_chunks().equals(wanted), column
    return len(rows), len(rejects)


def _blank(rng: random.Random) -> str:
    return rng.choice(["", "", "", "", " ", "\n", " \t\r "])


def _text(rng: random.Random, text: str) -> str:
    return json.dumps(text, ensure_ascii=rng.random() < 0.2)


def _value(rng: random.Random, told: str, arrow: pa.DataType) -> str:
    if rng.random() < 0.08:
        return "null"
    if rng.random() < 0.01:
        return _scalar(rng, rng.choice(SCALARS))
    if pa.types.is_list(arrow):
        inner = told.removeprefix("list<")[:-1]
        return "[" + ",".join(_value(rng, inner, arrow.value_type) for _ in range(rng.randrange(4))) + "]"
    if pa.types.is_map(arrow):
        inner = told.removeprefix("map<string,")[:-1]
        keys = rng.sample(["a", "b", "é", "", "long key"], rng.randrange(4))
        return "{" + ",".join(f"{_text(rng, key)}:{_value(rng, inner, arrow.item_type)}" for key in keys) + "}"
    if pa.types.is_struct(arrow):
        named = [(arrow.field(k), str(member.type)) for k, member in enumerate(_members(told))]
        pairs = [(one.name, _value(rng, inner, one.type)) for one, inner in named if rng.random() < 0.9]
        return "{" + ", ".join(f"{_text(rng, name)}:{value}" for name, value in pairs) + "}"
    return _scalar(rng, told)


def _members(told: str) -> Any:
    return declared({"x": told})[0].type.members


def _scalar(rng: random.Random, told: str) -> str:
    day = f"{rng.randint(1, 9999):04}-{rng.randint(1, 12):02}-{rng.randint(1, 29):02}"
    fraction = rng.choice(["", ".1", ".123456", ".1234560", ".0000001"])
    clock = f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}{fraction}"
    match told:
        case "string":
            return _text(rng, "".join(rng.choices(ALPHABET, k=rng.randrange(20))))
        case "int" | "long" | "decimal(38,0)":
            return str(rng.randint(-1, 1) * rng.getrandbits(rng.choice([1, 8, 31, 32, 63, 64, 126])))
        case "float" | "double":
            return rng.choice(
                [repr(rng.uniform(-1e9, 1e9)), repr(rng.gauss(0, 1) * 10.0 ** rng.randint(-300, 300)), "7"]
            )
        case "boolean":
            return rng.choice(["true", "false"])
        case "date":
            return f'"{day}"'
        case "time":
            return f'"{clock}"'
        case "timestamp":
            return f'"{day}T{clock}"'
        case "timestamptz":
            return f'"{day} {clock}{rng.choice(["Z", "+10:00", "-05:30"])}"'
        case "uuid":
            text = f"{rng.getrandbits(128):032x}"
            return f'"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"'
        case "binary":
            return json.dumps(base64.b64encode(rng.randbytes(rng.randrange(9))).decode())
        case "json":
            return json.dumps(rng.choice([1, -0.5, "x\n", None, True, [1, {"a": [None]}], {}, {"é": "€"}]))
        case _:
            return f'"{rng.uniform(-1, 1):.{rng.randint(1, 6)}f}"'
