"""From values as connectors write them to values as columns hold them: whole arrays at a time, exact or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakeward.decoding.debezium_bytes_kernel import decode_base64, decode_unscaled
from lakeward.decoding.debezium_members import NDMask

DAY_MICROS = 86_400_000_000
FIRST_DAY, LAST_DAY = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31, in days since 1970-01-01."""
INFINITE_DAYS = (-2_147_472_692, -2_147_472_691, 2**31 - 1, -(2**31))
INFINITE_MOMENTS = (9_223_372_036_825_200_000, -9_223_372_036_832_400_000, 2**63 - 1, -(2**63))
INFINITE_MILLIS = (9_223_372_036_825_200, -9_223_372_036_832_400)
INFINITE_TEXTS = (
    *("-5877611-06-21Z", "-5877611-06-22Z", "+294247-01-10T04:00:25.2Z", "-290308-12-21T19:59:27.6Z"),
    *("infinity", "-infinity"),
)
"""What stands for infinity in a date or a timestamp of PostgreSQL."""
NOT_FINITE = ("NaN", "NAN", "POSITIVE_INFINITY", "NEGATIVE_INFINITY", "Infinity", "-Infinity")
"""How numbers that no decimal holds are written."""
MOST_SCALE = 20_000
"""PostgreSQL's numbers have at most 16,383 digits behind the point."""
MOMENT = pa.timestamp("us")
ZONED = pa.timestamp("us", "UTC")


@dataclass(slots=True)
class Troubles:
    """Values that cannot be converted: for each kind of trouble the rows that have it, a code and a reason."""

    path: str
    found: list[tuple[NDMask, str, str]] = field(default_factory=list)

    def add(self, rows: NDMask, code: str, reason: str) -> None:
        """Note that these rows have this trouble, if any."""
        if rows.any():
            self.found.append((rows, code, f"field {self.path!r}: {reason}"))


Convert: TypeAlias = Callable[[pa.Array, Troubles], pa.Array]


def null_mask(array: pa.Array) -> NDMask:
    """Which values are null."""
    if not array.null_count:
        return np.zeros(len(array), np.bool_)
    mask: NDMask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def integers(array: pa.Array) -> NDArray[np.int64]:
    """The values as 64-bit integers; nulls are 0."""
    found: NDArray[np.int64] = array.fill_null(0).to_numpy(zero_copy_only=False)
    return found.astype(np.int64)


def days(array: pa.Array, troubles: Troubles) -> pa.Array:
    """Days since 1970-01-01 to dates; infinity to null."""
    numbers, null = integers(array.cast(pa.int32())), null_mask(array)
    null |= np.isin(numbers, INFINITE_DAYS)
    outside = ((numbers < FIRST_DAY) | (numbers > LAST_DAY)) & ~null
    troubles.add(outside, "out-of-range", "the date lies outside the years 1 to 9999")
    numbers[outside] = 0
    return pa.array(numbers.astype(np.int32), mask=null | outside).view(pa.date32())


