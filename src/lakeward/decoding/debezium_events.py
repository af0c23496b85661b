"""What change events tell besides the rows: operation, time and place at the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakeward.changes import Events
from lakeward.decoding.debezium_members import Finder, Members, NDInt, NDMask, log_places, whole_numbers
from lakeward.records import Blobs

QUOTE = 0x22
TIMESTAMP = pa.timestamp("us", "UTC")
_NAMES = (
    "version connector name ts_ms snapshot db sequence ts_us ts_ns schema table txId lsn xmin "
    "collection ord lsid txnNumber wallTime server_id gtid file pos row thread query "
    "scn commit_scn change_lsn commit_lsn event_serial_no"
)
SOURCE = tuple(_NAMES.split())
"""The members of `source` that connectors write, in their order: what is looked for or passed over at once."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What ``n`` messages tell of their source. Shapes and types: those of `Events`, before rows are chosen."""

    timestamp: pa.Array
    position: pa.Array

    @staticmethod
    def gathered(pieces: Sequence[tuple[NDInt, Sources]], messages: int) -> Sources:
        """What ``pieces`` tell, each of the messages at its indices, of all of so many messages."""
        if not pieces:
            return untold(messages)
        order = np.full(messages, -1, np.int64)
        index = np.concatenate([one for one, _ in pieces])
        order[index] = np.arange(len(index))
        at = pa.array(order, mask=order < 0)
        timestamp = pa.concat_arrays([sources.timestamp for _, sources in pieces])
        position = pa.concat_arrays([sources.position for _, sources in pieces])
        return Sources(timestamp.take(at), position.take(at))


def untold(messages: int) -> Sources:
    """What so many messages tell that tell nothing."""
    return Sources(pa.nulls(messages, TIMESTAMP), pa.nulls(messages, pa.string()))


class SourceReader:
    """Reads the `source` of change events.

    Args:
        cache_folder: keeps compiled code between runs, see `code_cache`; None: compile once a process.
    """

    def __init__(self, cache_folder: Path | None) -> None:
        self._cache_folder = cache_folder
        self._finder = Finder(SOURCE, cache_folder)

    def read(self, sources: Blobs) -> Sources:
        """Read the objects ``sources``; null where there is none."""
        found = self._finder.find(sources)
        silent = found.count < 0
        return Sources(self._timestamps(found, silent), self._positions(found, silent))

    def _timestamps(self, found: Members, silent: NDMask) -> pa.Array:
        """The finest time that is told."""
        micros, valid = self._numbers(found, "ts_us")
        for name, divisor, factor in (("ts_ns", 1000, 1), ("ts_ms", 1, 1000)):
            if (valid | silent).all():
                break
            other, told = self._numbers(found, name)
            chosen = told & ~valid
            micros[chosen] = other[chosen] // divisor * factor
            valid = valid | told
        return pa.array(micros, mask=~valid).view(TIMESTAMP)

    def _positions(self, found: Members, silent: NDMask) -> pa.Array:
        """Where in its log the source stands, in the words of the source."""
        lsn, told = self._numbers(found, "lsn")
        ends, text = log_places(lsn, told, self._cache_folder)
        positions = _strings(ends, text, told)
        if (told | silent).all():
            return positions
        others = (self._of_mongodb(found), self._of_mysql(found), self._text(found, "change_lsn"))
        return pc.coalesce(positions, *others, self._text(found, "scn"))

    def _of_mongodb(self, found: Members) -> pa.Array:
        """Seconds and number of the operation, as in an oplog timestamp."""
        millis, told = self._numbers(found, "ts_ms")
        number, numbered = self._numbers(found, "ord")
        text = pc.binary_join_element_wise(
            pa.array(millis // 1000).cast(pa.string()), pa.array(number).cast(pa.string()), "."
        )
        numbered &= number >= 0  # a snapshot has none
        return pc.if_else(pa.array(told & numbered), text, pa.scalar(None, pa.string()))

    def _of_mysql(self, found: Members) -> pa.Array:
        """File and place in the binary log."""
        place, told = self._numbers(found, "pos")
        return pc.binary_join_element_wise(
            self._text(found, "file"), pa.array(place, mask=~told).cast(pa.string()), ":"
        )

    def _text(self, found: Members, name: str) -> pa.Array:
        """A member that holds a string without escapes."""
        values = found.get(name)
        quoted = found.first(name) == QUOTE
        chosen = np.flatnonzero(quoted)
        texts: list[str | None] = [None] * len(quoted)
        for i in chosen.tolist():
            texts[i] = (values.get(i) or b'""')[1:-1].decode(errors="replace")
        return pa.array(texts, pa.string())

    def _numbers(self, found: Members, name: str) -> tuple[NDInt, NDMask]:
        return whole_numbers(found.get(name), self._cache_folder)


def told_by(source: pa.Array) -> Sources:
    """What structs, each the `source` of an event, tell."""
    columns = {source.type.field(k).name: child for k, child in enumerate(source.flatten())}
    nothing = pa.nulls(len(source), pa.int64())
    numbers = {name: columns[name].cast(pa.int64()) if _whole(columns, name) else nothing for name in NUMBERS}
    micros = pc.coalesce(numbers["ts_us"], pc.divide(numbers["ts_ns"], 1000), pc.multiply(numbers["ts_ms"], 1000)).view(
        TIMESTAMP
    )
    texts = {name: columns[name] if _text(columns, name) else pa.nulls(len(source), pa.string()) for name in TEXTS}
    seconds = pc.divide(numbers["ts_ms"], 1000)
    numbers["ord"] = pc.if_else(pc.greater_equal(numbers["ord"], 0), numbers["ord"], None)  # a snapshot has none
    positions = (
        log_texts(numbers["lsn"]),
        pc.binary_join_element_wise(seconds.cast(pa.string()), numbers["ord"].cast(pa.string()), "."),
        pc.binary_join_element_wise(texts["file"], numbers["pos"].cast(pa.string()), ":"),
        texts["change_lsn"],
        texts["scn"],
    )
    return Sources(micros, pc.coalesce(*positions))


NUMBERS = ("ts_us", "ts_ns", "ts_ms", "lsn", "ord", "pos")
TEXTS = ("file", "change_lsn", "scn")


def _whole(columns: Mapping[str, pa.Array], name: str) -> bool:
    return name in columns and pa.types.is_integer(columns[name].type)


def _text(columns: Mapping[str, pa.Array], name: str) -> bool:
    return name in columns and pa.types.is_string(columns[name].type)


def events(operation: NDArray[np.uint8], sources: Sources, index: NDInt) -> Events:
    """The events of the messages at ``index``. ``operation`` uint8[n]: letters; 0: none is told."""
    letters = operation[index]
    told = letters != 0
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(told)]).astype(np.int32)
    chosen = pa.array(index)
    whole = len(index) == len(operation)
    timestamp = sources.timestamp if whole else sources.timestamp.take(chosen)
    position = sources.position if whole else sources.position.take(chosen)
    return Events(_strings(ends, letters[told], told), timestamp, position)


def log_texts(places: pa.Array) -> pa.Array:
    """Places in a PostgreSQL log as text."""
    told = ~places.is_null().to_numpy(zero_copy_only=False)
    ends, text = log_places(places.fill_null(0).to_numpy(), told, None)
    return _strings(ends, text, told)


def _strings(ends: NDArray[np.int32], text: NDArray[np.uint8], valid: NDMask) -> pa.Array:
    bits = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(pa.string(), len(valid), [bits, pa.py_buffer(ends), pa.py_buffer(text)])
