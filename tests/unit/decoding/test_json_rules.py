"""What each kind of field takes and refuses, by the reference and by the decoder as a whole."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lakeward.decoding import json as json_decoder
from lakeward.decoding import json_reference, json_registered
from lakeward.decoding.json import JsonDecoder
from lakeward.decoding.json_fields import declared
from lakeward.decoding.json_reference import NotDecodableError
from lakeward.records import Blobs, RawBatch

UTC = dt.UTC


def decode(payload: bytes, fields: dict[str, str]) -> Any:
    """The one row, or the code of the reject; the reference must agree."""
    zero = np.zeros(1, np.int64)
    raw = RawBatch("t", np.zeros(1, np.int32), zero, zero, Blobs.of([None]), Blobs.of([payload]))
    decoded = JsonDecoder(fields).decode(raw)
    try:
        json_reference.decode(payload, declared(fields))
        verdict = None
    except NotDecodableError as error:
        verdict = error.code
    if decoded.rejects:
        assert [reject.code for reject in decoded.rejects] == [verdict]
        return verdict
    assert verdict is None
    [row] = decoded.parts[0].rows.to_pylist()
    return row


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", '""', ""),
        ("string", '"a\\"\\\\\\/\\b\\f\\n\\r\\t"', 'a"\\/\b\f\n\r\t'),
        ("string", '"\\u00e9\\u20AC\\ud83d\\ude00\\u0000"', "é€😀\0"),
        ("string", '"é€😀 and more than eight bytes"', "é€😀 and more than eight bytes"),
        ("int", "-2147483648", -(2**31)),
        ("int", "-0", 0),
        ("long", "9223372036854775807", 2**63 - 1),
        ("long", "-9223372036854775808", -(2**63)),
        ("double", "0.30000000000000004", 0.30000000000000004),
        ("double", "5e-324", 5e-324),
        ("double", "1.7976931348623157e308", 1.7976931348623157e308),
        ("double", "9007199254740992", 2.0**53),
        ("double", "1e-400", 0.0),
        ("float", "0.1", float(np.float32(0.1))),
        # Nearest to the number is the upper float; nearest to its double, which is half way, the lower one.
        ("float", "1.00000005960464477541", float(np.float32(1) + np.float32(2**-23))),
        ("boolean", "true", True),
        ("boolean", "false", False),
        ("date", '"1969-12-31"', dt.date(1969, 12, 31)),
        ("date", '"2000-02-29"', dt.date(2000, 2, 29)),
        ("date", '"0001-01-01"', dt.date(1, 1, 1)),
        ("timestamp", '"1969-12-31T23:59:59.999999"', dt.datetime(1969, 12, 31, 23, 59, 59, 999999)),  # noqa: DTZ001
        ("timestamp", '"2026-01-01 10:00"', dt.datetime(2026, 1, 1, 10)),  # noqa: DTZ001
        ("timestamptz", '"2026-01-01T00:00:00Z"', dt.datetime(2026, 1, 1, tzinfo=UTC)),
        ("timestamptz", '"2026-01-01T00:30:00.5+05:30"', dt.datetime(2025, 12, 31, 19, 0, 0, 500000, UTC)),
        ("timestamptz", '"1969-12-31T19:00:00.000001000-05:00"', dt.datetime(1970, 1, 1, 0, 0, 0, 1, UTC)),
        ("decimal(18,6)", "-819.850095", Decimal("-819.850095")),
        ("decimal(18,6)", '"999999999999.999999"', Decimal("999999999999.999999")),
        ("decimal(18,6)", "1.50000000", Decimal("1.500000")),
        ("decimal(18,6)", "15e-1", Decimal("1.500000")),
        ("decimal(18,6)", "0e999999999999999999999", Decimal("0.000000")),
        ("decimal(38,0)", "-" + "9" * 38, Decimal("-" + "9" * 38)),
        (
            "decimal(38,18)",
            "12345678901234567890.000000000000000001",
            Decimal("12345678901234567890.000000000000000001"),
        ),
        ("decimal(38,18)", '"0.1"', Decimal("0.100000000000000000")),
        ("decimal(5,2)", "1e2", Decimal("100.00")),
    ],
)
def test_a_value_that_fits_is_read_exactly(kind: str, text: str, value: Any) -> None:
    assert decode(f'{{"x":{text}}}'.encode(), {"x": kind}) == {"x": value}
    assert decode(f' {{ "y" : null , "x" : {text} }} '.encode(), {"x": kind, "y": "string"}) == {"x": value, "y": None}


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        ("string", "1", "wrong-type"),
        ("string", '"\\ud83d"', "lone-surrogate"),
        ("string", '"\\ude00\\ud83d"', "lone-surrogate"),
        ("string", '"\\x"', "malformed-json"),
        ("string", '"a\nb"', "malformed-json"),
        ("int", "2147483648", "out-of-range"),
        ("int", "3000000000", "out-of-range"),
        ("int", "1.0", "not-an-integer"),
        ("long", "1e3", "not-an-integer"),
        ("long", '"7"', "wrong-type"),
        ("long", "9223372036854775808", "out-of-range"),
        ("long", "9" * 5000, "out-of-range"),
        ("long", "01", "malformed-json"),
        ("long", "true", "wrong-type"),
        ("double", "1e309", "out-of-range"),
        ("double", "9" * 5000, "out-of-range"),
        ("double", "9007199254740993", "inexact-integer"),
        ("double", "NaN", "not-finite"),
        ("double", "-Infinity", "not-finite"),
        ("double", '"1.5"', "wrong-type"),
        ("float", "1e39", "out-of-range"),
        ("float", "16777217", "inexact-integer"),
        ("boolean", "1", "wrong-type"),
        ("boolean", "True", "malformed-json"),
        ("date", '"2023-02-29"', "invalid-date"),
        ("date", '"1900-02-29"', "invalid-date"),
        ("date", '"2023-13-01"', "invalid-date"),
        ("date", '"0000-01-01"', "invalid-date"),
        ("date", '"-001-01-01"', "invalid-date"),
        ("date", "19000", "wrong-type"),
        ("timestamptz", '"2026-01-01T00:00:00"', "missing-zone"),
        ("timestamptz", "1767225600000", "wrong-type"),
        ("timestamptz", '"2026-01-01T00:00:00.0000001Z"', "inexact-timestamp"),
        ("timestamptz", '"2026-01-01T24:00:00Z"', "invalid-timestamp"),
        ("timestamptz", '"2026-06-30T23:59:60Z"', "invalid-timestamp"),
        ("timestamptz", '"2026-02-30T00:00:00Z"', "invalid-date"),
        ("timestamptz", '"2026-01-01T00:00:00+24:00"', "invalid-timestamp"),
        ("timestamptz", '"0001-01-01T00:00:00+00:01"', "out-of-range"),
        ("timestamptz", '"9999-12-31T23:59:59-00:01"', "out-of-range"),
        ("timestamp", '"2026-01-01T00:00:00Z"', "unexpected-zone"),
        ("timestamp", '"yesterday"', "invalid-timestamp"),
        ("decimal(18,6)", "1.1234567", "inexact-decimal"),
        ("decimal(18,6)", "1e-7", "inexact-decimal"),
        ("decimal(18,6)", "1000000000000", "out-of-range"),
        ("decimal(18,6)", "1e999999999999999999999", "out-of-range"),
        ("decimal(18,6)", '"1,5"', "invalid-decimal"),
        ("decimal(18,6)", '" 1"', "invalid-decimal"),
        ("decimal(18,6)", '""', "invalid-decimal"),
        ("decimal(18,6)", "false", "wrong-type"),
        ("decimal(5,2)", "999.995", "inexact-decimal"),
    ],
)
def test_a_value_that_does_not_fit_is_rejected_with_its_code(kind: str, text: str, code: str) -> None:
    assert decode(f'{{"x":{text}}}'.encode(), {"x": kind}) == code


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "empty-payload"),
        (b" \n", "empty-payload"),
        (b"{", "malformed-json"),
        (b'{"x":"a', "malformed-json"),
        (b'{"x":"a"', "malformed-json"),
        (b'{"x":"a",}', "malformed-json"),
        (b'{"x":"a"}}', "malformed-json"),
        (b'{"x":"a"} {"x":"b"}', "malformed-json"),
        (b'{"x" "a"}', "malformed-json"),
        (b'{x:"a"}', "malformed-json"),
        (b'\xef\xbb\xbf{"x":"a"}', "malformed-json"),
        (b"[1]", "not-an-object"),
        (b"null", "not-an-object"),
        (b'{"x":"\xff"}', "invalid-utf8"),
        (b'{"x":"\xed\xa0\x80"}', "invalid-utf8"),
        (b'{"x":"\xc0\x80"}', "invalid-utf8"),
        (b'{"x":"a","x":"a"}', "duplicate-field"),
        (b'{"x":"a","\\u0078":"a"}', "duplicate-field"),
        (b'{"z":{"a":1,"a":2}}', "duplicate-field"),
        (b'{"x":"a","z":1}', "undeclared-field"),
        (b'{"x":' + b"[" * 100_000, "too-deep"),
        (b'{"x":' + b"[" * 64 + b"]" * 64 + b"}", "too-deep"),
        (b'{"x":' + b"[" * 63 + b"]" * 63 + b"}", "wrong-type"),
        (b'{"x":"' + b"[" * 100 + b'","y":1.0}', "not-an-integer"),
    ],
)
def test_a_record_that_is_not_one_object_of_known_fields_is_rejected(payload: bytes, code: str) -> None:
    assert decode(payload, {"x": "string", "y": "int"}) == code


def test_keys_may_be_escaped_and_come_in_any_order_and_may_be_missing() -> None:
    fields = {'quo"te': "long", "é": "long", "back\\slash": "long", "": "long", "b": "long"}
    row = decode(b'{"":4,"back\\\\slash":3,"\\u00E9":2,"quo\\"te":1}', fields)
    assert row == {'quo"te': 1, "é": 2, "back\\slash": 3, "": 4, "b": None}


def test_a_reason_names_the_field_and_holds_no_value() -> None:
    with pytest.raises(NotDecodableError) as caught:
        json_reference.decode(b'{"password":"hunter2"}', declared({"password": "long"}))
    assert caught.value.reason == "field 'password': the value is not a number"


def test_the_documentation_names_every_code_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "json.md").read_text()
    documented = set(re.findall(r"`([a-z0-9-]+)`", page.split("## Codes of rejects")[1]))
    sources = (Path(module.__file__).read_text() for module in (json_reference, json_decoder, json_registered))
    codes = {code for text in sources for code in re.findall(r'(?:Error\(|Reject\(i, |return )\s*"([a-z0-9-]+)"', text)}
    assert documented == codes