def moments(divisor: int, factor: int) -> Convert:
    """Make the conversion of numbers, each ``factor / divisor`` microseconds since 1970, to timestamps without zone."""

    def convert(array: pa.Array, troubles: Troubles) -> pa.Array:
        if pa.types.is_timestamp(array.type):
            numbers = integers(array.cast(pa.timestamp("us", array.type.tz)).view(pa.int64()))
            scale, part = 1, 1
        else:
            numbers, scale, part = integers(array), factor, divisor
        infinite = INFINITE_MOMENTS + (INFINITE_MILLIS if scale == 1000 else ())
        null = null_mask(array) | np.isin(numbers, infinite)
        inexact = (numbers % part != 0) & ~null
        troubles.add(inexact, "inexact-timestamp", "the timestamp is finer than a microsecond")
        seconds = numbers // (1_000_000 * part // scale)
        outside = ((seconds < FIRST_DAY * 86_400) | (seconds >= (LAST_DAY + 1) * 86_400)) & ~null
        troubles.add(outside, "out-of-range", "the timestamp lies outside the years 1 to 9999")
        numbers[outside | null] = 0
        return pa.array(numbers * scale // part, mask=null | outside | inexact).view(MOMENT)

    return convert


def times(divisor: int, factor: int) -> Convert:
    """Make the conversion of numbers, each ``factor / divisor`` microseconds since midnight, to times of day."""

    def convert(array: pa.Array, troubles: Troubles) -> pa.Array:
        if pa.types.is_time(array.type):
            return array.cast(pa.time64("us"))
        numbers, null = integers(array), null_mask(array)
        inexact = (numbers % divisor != 0) & ~null
        troubles.add(inexact, "inexact-time", "the time of day is finer than a microsecond")
        micros = numbers * factor // divisor
        outside = ((micros < 0) | (micros >= DAY_MICROS)) & ~null
        troubles.add(outside, "out-of-range", "the time of day is not before 24:00:00")
        micros[outside] = 0
        return pa.array(micros, mask=null | outside | inexact).view(pa.time64("us"))

    return convert


def iso(wanted: pa.DataType, code: str) -> Convert:
    """Make the conversion of ISO text, perhaps with a Z at its end, to what it tells without a zone."""

    def convert(array: pa.Array, troubles: Troubles) -> pa.Array:
        infinite = pc.is_in(array, pa.array(INFINITE_TEXTS))
        text = pc.if_else(infinite, pa.scalar(None, pa.string()), pc.utf8_rtrim(array, "Z"))
        return _parsed(text, wanted, troubles, code, f"the string is not a {wanted}")

    return convert


def zoned(array: pa.Array, troubles: Troubles) -> pa.Array:
    """ISO text with a zone to moments, infinity to null; moments stay what they are."""
    if not pa.types.is_string(array.type):
        return array
    infinite = pc.is_in(array, pa.array(INFINITE_TEXTS))
    text = pc.if_else(infinite, pa.scalar(None, pa.string()), array)
    return _parsed(text, ZONED, troubles, "invalid-timestamp", "the string is not a timestamp with a zone")


def declared_decimal(wanted: pa.DataType) -> Convert:
    """Make the conversion of the text of numbers to the decimals that a table has."""

    def convert(array: pa.Array, troubles: Troubles) -> pa.Array:
        reason = f"the number does not fit {wanted} exactly"
        special = pc.is_in(array, pa.array(NOT_FINITE))
        array = pc.if_else(special, pa.scalar(None, pa.string()), array)
        return _parsed(array, wanted, troubles, "inexact-decimal", reason)

    return convert


def _parsed(text: pa.Array, wanted: pa.DataType, troubles: Troubles, code: str, reason: str) -> pa.Array:
    """Cast all, or, where one is in the way, each."""
    if pa.types.is_time(wanted):
        text = pc.binary_join_element_wise(pa.scalar("1970-01-01T"), text, "")
    try:
        return _cast(text, wanted)
    except pa.ArrowInvalid:
        scalars, bad = [], np.zeros(len(text), np.bool_)
        for i in range(len(text)):
            try:
                scalars.append(_cast(text.slice(i, 1), wanted))
            except pa.ArrowInvalid:
                bad[i] = True
                scalars.append(pa.nulls(1, wanted))
        troubles.add(bad, code, reason)
        return pa.concat_arrays(scalars)


def _cast(text: pa.Array, wanted: pa.DataType) -> pa.Array:
    return text.cast(MOMENT).cast(wanted) if pa.types.is_time(wanted) else text.cast(wanted)


def to_bytes(array: pa.Array, troubles: Troubles) -> pa.Array:
    """Base64 to what it stands for; bytes stay what they are."""
    if not pa.types.is_string(array.type):
        return array.cast(pa.binary())
    starts, data = _contents(array)
    null = null_mask(array)
    out, ends = np.empty(len(data) + 3, np.uint8), np.empty(len(array) + 1, np.int32)
    good = np.empty(len(array), np.uint8)
    decode_base64(data, starts, (~null).astype(np.uint8), out, ends, good)
    troubles.add(good == 0, "invalid-base64", "the string is not base64 with padding")
    return _binary(ends, out[: ends[-1]], null | (good == 0))


def unscaled(precision: int, scale: int) -> Convert:
    """Make the conversion of unscaled numbers as bytes to decimals."""
    wanted = pa.decimal128(precision, scale)

    def convert(array: pa.Array, troubles: Troubles) -> pa.Array:
        if pa.types.is_decimal(array.type):
            return array.cast(wanted)
        content = to_bytes(array, troubles)
        starts, data = _contents(content)
        null, good = null_mask(content), np.empty(len(content), np.uint8)
        words = np.empty(2 * len(content), np.uint64)
        limit = np.array(divmod(10**precision, 2**64), np.uint64)
        decode_unscaled(data, starts, (~null).astype(np.uint8), limit, words, good)
        troubles.add(good == 0, "out-of-range", f"the number has more than {precision} digits")
        valid = _bits(~null & (good == 1))
        return pa.Array.from_buffers(wanted, len(content), [valid, pa.py_buffer(words)])

    return convert


def unscaled_text(scale: int) -> Convert:
    """Make the conversion of unscaled numbers as bytes to their text, for those of any number of digits."""

    def convert(array: pa.Array, troubles: Troubles) -> pa.Array:
        if pa.types.is_decimal(array.type):
            return pa.array([None if one is None else format(one, "f") for one in array.to_pylist()], pa.string())
        content = to_bytes(array, troubles).to_pylist()
        return pa.array([None if one is None else number_text(one, scale) for one in content], pa.string())

    return convert


def variable_scale(array: pa.Array, troubles: Troubles) -> pa.Array:
    """Structs of a scale and an unscaled number as bytes to the number's text."""
    scales = array.field(array.type.get_field_index("scale")).to_pylist()
    content = to_bytes(_own(array, "value"), troubles).to_pylist()
    absurd = np.array([scale is not None and abs(scale) > MOST_SCALE for scale in scales], np.bool_)
    troubles.add(absurd, "invalid-decimal", "the number has an absurd scale")
    nothing = null_mask(array) | absurd
    texts = [
        None if one is None or null else number_text(one, scale or 0)
        for one, scale, null in zip(content, scales, nothing.tolist(), strict=True)
    ]
    return pa.array(texts, pa.string())


def well_known_bytes(array: pa.Array, troubles: Troubles) -> pa.Array:
    """Structs of a geometry to its well-known binary form."""
    content = to_bytes(_own(array, "wkb"), troubles)
    return pc.if_else(pa.array(null_mask(array)), pa.scalar(None, pa.binary()), content)


def items(convert: Convert | None, element: pa.DataType) -> Convert:
    """Make the conversion of lists, by that of what is in them."""

    def whole(array: pa.Array, troubles: Troubles) -> pa.Array:
        flat = array.values.slice(array.offsets[0].as_py(), array.offsets[-1].as_py() - array.offsets[0].as_py())
        inner = Troubles(f"{troubles.path}[]")
        values = flat if convert is None else convert(flat, inner)
        starts = integers(array.offsets) - array.offsets[0].as_py()
        owner = np.repeat(np.arange(len(array)), np.diff(starts))
        _raise(inner, owner, len(array), troubles)
        mask = pa.array(null_mask(array)) if array.null_count else None
        return pa.ListArray.from_arrays(
            pa.array(starts.astype(np.int32)), values.cast(element), pa.list_(element), mask=mask
        )

    return whole


def entries(convert: Convert | None, value: pa.DataType) -> Convert:
    """Make the conversion of maps from strings, by that of their values."""

    def whole(array: pa.Array, troubles: Troubles) -> pa.Array:
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        inner = Troubles(f"{troubles.path}{{}}")
        flat = array.items.slice(first, last - first)
        values = flat if convert is None else convert(flat, inner)
        starts = integers(array.offsets) - first
        _raise(inner, np.repeat(np.arange(len(array)), np.diff(starts)), len(array), troubles)
        null = null_mask(array)
        offsets = pa.array(starts.astype(np.int32), mask=np.append(null, False) if null.any() else None)
        keys = array.keys.slice(first, last - first)
        return pa.MapArray.from_arrays(offsets, keys, values.cast(value))

    return whole


def members(converts: Sequence[tuple[str, Convert | None, pa.DataType]]) -> Convert:
    """Make the conversion of structs, by those of their members."""

    def whole(array: pa.Array, troubles: Troubles) -> pa.Array:
        found, null = [], null_mask(array)
        for name, convert, kind in converts:
            inner = Troubles(f"{troubles.path}.{name}")
            child = _own(array, name)
            found.append((child if convert is None else convert(child, inner)).cast(kind))
            _raise(inner, np.arange(len(array)), len(array), troubles)
        fields = [pa.field(name, kind) for name, _, kind in converts]
        return pa.StructArray.from_arrays(found, fields=fields, mask=pa.array(null) if null.any() else None)

    return whole


def number_text(content: bytes, scale: int) -> str:
    """The decimal number whose unscaled digits are a big-endian number, without an exponent.

    Raises:
        ValueError: the scale is absurd.
    """
    if abs(scale) > MOST_SCALE:
        raise ValueError(scale)
    sign, digits, _ = Decimal(int.from_bytes(content, "big", signed=True)).as_tuple()
    return format(Decimal((sign, digits, -scale)), "f")


def _own(array: pa.Array, name: str) -> pa.Array:
    """A member of structs; null where the struct is."""
    child = array.field(array.type.get_field_index(name))
    return pc.if_else(pa.array(~null_mask(array)), child, pa.scalar(None, child.type)) if array.null_count else child


def _raise(inner: Troubles, owner: NDArray[Any], rows: int, troubles: Troubles) -> None:
    """Give troubles of inner values to the rows that hold them."""
    for mask, code, reason in inner.found:
        outer = np.zeros(rows, np.bool_)
        outer[owner[mask]] = True
        troubles.found.append((outer, code, reason))


def _contents(array: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Where each value begins and ends, and the bytes of all."""
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    starts.flags.writeable = content.flags.writeable = False  # one type, whoever made the buffer
    return starts, content


def _binary(ends: NDArray[np.int32], data: NDArray[np.uint8], null: NDMask) -> pa.Array:
    valid = _bits(~null) if null.any() else None
    return pa.Array.from_buffers(pa.binary(), len(null), [valid, pa.py_buffer(ends), pa.py_buffer(data)])


def _bits(flags: NDMask) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))
