"""The program that is compiled for nested JSON, and what it leaves to the reference, say what the reference says."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.decoding import json_nested, json_reference, json_rows
from lakeward.decoding.json import JsonDecoder
from lakeward.decoding.json_fields import arrow_schema, declared
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.records import Blobs, RawBatch

DECLARATION = {
    "id": "long",
    "at": "struct<day:date,of:struct<moment:timestamptz,price:decimal(18,6)>>",
    "legs": "list<struct<size:int,notes:list<string>>>",
    "tags": "map<string,double>",
    "ref": "uuid",
}
TEXTS = ("", "a", "hé", 'x"y', "a text with many bytes, \\ and €", "\U0001f600")
UUID = "0b9d6d3a-1111-2222-3333-444455556666"


def record(chance: random.Random) -> dict[str, Any]:
    def maybe(make: Callable[[], Any]) -> Any:
        return None if chance.random() < 0.1 else make()

    def text() -> str:
        return chance.choice(TEXTS)

    def leg() -> dict[str, Any]:
        size = chance.randrange(-(2**31), 2**31 + (2**28 if chance.random() < 0.1 else 0))
        return {"size": maybe(lambda: size), "notes": maybe(lambda: [maybe(text) for _ in range(chance.randrange(3))])}

    moment = {"moment": "2026-01-31T09:30:00.123+10:00", "price": chance.choice(["12.5", 1.25, -3, "1e2", 1.2345678])}
    return {
        "id": maybe(lambda: chance.randrange(-(2**63), 2**63)),
        "at": maybe(lambda: {"day": maybe(lambda: "2024-02-29"), "of": maybe(lambda: moment)}),
        "legs": maybe(lambda: [maybe(leg) for _ in range(chance.randrange(4))]),
        "tags": maybe(lambda: {text(): maybe(chance.random) for _ in range(chance.randrange(4))}),
        "ref": maybe(lambda: UUID),
    }


def payload(chance: random.Random) -> bytes:
    """A record as text: most as they should be, others damaged, or written in another way."""
    told = record(chance)
    for inside in (told, told["at"] or {}):
        if inside and chance.random() < 0.1:
            del inside[chance.choice(list(inside))]
        if chance.random() < 0.03:
            inside["more"] = 1
    if chance.random() < 0.05:
        told = dict(reversed(told.items()))
    spaced = chance.random() < 0.1
    text = json.dumps(told, ensure_ascii=chance.random() < 0.5, separators=None if spaced else (",", ":"))
    written = text.encode()
    at = chance.randrange(len(written))
    match chance.randrange(40):
        case 0:
            return written[:at]
        case 1:
            return written[:at] + bytes([chance.randrange(256)]) + written[at + 1 :]
        case 2:
            return b" " + written + b"\n"
        case 3:
            return written + b"}"
        case 4:
            return written.replace(b'"tags":{', b'"tags":{"a":1,"a":2,')
        case 5:
            return written[:-1] + b',"id":1}'
        case 6:
            return written.replace(b"]", b",]", 1)
        case _:
            return written


def batch(payloads: list[bytes], tail: bytes) -> RawBatch:
    """The payloads with ``tail`` behind each: what a reader would find if it left its record."""
    length = np.array([len(one) for one in payloads], np.int32)
    start = np.cumsum(length.astype(np.int64) + len(tail)) - length - len(tail)
    data = np.frombuffer(b"".join(one + tail for one in payloads), np.uint8)
    zeros = np.zeros(len(payloads), np.int64)
    nothing = Blobs.of([None] * len(payloads))
    return RawBatch("t", zeros.astype(np.int32), zeros, zeros, nothing, Blobs(data, start, length))


SMALL = {"id": "long", "in": "struct<a:list<long>,b:long>"}


def compiled(declaration: dict[str, str], first: dict[str, Any]) -> JsonDecoder:
    """A decoder with a program for records like ``first``."""
    decoder = JsonDecoder(declaration)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "MANY", 0)
        decoder.decode(batch([json.dumps(first).encode()], b""))
    wait_for_the_program(decoder)
    return decoder


def wait_for_the_program(decoder: JsonDecoder) -> None:
    assert decoder._rows is not None
    assert decoder._rows._making is not None
    decoder._rows._making.result(120)


@pytest.fixture(scope="module")
def decoder() -> JsonDecoder:
    return compiled(DECLARATION, dict.fromkeys(DECLARATION))


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each run of a program left to the reference."""
    counts: list[int] = []
    read = json_nested.NestedReader.read

    def counting(self: json_nested.NestedReader, *where: Any) -> Any:
        found = read(self, *where)
        counts.append(len(found[2]))
        return found

    monkeypatch.setattr(json_nested.NestedReader, "read", counting)
    return counts


