"""Values of every type are compared exactly, and rewriting files is not mistaken for changing rows."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from tests.others import rewrite
from tests.unit.test_verification import Stream, filled, found, passes

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.registry import EmbeddedRegistry
from lakeward.verification import source

LEG = {"type": "record", "name": "Leg", "fields": [{"name": "due", "type": "int"}, {"name": "to", "type": "string"}]}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Everything",
    "fields": [
        {"name": "flag", "type": "boolean"},
        {"name": "int", "type": "int"},
        {"name": "long", "type": ["null", "long"]},
        {"name": "float", "type": "float"},
        {"name": "double", "type": "double"},
        {"name": "Text", "type": "string"},
        {"name": "text_2", "type": "string"},
        {"name": "bytes", "type": "bytes"},
        {"name": "fixed", "type": {"type": "fixed", "name": "F", "size": 3}},
        {"name": "enum", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 10}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "clock", "type": {"type": "long", "logicalType": "time-micros"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
        {"name": "uuid", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "legs", "type": {"type": "array", "items": LEG}},
        {"name": "first", "type": ["null", "Leg"]},
    ],
}
ROW: dict[str, Any] = {
    "flag": True,
    "int": -(2**31),
    "long": 2**63 - 1,
    "float": 0.10000000149011612,
    "double": math.nan,
    "Text": "a\0b",
    "text_2": "",
    "bytes": b"\x00\xff",
    "fixed": b"abc",
    "enum": "B",
    "price": Decimal("-1234567890123456789012345678.0000000001"),
    "day": date(1969, 12, 31),
    "clock": time(23, 59, 59, 999999),
    "at": datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=UTC),
    "local": datetime(1900, 1, 2, 12, 0, 0, 123000),  # noqa: DTZ001 - local it is
    "uuid": "12345678-1234-5678-1234-56781234567A",
    "legs": [{"due": 1, "to": "x"}, {"due": 2, "to": "y"}],
    "first": {"due": 3, "to": "z"},
}
OTHERS: dict[str, Any] = {
    "flag": False,
    "int": 0,
    "long": None,
    "float": -0.0,
    "double": -0.0,
    "Text": "a",
    "text_2": " ",
    "bytes": b"",
    "fixed": b"\0\0\0",
    "enum": "A",
    "price": Decimal("-1234567890123456789012345678.0000000002"),
    "day": date(1, 1, 1),
    "clock": time(0),
    "at": datetime(2026, 1, 2, 12, 0, 0, 123457, tzinfo=UTC),
    "local": datetime(1900, 1, 2, 12, 0, 0, 124000),  # noqa: DTZ001
    "uuid": "12345678-1234-5678-1234-56781234567a",
    "legs": [{"due": 1, "to": "x"}, {"due": 2, "to": "Y"}],
    "first": {"due": 4, "to": "z"},
}


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({"orders": 2}) as running:
        yield running


@pytest.fixture
def everything(tmp_path: Path, broker: EmbeddedBroker) -> Iterator[Stream]:
    """Rows of all types: one, its like again, and one more for each column that differs."""
    with EmbeddedRegistry() as registry:
        stream = Stream(tmp_path, broker)
        stream.config |= {"decode": "avro", "schema_registry": {"url": registry.url}}
        number = registry.register("orders-value", json.dumps(SCHEMA))
        parsed = fastavro.parse_schema(SCHEMA)
        payloads: list[bytes | None] = []
        for row in (ROW, ROW, *({**ROW, name: value} for name, value in OTHERS.items())):
            written = io.BytesIO()
            fastavro.schemaless_writer(written, parsed, row)
            payloads.append(b"\0" + number.to_bytes(4, "big") + written.getvalue())
        stream.send_raw(payloads)
        stream.run()
        yield stream


@pytest.mark.parametrize("native", [False, True])
def test_all_types_are_compared(everything: Stream, monkeypatch: pytest.MonkeyPatch, *, native: bool) -> None:
    monkeypatch.setattr(source, "REFERENCE_MOST", 0 if native else 1000)
    verdict = everything.verify()
    assert passes(verdict)
    assert verdict.figures["source"]["decoder"] == ("the pipeline's own decoder" if native else "fastavro")
    assert found(verdict) == {"compared": 2 + len(OTHERS), "missing": 0, "extra": 0, "changed": 0}


def test_a_change_in_any_column_is_found(everything: Stream) -> None:
    table = everything.table()
    rows = table.scan().to_arrow()
    plain = next(i for i, row in enumerate(rows.to_pylist()) if all(row[name] != OTHERS[name] for name in OTHERS))
    table.overwrite(pa.concat_tables([rows.slice(plain, 1)] * len(rows)))  # what differed in one column is as ROW now
    assert found(everything.verify()) == {"compared": len(rows), "missing": 0, "extra": 0, "changed": len(OTHERS)}


def test_compaction_by_another_program_changes_nothing(tmp_path: Path, broker: EmbeddedBroker) -> None:
    stream = filled(Stream(tmp_path, broker))
    table = stream.table()
    rewrite(table, table.scan().to_arrow())
    verdict = stream.verify()
    assert passes(verdict)
    assert dict(verdict.lines)["foreign"] == "1 replace (another program), rows unchanged"
    assert verdict.figures["files"]["data"] == 1
    assert found(verdict) == {"compared": 100, "missing": 0, "extra": 0, "changed": 0}


def test_a_compaction_that_loses_a_row_is_wrong_without_the_source_too(tmp_path: Path, broker: EmbeddedBroker) -> None:
    stream = filled(Stream(tmp_path, broker))
    table = stream.table()
    rewrite(table, table.scan().to_arrow().slice(1))
    verdict = stream.verify(against_source=False)
    assert any("changed the table by -1 rows; it should only rewrite them" in problem for problem in verdict.problems)
