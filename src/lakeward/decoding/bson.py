"""MongoDB's extended JSON, old and new: what its values are, and the plain JSON that stands for them.

The plain forms: an ObjectId is its 24 digits; a date an ISO moment; a Decimal128 its digits as a string; binary data
base64; NaN and infinities strings of these names; a regular expression ``/pattern/options``; a symbol and code without
scope their text; undefined is null; a timestamp stays an object of ``t`` and ``i``. All else is as it was.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from lakeward.decoding import json_reference
from lakeward.decoding.json_inference import Typed
from lakeward.decoding.json_reference import NUMBER, NotDecodableError, Number, Whole
from lakeward.decoding.json_types import FieldType, Kind

MOMENT, BINARY, DOUBLE = FieldType(Kind.TIMESTAMPTZ), FieldType(Kind.BINARY), FieldType(Kind.DOUBLE)
EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001  a moment is written with its Z
FIRST, LAST = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999 in milliseconds."""
OBJECT_ID: Final = re.compile(r"[0-9a-fA-F]{24}")
WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
UNUSUAL = ("NaN", "Infinity", "-Infinity")


def document(text: bytes) -> dict[str, Any]:
    """Read a document.

    Values are those of `json_reference.parse`, in their plain forms; a `Typed` string where that tells less.

    Raises:
        NotDecodableError: it is not one document of extended JSON.
    """
    found = value_of(text)
    if type(found) is not dict:
        raise NotDecodableError("not-an-object", "the document is extended JSON, but not an object")
    return found


def value_of(text: bytes) -> Any:
    """Read a value, see `document`.

    Raises:
        NotDecodableError: it is not one value of extended JSON.
    """
    try:
        parsed = JSON.decode(text.decode())
    except UnicodeDecodeError:
        raise NotDecodableError("invalid-utf8", "the document is not valid UTF-8") from None
    except (json.JSONDecodeError, RecursionError):
        raise NotDecodableError("malformed-json", "the document is not one well-formed JSON value") from None
    return parsed


def plain(text: bytes) -> bytes:
    """Write a document as plain JSON.

    Raises:
        NotDecodableError: it is not one document of extended JSON.
    """
    return json_reference.compact(document(text)).encode(errors="surrogatepass")


def _object(pairs: list[tuple[str, Any]]) -> Any:
    names = tuple(name for name, _ in pairs)
    if len(set(names)) != len(names):
        raise NotDecodableError("duplicate-field", "an object holds the same key twice")
    found = dict(pairs)
    read = FORMS.get(names) or FORMS.get(names[::-1])
    if read is None:
        return found
    try:
        return read(found)
    except (KeyError, TypeError, ValueError):
        reason = f"an object with the name {names[0]} is not what extended JSON knows by it"
        raise NotDecodableError("malformed-extended-json", reason) from None


def _object_id(found: Mapping[str, Any]) -> str:
    text = found["$oid"]
    if type(text) is not str or not OBJECT_ID.fullmatch(text):
        raise ValueError(text)
    return text


def _date(found: Mapping[str, Any]) -> Typed:
    told = found["$date"]
    if type(told) is str:
        moment = dt.datetime.fromisoformat(told)
        if moment.tzinfo is None:
            raise ValueError(told)
        micros = (moment - EPOCH.replace(tzinfo=dt.UTC)) // dt.timedelta(microseconds=1000)
    elif isinstance(told, Whole):
        micros = int(told)
    else:
        raise TypeError(type(told))
    if not FIRST <= micros <= LAST:
        raise NotDecodableError("out-of-range", "a date lies outside the years 1 to 9999")
    moment = EPOCH + dt.timedelta(milliseconds=micros)
    return Typed.of(f"{moment.isoformat(timespec='milliseconds')}Z", MOMENT)


def _whole(name: str) -> Callable[[Mapping[str, Any]], Whole]:
    def read(found: Mapping[str, Any]) -> Whole:
        text = found[name]
        if type(text) is not str or not WHOLE.fullmatch(text):
            raise ValueError(name)
        return Whole(text)

    return read


def _double(found: Mapping[str, Any]) -> Any:
    text = found["$numberDouble"]
    if text in UNUSUAL:
        return Typed.of(text, DOUBLE)
    if not NUMBER.fullmatch(text):
        raise ValueError
    return Number(text)


def _decimal(found: Mapping[str, Any]) -> str:
    if type(found["$numberDecimal"]) is not str:
        raise TypeError
    return str(found["$numberDecimal"])


def _binary(found: Mapping[str, Any]) -> Typed:
    told = found["$binary"]
    text = told["base64"] if isinstance(told, dict) else told
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError from None
    return Typed.of(text, BINARY)


def _text(*path: str) -> Callable[[Mapping[str, Any]], str]:
    def read(found: Mapping[str, Any]) -> str:
        value = found[path[0]]
        if type(value) is not str:
            raise TypeError
        return value

    return read


def _expression(found: Mapping[str, Any]) -> str:
    told = found.get("$regularExpression")
    pattern, options = (told["pattern"], told["options"]) if told else (found["$regex"], found.get("$options", ""))
    return f"/{pattern}/{options}"


def _constant(text: str) -> Typed:
    return Typed.of(text, DOUBLE)


JSON: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=Whole, parse_float=Number, parse_constant=_constant)
FORMS: Final[Mapping[tuple[str, ...], Callable[[Mapping[str, Any]], Any]]] = {
    ("$oid",): _object_id,
    ("$date",): _date,
    ("$numberLong",): _whole("$numberLong"),
    ("$numberInt",): _whole("$numberInt"),
    ("$numberDouble",): _double,
    ("$numberDecimal",): _decimal,
    ("$binary",): _binary,
    ("$binary", "$type"): _binary,
    ("$uuid",): _text("$uuid"),
    ("$symbol",): _text("$symbol"),
    ("$code",): _text("$code"),
    ("$regularExpression",): _expression,
    ("$regex",): _expression,
    ("$regex", "$options"): _expression,
    ("$timestamp",): lambda found: dict(found["$timestamp"]),
    ("$minKey",): lambda _: "MinKey",
    ("$maxKey",): lambda _: "MaxKey",
    ("$undefined",): lambda _: None,
}
"""By the names in an object: what it stands for."""
