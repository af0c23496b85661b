"""The rules of JSON decoding in plain Python: what each kind of field takes, and why a record is rejected.

This is what the compiled reader is compared with in tests, and what decodes the records that it leaves. Reasons name
fields and never hold values.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NoReturn

import numpy as np

from lakeward.decoding.framing import HEADER
from lakeward.decoding.json_types import Field, FieldType, Kind

MAX_DEPTH = 64
"""How many objects and arrays may lie in one another."""

NUMBER: Final = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
MOMENT: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"(?:(Z)|([+-])([0-9]{2}):([0-9]{2}))?"
)
TIME: Final = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?")
UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
STRINGS: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
BRACKETS: Final = re.compile(r"[\[\]{}]")
ESCAPED_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
EPOCH: Final = dt.date(1970, 1, 1).toordinal()
SECONDS_OF_DAY: Final = 86_400
MAX_INTEGER_DIGITS: Final = 19
MAX_EXPONENT_DIGITS: Final = 9
SHOWN_NAME: Final = 64


class NotDecodableError(Exception):
    """A record does not follow the rules: a stable code, and a sentence without values."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Number(str):
    """A JSON number, as it was written."""

    __slots__ = ()


class Whole(Number):
    """A JSON number without fraction and exponent."""

    __slots__ = ()


class Special(Number):
    """NaN or an infinity, which are no JSON, but have words in that of some sources."""

    __slots__ = ()


def decode(payload: bytes, fields: Sequence[Field]) -> list[Any]:
    """Decode one record into one value a column.

    Values are what `pyarrow.array` takes: days since 1970-01-01 for dates, microseconds since the epoch for
    timestamps and since midnight for times, Decimal for decimals, pairs for maps.

    Raises:
        NotDecodableError: the record does not follow the rules.
    """
    return values_of(parse(payload), fields)


def values_of(record: Mapping[str, Any], fields: Sequence[Field]) -> list[Any]:
    """One value a column of a record that `parse` made; see `decode`.

    Raises:
        NotDecodableError: the record does not follow the rules.
    """
    values = _members(record, fields, "")
    return [value for value, field in zip(values, fields, strict=True) if field.type.kind is not Kind.NULL]


def behind_header(payload: bytes) -> bytes:
    """The payload without the header of a schema registry's client, where it has one: a zero byte and four more.

    Raises:
        NotDecodableError: the header is cut.
    """
    if not payload.startswith(b"\0"):
        return payload
    if len(payload) < HEADER:
        raise NotDecodableError("too-short", "the payload begins with a zero byte, and ends before the header does")
    return payload[HEADER:]


def parse(payload: bytes) -> dict[str, Any]:
    """Read one JSON object; its numbers stay text.

    Raises:
        NotDecodableError: it is not exactly one well-formed JSON object with distinct keys.
    """
    if not payload.strip(b" \t\r\n"):
        raise NotDecodableError("empty-payload", "the payload is empty")
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise NotDecodableError("invalid-utf8", "the payload is not valid UTF-8") from None
    if _too_deep(text):
        raise NotDecodableError("too-deep", f"more than {MAX_DEPTH} objects and arrays lie in one another")
    try:
        value = JSON.decode(text)
    except json.JSONDecodeError:
        raise NotDecodableError("malformed-json", "the payload is not one well-formed JSON value") from None
    if not isinstance(value, dict):
        raise NotDecodableError("not-an-object", "the payload is JSON, but not an object")
    if ESCAPED_SURROGATE.search(text) and not _encodable(value):
        raise NotDecodableError("lone-surrogate", "a string holds half of a surrogate pair")
    return value