def check(decoder: JsonDecoder, declaration: dict[str, str], payloads: list[bytes], tail: bytes = b"") -> None:
    fields = declared(declaration)
    got = decoder.decode(batch(payloads, tail))
    index, rows, rejects = [], [], []
    for i, one in enumerate(payloads):
        try:
            rows.append(json_reference.decode(one, fields))
            index.append(i)
        except NotDecodableError as error:
            rejects.append((i, error.code))
    assert [(reject.index, reject.code) for reject in got.rejects] == rejects
    [part] = got.parts
    assert part.index.tolist() == index
    part.rows.validate(full=True)
    schema = arrow_schema(fields)
    columns = [pa.array([row[g] for row in rows], column.type) for g, column in enumerate(schema)]
    assert part.rows.combine_chunks().equals(pa.Table.from_arrays(columns, schema=schema))


@pytest.mark.parametrize("tail", [b"", b",", b'"id":1}', b"]}", b"\x00" * 90], ids=range(5))
def test_a_program_and_the_reference_read_the_same(decoder: JsonDecoder, left: list[int], tail: bytes) -> None:
    chance = random.Random(tail)
    check(decoder, DECLARATION, [payload(chance) for _ in range(800)], tail)
    assert 0 < sum(left) < 500


def test_records_that_are_as_they_should_be_are_all_read_by_the_program(decoder: JsonDecoder, left: list[int]) -> None:
    told = {
        "id": 1,
        "at": {"day": "2026-01-31", "of": {"moment": "2026-01-31T09:30:00Z", "price": "1.5"}},
        "legs": [{"size": 3, "notes": ["a", None]}, {}],
        "tags": {"a": 1.5, "b": None},
        "ref": UUID,
    }
    check(decoder, DECLARATION, [json.dumps(told).encode()] * 50 + [b"{}"] * 50)
    assert left == [0]


def test_a_program_reads_keys_in_the_order_in_which_they_came_when_it_was_compiled(left: list[int]) -> None:
    told = {"in": {"b": 1, "a": [1, 2]}, "id": 3}
    decoder = compiled(SMALL, told)
    check(decoder, SMALL, [json.dumps(told).encode()] * 9)
    assert sum(left) == 0
    check(decoder, SMALL, [b'{"id":3,"in":{"b":1}}', b'{"id":3}', b'{"in":{"a":[],"b":2}}'])
    assert sum(left) == 2


def test_few_nested_records_are_not_worth_a_program(left: list[int]) -> None:
    check(JsonDecoder(SMALL), SMALL, [b'{"id":1}'] * 100)
    assert not left


def test_the_reference_reads_on_while_a_program_is_compiled(left: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, made = threading.Event(), json_nested.NestedReader

    def slowly(*arguments: Any) -> json_nested.NestedReader:
        assert go_on.wait(60)
        return made(*arguments)

    monkeypatch.setattr(json_rows, "NestedReader", slowly)
    monkeypatch.setattr(json_rows, "MANY", 1)
    decoder = JsonDecoder(SMALL)
    payloads = [b'{"in":{"a":[1],"b":2},"id":3}'] * 2
    for _ in range(3):
        check(decoder, SMALL, payloads)
    assert not left
    go_on.set()
    wait_for_the_program(decoder)
    check(decoder, SMALL, payloads)
    assert left == [0]
