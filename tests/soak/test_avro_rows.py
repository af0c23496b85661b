"""A million rows of random schemas, decoded by compiled programs and compared value by value with fastavro."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.property.avro_topics import by_reference, compiled_shape, damaged, expected, rows_of, run, told, topics

from lakeward.decoding.avro_reference import AvroReading
from lakeward.decoding.avro_shape import Shape

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

SCHEMAS, ROWS = 125, 8_000
SLOW_ROWS = 1_000
"""Of schemas that are read record by record."""
LONG = settings(
    max_examples=SCHEMAS,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a failing example is told as it was found: making it smaller would take hours
    suppress_health_check=list(HealthCheck),
)


class Tally:
    """How many rows have been compared."""

    def __init__(self) -> None:
        self.rows = 0
        self.rejects = 0


def compare(schema: Any, seed: int, tally: Tally) -> None:
    """Rows of one schema, one in ten damaged: each is what fastavro makes of it, or a reject for the same reason."""
    registered, record = told(schema)
    rng, shape, reading = random.Random(seed), compiled_shape(record), AvroReading(registered, record)
    left = ROWS if isinstance(shape, Shape) else SLOW_ROWS
    while left:
        count = min(left, 500)
        left -= count
        rows = rows_of(record, rng.randrange(2**32), count)
        good = [rng.random() > 0.1 for _ in rows]
        messages = [payload if ok else damaged(rng, payload) for ok, (_, payload) in zip(good, rows, strict=True)]
        got = run(shape, messages)
        assert len(got.rows) + len(got.rejects) == count
        for i, message in enumerate(messages):
            verdict = got.rows[i] if i in got.rows else (got.rejects[i].code, got.rejects[i].reason)
            assert verdict == by_reference(reading, record, message), message.hex()
            assert not good[i] or verdict == expected(record, rows[i][0])
        tally.rows += len(got.rows)
        tally.rejects += len(got.rejects)


def test_a_million_rows_read_as_fastavro_reads_them() -> None:
    tally = Tally()

    @LONG
    @given(topics(recursion=False), st.integers(0, 2**32))
    def compiled(schema: Any, seed: int) -> None:
        compare(schema, seed, tally)

    @settings(LONG, max_examples=SCHEMAS)
    @given(topics(), st.integers(0, 2**32))
    def any_schema(schema: Any, seed: int) -> None:
        compare(schema, seed, tally)

    compiled()
    while tally.rows < 1_000_000:
        any_schema()
    assert tally.rejects > 10_000
