"""The compiled JSON reader, and what it leaves to the reference, together say what the reference alone says."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakeward.decoding import json_reference
from lakeward.decoding.json import JsonDecoder
from lakeward.decoding.json_fields import arrow_schema, arrow_type, declared
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.decoding.json_rows import RowReader
from lakeward.decoding.json_types import Field
from lakeward.records import Blobs, RawBatch

PLAIN = ["string", "int", "long", "float", "double", "boolean", "date", "time", "timestamp", "timestamptz", "uuid"]
PLAIN += ["binary", "json"]
RELAXED = settings(database=None, deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])

decimals = st.integers(1, 38).flatmap(lambda p: st.integers(0, p).map(lambda s: f"decimal({p},{s})"))
types = st.sampled_from(PLAIN) | decimals
names = st.text(min_size=0, max_size=20) | st.sampled_from(["a", "ab", "exchange_timestamp", "sequence_number"])
declarations = st.dictionaries(names, types, min_size=1, max_size=9)
blanks = st.sampled_from(["", "", "", " ", "\n", "\t \r\n", "   "])
printed_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,21})(\.[0-9]{1,21})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
moments = st.datetimes()
zones = st.sampled_from(["Z", "+00:00", "-05:30", "+23:59", "+24:00", "", "-14:00"])
fractions = st.sampled_from(["", ".1", ".123", ".123456", ".1234560", ".1234567", ".000001000000", "."])


def batch(payloads: list[bytes | None], data: Blobs | None = None) -> RawBatch:
    n = len(payloads)
    zeros = np.zeros(n, np.int64)
    nothing = Blobs.of([None] * n)
    return RawBatch("t", np.zeros(n, np.int32), zeros, zeros, nothing, data or Blobs.of(payloads))


def in_order(tail: bytes, payloads: list[bytes]) -> Blobs:
    """The payloads with ``tail`` behind each: what a reader would find if it left its record."""
    joined = b"".join(payload + tail for payload in payloads)
    length = np.array([len(payload) for payload in payloads], np.int32)
    start = np.cumsum(length + len(tail)) - length - len(tail)
    return Blobs(np.frombuffer(joined, np.uint8), start.astype(np.int64), length)


def expected(
    payloads: list[bytes], fields: tuple[Field, ...]
) -> tuple[list[int], list[list[Any]], list[tuple[int, str]]]:
    index, rows, rejects = [], [], []
    for i, payload in enumerate(payloads):
        try:
            rows.append(json_reference.decode(json_reference.behind_header(payload), fields))
            index.append(i)
        except NotDecodableError as error:
            rejects.append((i, error.code))
    return index, rows, rejects


def check(payloads: list[bytes], declaration: dict[str, str], data: Blobs | None = None) -> None:
    fields = declared(declaration)
    got = JsonDecoder(declaration).decode(batch(list(payloads), data))
    index, rows, rejects = expected(payloads, fields)
    assert [(reject.index, reject.code) for reject in got.rejects] == rejects
    if not index:
        assert not got.parts
        return
    [part] = got.parts
    assert part.index.tolist() == index
    part.rows.validate(full=True)
    columns = [pa.array([row[g] for row in rows], arrow_type(field.type)) for g, field in enumerate(fields)]
    wanted = pa.Table.from_arrays(columns, schema=arrow_schema(fields))
    for g in range(len(fields)):
        left, right = part.rows.column(g).combine_chunks(), wanted.column(g).combine_chunks()
        assert left.is_null().equals(right.is_null())
        if pa.types.is_floating(left.type):
            bits = [np.asarray(a.fill_null(0)).tobytes() for a in (left, right)]
            assert bits[0] == bits[1]
        assert left.equals(right)


@st.composite
def json_strings(draw: st.DrawFn, text: str) -> str:
    """``text`` as JSON: characters escaped or not, as drawn."""
    style = draw(st.integers(0, 3))
    if style == 0:
        return json.dumps(text, ensure_ascii=False)
    if style == 1:
        return json.dumps(text)
    if style == 2:
        return '"' + "".join(f"\\u{unit:04X}" for unit in np.frombuffer(text.encode("utf-16-le"), "<u2")) + '"'
    return json.dumps(text, ensure_ascii=False).replace("/", "\\/")


@st.composite
def values(draw: st.DrawFn, kind: str) -> str:
    """The text of a JSON value, most likely one that fits a field of this kind."""
    if draw(st.integers(0, 9)) == 0:
        kind = draw(st.sampled_from([*PLAIN, "decimal(9,2)", "null", "[]", '{"a":[1]}', "NaN", "-", "tru"]))
    match kind:
        case "string":
            return draw(st.text(max_size=25).flatmap(json_strings))
        case "int":
            return str(draw(st.integers(-(2**31), 2**31 - 1) | st.integers(-(2**31) - 2, 2**31 + 2)))
        case "long":
            return str(draw(st.integers(-(2**63), 2**63 - 1) | st.integers(2**63 - 3, 2**63 + 3) | st.integers()))
        case "float" | "double":
            return draw(printed_numbers | st.floats(allow_nan=False, allow_infinity=False).map(repr))
        case "boolean":
            return draw(st.sampled_from(["true", "false"]))
        case "time":
            return draw(
                st.times().map(lambda t: f'"{t.isoformat()}"') | st.sampled_from(['"24:00:00"', '"10:00"', '"1:2:3"'])
            )
        case "uuid":
            return draw(st.uuids().map(lambda u: f'"{u}"') | st.just('"0000000-00000-0000-0000-000000000000"'))
        case "binary":
            return draw(
                st.binary(max_size=9).map(lambda b: json.dumps(base64.b64encode(b).decode())) | st.just('"QQ="')
            )
        case "json":
            return draw(leaves(2).map(json.dumps))
        case "date":
            return draw(st.dates().map(lambda d: f'"{d.isoformat()}"') | st.just('"2023-02-29"'))
        case "timestamp" | "timestamptz":
            separator, zone = draw(st.sampled_from("TTT t")), draw(zones if kind == "timestamptz" else st.just(""))
            return f'"{draw(moments).replace(microsecond=0).isoformat(separator)}{draw(fractions)}{zone}"'
        case _ if kind.startswith("decimal"):
            precision, scale = map(int, kind[8:-1].split(","))
            unscaled = draw(st.integers(-(10**precision) - 1, 10**precision + 1))
            number = draw(st.just(f"{Decimal(unscaled).scaleb(-scale):f}") | printed_numbers)
            return draw(st.sampled_from([number, f'"{number}"']))
    return kind


@st.composite
def records(draw: st.DrawFn, declaration: dict[str, str]) -> bytes:
    """One record with some of the fields in some order, now and then an unknown one or one twice."""
    keys = draw(st.permutations(list(declaration))) if draw(st.booleans()) else list(declaration)
    keys = keys[: len(keys) if draw(st.booleans()) else draw(st.integers(0, len(keys)))]
    if draw(st.integers(0, 15)) == 0:
        keys.append(draw(names))
    members = []
    for key in keys:
        gap = [draw(blanks) for _ in range(4)]
        value = "null" if draw(st.integers(0, 7)) == 0 else draw(values(declaration.get(key, "string")))
        name = draw(json_strings(key)) if draw(st.integers(0, 7)) == 0 else json.dumps(key, ensure_ascii=False)
        members.append(f"{gap[0]}{name}{gap[1]}:{gap[2]}{value}{gap[3]}")
    text = draw(blanks) + "{" + ",".join(members) + "}" + draw(blanks)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def batches(draw: st.DrawFn) -> tuple[dict[str, str], list[bytes]]:
    declaration = draw(declarations)
    return declaration, draw(st.lists(records(declaration), min_size=1, max_size=6))


@st.composite
def damaged(draw: st.DrawFn) -> tuple[dict[str, str], list[bytes]]:
    declaration, payloads = draw(batches())
    for k, payload in enumerate(payloads):
        body = bytearray(payload)
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(body)))
            byte = draw(st.sampled_from(b'{}[]":,\\ \n\x000129.-+eEtfnuTZ\x80\xc3\xed\xf4\xff') | st.integers(0, 255))
            match draw(st.integers(0, 3)):
                case 0:
                    body[at : at + 1] = bytes([byte])
                case 1:
                    body.insert(at, byte)
                case 2:
                    del body[at : at + draw(st.integers(1, 4))]
                case _:
                    del body[at:]
        payloads[k] = bytes(body)
    return declaration, payloads


@RELAXED
@given(batches())
def test_records_of_declared_fields_decode_as_the_reference_does(drawn: tuple[dict[str, str], list[bytes]]) -> None:
    check(drawn[1], drawn[0])


@RELAXED
@given(damaged(), st.sampled_from([b"", b'"', b"9", b"}", b'0,"a":1}', b"\\u0041", b"null", b"\xbf"]))
def test_damaged_records_get_the_verdict_of_the_reference(
    drawn: tuple[dict[str, str], list[bytes]], neighbour: bytes
) -> None:
    declaration, payloads = drawn
    check(payloads, declaration, in_order(neighbour * 200, payloads))


@RELAXED
@given(st.lists(printed_numbers | st.floats(allow_nan=False, allow_infinity=False).map(repr), min_size=1, max_size=30))
def test_numbers_are_rounded_once(numbers: list[str]) -> None:
    for kind in ("float", "double", "decimal(38,10)"):
        check([f'{{"x":{number}}}'.encode() for number in numbers], {"x": kind})


def leaves(depth: int) -> st.SearchStrategy[Any]:
    scalars = (
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8)
    )
    scalars = scalars.filter(lambda v: v not in {float("inf"), float("-inf")})
    if depth == 0:
        return scalars
    inner = leaves(depth - 1)
    keys = st.sampled_from("abc")
    return scalars | st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)


@RELAXED
@given(st.lists(st.dictionaries(st.sampled_from("abcd"), leaves(2), max_size=4), min_size=1, max_size=6))
def test_a_sample_fits_the_fields_inferred_from_it_and_a_restart_decodes_it_alike(sample: list[dict[str, Any]]) -> None:
    raw = batch([json.dumps(record).encode() for record in sample])
    decoder = JsonDecoder(None)
    first = decoder.decode(raw)
    schema = decoder.schema("t")
    if schema is None:
        assert all(value is None for record in sample for value in record.values())
        return
    assert not first.rejects
    again = JsonDecoder.from_schema(schema).decode(raw)
    [part] = again.parts
    assert part.rows.to_pylist() == first.parts[0].rows.select(part.rows.column_names).to_pylist()
    assert part.index.tolist() == list(range(len(sample)))


def test_most_ordinary_records_need_no_python() -> None:
    fields = declared({"s": "string", "n": "long", "p": "decimal(38,18)", "t": "timestamptz", "d": "double"})
    ordinary = (
        b'{"s": "caf\\u00e9", "n": -12, "p": "1.5", "t": "2026-01-01T00:00:00.007+01:00", "d": 0.30000000000000004}'
    )
    reader = RowReader(fields, None)
    out = reader._run(Blobs.of([ordinary] * 3), 0, 3)
    assert out.counts.tolist()[:2] == [3, 0]
