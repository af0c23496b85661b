"""Long programs are compiled aside, and what is read meanwhile is the same."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from lakeward.decoding import avro_ready
from lakeward.decoding.avro_ready import LateShape, Ready, made_ready
from lakeward.decoding.avro_schema import parse
from lakeward.decoding.avro_shape import Shape
from lakeward.decoding.code_cache import CodeCache
from lakeward.records import Blobs, DecodedPart, Reject

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "op", "type": "string"},
        {
            "name": "after",
            "type": ["null", {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}]}],
        },
    ],
}
RECORD = parse(json.dumps(SCHEMA), "a test", ())
ID, OTHER_ID = 7, 8


def message(number: int) -> bytes | None:
    """Most are rows; others are damaged, of another schema, or null."""
    stream = io.BytesIO(b"\0" + (OTHER_ID if number % 11 == 5 else ID).to_bytes(4, "big"))
    stream.seek(5)
    after = None if number % 3 else {"id": number}
    fastavro.schemaless_writer(stream, SCHEMA, {"op": f"ü{number}", "after": after})
    written = stream.getvalue()
    return None if number % 13 == 7 else written[:-1] if number % 7 == 3 else written


VALUES = Blobs.of([message(number) for number in range(60)])


def read(shape: Ready, index: Any = None) -> tuple[list[Any], pa.Table, list[Reject], list[int]]:
    parts: list[DecodedPart] = []
    rejects: list[Reject] = []
    others = shape.decode(VALUES, index, ID, parts, rejects)
    [part] = parts
    part.rows.validate(full=True)
    return [part.schema_id, part.index.tolist()], part.rows.combine_chunks(), rejects, others.tolist()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few lines are a long program, and few records many."""
    monkeypatch.setattr(avro_ready, "LONG", 0)
    monkeypatch.setattr(avro_ready, "MANY", 20)
    monkeypatch.setattr(avro_ready, "PIECE", 9)


@pytest.mark.parametrize("index", [None, np.arange(1, 60, 2)], ids=["all", "some"])
def test_messages_are_read_the_same_before_while_and_after_a_program_is_compiled(index: Any, tmp_path: Path) -> None:
    wanted = read(Shape.of(RECORD, CodeCache(None)), index)
    assert wanted[2]
    assert wanted[3]
    late = made_ready(RECORD, CodeCache(tmp_path))
    assert isinstance(late, LateShape)
    with avro_ready._one_at_a_time:  # another program is being compiled
        for _ in range(3):
            assert read(late, index) == wanted
        assert late._making is not None
        assert not late._making.done()
    assert isinstance(late._making.result(120), Shape)
    assert read(late, index) == wanted
    assert isinstance(made_ready(RECORD, CodeCache(tmp_path)), Shape)  # it is kept


def test_few_messages_are_not_worth_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avro_ready, "MANY", 1000)
    late = made_ready(RECORD, CodeCache(tmp_path))
    assert isinstance(late, LateShape)
    read(late)
    assert late._making is None


@pytest.mark.parametrize("executable", [sys.executable, "/nowhere/python"], ids=["it fails", "it does not start"])
def test_what_another_process_cannot_compile_is_compiled_in_this_one(
    executable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(avro_ready, "CHILD", "raise SystemExit(3)")
    monkeypatch.setattr(sys, "executable", executable)
    late = made_ready(RECORD, CodeCache(tmp_path))
    assert isinstance(late, LateShape)
    read(late)
    read(late)
    assert late._making is not None
    late._making.result(120)
    assert read(late) == read(Shape.of(RECORD, CodeCache(None)))


def test_short_programs_and_those_that_cannot_be_kept_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(made_ready(RECORD, CodeCache(None)), Shape)
    monkeypatch.setattr(avro_ready, "LONG", 250)
    assert isinstance(made_ready(RECORD, CodeCache(tmp_path)), Shape)
