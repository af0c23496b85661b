"""A million rows of random declarations and records, some damaged, compared value by value with Python's json."""

from __future__ import annotations

import random

import pytest
from tests.property.json_topics import compare, damaged, declaration, record

from lakeward.decoding.json_fields import arrow_schema, declared

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

ROWS = 1_000_000
RECORDS = 4_000


def test_a_million_rows_read_as_python_reads_them() -> None:
    rng = random.Random(20260101)
    rows, rejects = 0, 0
    while rows < ROWS:
        types = declaration(rng)
        schema = arrow_schema(declared(types))
        payloads = [record(rng, schema, types) for _ in range(RECORDS)]
        payloads = [damaged(rng, payload) if rng.random() < 0.1 else payload for payload in payloads]
        good, bad = compare(types, payloads)
        rows += good
        rejects += bad
    assert rejects > ROWS // 100
