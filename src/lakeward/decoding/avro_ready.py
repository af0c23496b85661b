"""The fastest way to read a writer schema that there is at the moment."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray

from lakeward.decoding.avro_program import generate, programmable
from lakeward.decoding.avro_shape import ReadShape, Shape
from lakeward.decoding.avro_types import Record
from lakeward.decoding.code_cache import CodeCache
from lakeward.records import Blobs, DecodedPart, Reject

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LONG = 250
"""Compiling takes a second for every hundred lines of a program: nobody waits for one that has more than these."""
MANY = 20_000
"""So many records are worth a program of their own: reading these takes less than a second without."""
PIECE = 4096
"""After so many messages it is looked whether there is a program now."""
CHILD = "from lakeward.decoding.avro_ready import compile_from_input; compile_from_input()"

NDInt = NDArray[np.int64]

_one_at_a_time = threading.Lock()
"""Compiling takes a processor and two hundred megabytes."""


class Ready(Protocol):
    """A writer schema made ready to decode messages."""

    def decode(
        self, values: Blobs, index: NDInt | None, schema_id: int, parts: list[DecodedPart], rejects: list[Reject]
    ) -> NDInt:
        """See `Shape.decode`."""


def made_ready(record: Record, code: CodeCache) -> Ready:
    """The fastest way to read ``record`` that is there within about two seconds."""
    if not programmable(record):
        return ReadShape.of(record)
    if code.folder is None or generate(record).source.count("\n") <= LONG or Shape.kept(record, code):
        return Shape.of(record, code)
    return LateShape(record, code, code.folder)


class LateShape:
    """A writer schema whose messages are read one by one until there are many, and their program is compiled.

    It is compiled by another process, from whose folder it is loaded: numba compiles and loads one thing at a time,
    so that all else that is compiled would have to wait for it.
    """

    def __init__(self, record: Record, code: CodeCache, folder: Path) -> None:
        self._record, self._code, self._folder = record, code, folder
        self._reader = ReadShape.of(record)
        self._read = 0
        self._making: Future[Shape] | None = None

    def decode(
        self, values: Blobs, index: NDInt | None, schema_id: int, parts: list[DecodedPart], rejects: list[Reject]
    ) -> NDInt:
        """See `Shape.decode`."""
        made = self._made()
        if made is not None:
            return made.decode(values, index, schema_id, parts, rejects)
        whole = np.arange(len(values)) if index is None else index
        found: list[DecodedPart] = []
        others = []
        done = 0
        while done < len(whole):
            made = self._made()
            piece = whole[done : done + PIECE] if made is None else whole[done:]
            reader = self._reader if made is None else made
            left = reader.decode(values, piece, schema_id, found, rejects)
            others.append(left)
            self._read += len(piece) - len(left)
            done += len(piece)
        if found:
            rows = pa.concat_tables([part.rows for part in found])
            parts.append(DecodedPart(rows, np.concatenate([part.index for part in found]), schema_id))
        return np.concatenate([np.empty(0, np.int64), *others])

    def _made(self) -> Shape | None:
        """The program, as soon as there is one."""
        if self._making is None:
            if self._read >= MANY:
                self._making = Future()
                threading.Thread(target=self._make, args=(self._making,), name="compiling", daemon=True).start()
            return None
        return self._making.result() if self._making.done() else None

    def _make(self, future: Future[Shape]) -> None:
        """Make the program, in this process after all where the other one has not."""
        try:
            with _one_at_a_time:
                if not Shape.kept(self._record, self._code):
                    _compile_aside(pickle.dumps((self._record, self._folder)))
            future.set_result(Shape.of(self._record, self._code))
        except BaseException as error:  # noqa: BLE001 - raised again where the program is wanted
            future.set_exception(error)


def _compile_aside(task: bytes) -> None:
    try:
        subprocess.run([sys.executable, "-c", CHILD], input=task, capture_output=True, check=True)  # noqa: S603 - our own
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("program_not_compiled_aside", reason=type(error).__name__)


def compile_from_input() -> None:
    """Compile the program for a pickled record into a folder; the input is this process's own, from `LateShape`."""
    record, folder = pickle.load(sys.stdin.buffer)  # noqa: S301 - see above
    Shape.of(record, CodeCache(folder))