def compact(value: Any) -> str:
    """Write a parsed value as JSON without white space: keys in their order, numbers as they were written."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{compact(name)}:{compact(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(compact, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def fits_long(number: str) -> bool:
    """Whether a whole number fits 64 bits."""
    return len(number.lstrip("-")) <= MAX_INTEGER_DIGITS and -(2**63) <= int(number) < 2**63


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotDecodableError("duplicate-field", "an object holds the same key twice")
    return members


def _not_finite(_: str) -> NoReturn:
    raise NotDecodableError("not-finite", "NaN and Infinity are not JSON")


JSON: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=Whole, parse_float=Number, parse_constant=_not_finite
)


def _too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in BRACKETS.findall(STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _encodable(value: Any) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, dict):
        return all(_encodable(name) and _encodable(member) for name, member in value.items())
    return all(map(_encodable, value)) if isinstance(value, list) else True


def _members(record: Mapping[str, Any], fields: Sequence[Field], path: str) -> list[Any]:
    known = {field.name: field.type.kind for field in fields}
    for name, value in record.items():
        if name not in known or (known[name] is Kind.NULL and value is not None):
            shown = f"{path}{name}"[:SHOWN_NAME]
            raise NotDecodableError("undeclared-field", f"field {shown!r} is not among the known fields")
    return [_value(record.get(field.name), field.type, f"{path}{field.name}") for field in fields]


def _value(value: Any, wanted: FieldType, path: str) -> Any:
    if value is None:
        return None
    try:
        return CONVERTERS[wanted.kind](value, wanted, path)
    except NotDecodableError as error:
        if error.reason.startswith("field "):
            raise
        raise NotDecodableError(error.code, f"field {path!r}: {error.reason}") from None


def _wrong_type(wanted: str) -> NotDecodableError:
    return NotDecodableError("wrong-type", f"the value is not {wanted}")


def _text(value: Any, _wanted: FieldType, _path: str) -> str:
    return value if type(value) is str else compact(value)


def _string(value: Any, _wanted: FieldType, _path: str) -> str:
    if type(value) is not str:
        raise _wrong_type("a string")
    return value


def _integer(value: Any, wanted: FieldType, _path: str) -> int:
    if not isinstance(value, Number):
        raise _wrong_type("a number")
    if not isinstance(value, Whole):
        raise NotDecodableError("not-an-integer", "the number is not written as an integer")
    bound = 2**31 if wanted.kind is Kind.INT else 2**63
    if not fits_long(value) or not -bound <= int(value) < bound:
        raise NotDecodableError("out-of-range", f"the integer does not fit {bound.bit_length()} bits")
    return int(value)


def _floating(value: Any, wanted: FieldType, _path: str) -> float:
    if not isinstance(value, Number):
        raise _wrong_type("a number")
    try:
        nearest = _nearest_float(value) if wanted.kind is Kind.FLOAT else float(value)
    except OverflowError:
        nearest = math.inf
    if math.isinf(nearest) and not isinstance(value, Special):
        raise NotDecodableError("out-of-range", f"the number is too large for a {wanted.kind.name.lower()}")
    if isinstance(value, Whole) and f"{Decimal(nearest):f}" != value and value != "-0":
        reason = f"the integer has more digits than a {wanted.kind.name.lower()} holds exactly"
        raise NotDecodableError("inexact-integer", reason)
    return nearest


def _nearest_float(number: str) -> float:
    """Return the float of 32 bits nearest to ``number``, not that nearest to the double nearest to it."""
    value = float(number)
    single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    with np.errstate(over="ignore"):
        other = float(np.nextafter(np.float32(single), np.float32(math.copysign(math.inf, value - single))))
    if single != value and abs(value - single) == abs(other - value):
        exact = Decimal(number)
        if exact != Decimal(value):
            value = math.nextafter(value, math.inf if exact > Decimal(value) else -math.inf)
            single = struct.unpack("<f", struct.pack("<f", value))[0]
    return single


def _boolean(value: Any, _wanted: FieldType, _path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type("true or false")
    return value


def _days(text: str) -> int:
    match = DATE.fullmatch(text)
    try:
        year, month, day = map(int, match.groups()) if match else (0, 0, 0)
        return dt.date(year, month, day).toordinal() - EPOCH
    except ValueError:
        raise NotDecodableError("invalid-date", "the string is not a date of the form YYYY-MM-DD") from None


def _date(value: Any, _wanted: FieldType, _path: str) -> int:
    return _days(_string(value, _wanted, _path))


def _timestamp(value: Any, wanted: FieldType, path: str) -> int:
    match = MOMENT.fullmatch(_string(value, wanted, path))
    if match is None:
        raise NotDecodableError("invalid-timestamp", "the string is not a timestamp of the form YYYY-MM-DDThh:mm:ss")
    date, hour, minute, second, fraction, utc, sign, ahead_hours, ahead_minutes = match.groups()
    zoned = bool(utc or sign)
    if zoned != (wanted.kind is Kind.TIMESTAMPTZ):
        if zoned:
            raise NotDecodableError(
                "unexpected-zone", "a timestamp without zone is declared, and one with a zone is here"
            )
        raise NotDecodableError("missing-zone", "a timestamp with zone is declared, and one without a zone is here")
    clock, ahead = (int(hour), int(minute), int(second or 0)), (int(ahead_hours or 0), int(ahead_minutes or 0))
    if clock > (23, 59, 59) or clock[1] > 59 or clock[2] > 59 or ahead[0] > 23 or ahead[1] > 59:
        raise NotDecodableError("invalid-timestamp", "there is no such time of day or zone")
    if (fraction or "")[6:].strip("0"):
        raise NotDecodableError("inexact-timestamp", "the timestamp is finer than a microsecond")
    shift = (ahead[0] * 60 + ahead[1]) * (-60 if sign == "-" else 60)
    seconds = _days(date) * SECONDS_OF_DAY + clock[0] * 3600 + clock[1] * 60 + clock[2] - shift
    first, last = (day.toordinal() - EPOCH for day in (dt.date.min, dt.date.max))
    if not first <= seconds // SECONDS_OF_DAY <= last:
        raise NotDecodableError("out-of-range", "the timestamp lies outside the years 1 to 9999")
    return seconds * 1_000_000 + int((fraction or "")[:6].ljust(6, "0"))


def _time(value: Any, wanted: FieldType, path: str) -> int:
    match = TIME.fullmatch(_string(value, wanted, path))
    hour, minute, second = (int(part or 0) for part in match.groups()[:3]) if match else (24, 0, 0)
    if match is None or hour > 23 or minute > 59 or second > 59:
        raise NotDecodableError("invalid-time", "the string is not a time of day of the form hh:mm:ss")
    fraction = match[4] or ""
    if fraction[6:].strip("0"):
        raise NotDecodableError("inexact-time", "the time of day is finer than a microsecond")
    return (hour * 3600 + minute * 60 + second) * 1_000_000 + int(fraction[:6].ljust(6, "0"))


def _uuid(value: Any, wanted: FieldType, path: str) -> str:
    text = _string(value, wanted, path)
    if not UUID.fullmatch(text):
        raise NotDecodableError("invalid-uuid", "the string is not a uuid of 36 characters")
    return text


def _binary(value: Any, wanted: FieldType, path: str) -> bytes:
    try:
        return base64.b64decode(_string(value, wanted, path), validate=True)
    except (binascii.Error, ValueError):
        raise NotDecodableError("invalid-base64", "the string is not base64 with padding") from None


def _json(value: Any, _wanted: FieldType, _path: str) -> str:
    return compact(value)


def _decimal(value: Any, wanted: FieldType, _path: str) -> Decimal:
    match = NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        if type(value) is str:
            raise NotDecodableError("invalid-decimal", "the string is not a number")
        raise _wrong_type("a number, nor a string that holds one")
    sign, whole, fraction, exponent_sign, exponent = match.groups("")
    digits = (whole + fraction).lstrip("0")
    power = -len(fraction) + len(digits) - len(digits.rstrip("0"))
    digits = digits.rstrip("0")
    if not digits:
        return Decimal((0, (0,), -wanted.scale))
    if len(exponent.lstrip("0")) > MAX_EXPONENT_DIGITS:
        raise NotDecodableError("out-of-range", "the number's exponent is absurd")
    power += int(exponent_sign + (exponent or "0")) + wanted.scale
    if power < 0:
        raise NotDecodableError("inexact-decimal", f"the number has more than {wanted.scale} digits after the point")
    if len(digits) + power > wanted.precision:
        reason = f"the number does not fit decimal({wanted.precision},{wanted.scale})"
        raise NotDecodableError("out-of-range", reason)
    unscaled = tuple(map(int, digits)) + (0,) * power
    return Decimal((int(bool(sign)), unscaled, -wanted.scale))


def _struct(value: Any, wanted: FieldType, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong_type("an object")
    values = _members(value, wanted.members, f"{path}.")
    pairs = zip(wanted.members, values, strict=True)
    return {member.name: item for member, item in pairs if member.type.kind is not Kind.NULL}


def _list(value: Any, wanted: FieldType, path: str) -> list[Any]:
    if not isinstance(value, list) or wanted.element is None:
        raise _wrong_type("an array")
    return [_value(item, wanted.element, f"{path}[]") for item in value]


def _map(value: Any, wanted: FieldType, path: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or wanted.element is None:
        raise _wrong_type("an object")
    return [(name, _value(item, wanted.element, f"{path}{{}}")) for name, item in value.items()]


CONVERTERS: Final[Mapping[Kind, Callable[[Any, FieldType, str], Any]]] = {
    Kind.STRING: _string,
    Kind.TEXT: _text,
    Kind.INT: _integer,
    Kind.LONG: _integer,
    Kind.FLOAT: _floating,
    Kind.DOUBLE: _floating,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _date,
    Kind.TIMESTAMP: _timestamp,
    Kind.TIMESTAMPTZ: _timestamp,
    Kind.DECIMAL: _decimal,
    Kind.STRUCT: _struct,
    Kind.LIST: _list,
    Kind.MAP: _map,
    Kind.TIME: _time,
    Kind.UUID: _uuid,
    Kind.BINARY: _binary,
    Kind.JSON: _json,
}
