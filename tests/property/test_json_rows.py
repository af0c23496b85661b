"""Random declarations, records and damage: the decoder says what Python's json and the written rules say."""

from __future__ import annotations

import random

import pytest
from tests.property.json_topics import POISON, compare, damaged, declaration, record

from lakeward.decoding.json_fields import arrow_schema, declared


@pytest.mark.parametrize("seed", range(20))
def test_random_records_and_their_damage_are_read_as_python_reads_them(seed: int) -> None:
    rng = random.Random(seed)
    types = declaration(rng)
    schema = arrow_schema(declared(types))
    payloads = [record(rng, schema, types) for _ in range(300)]
    payloads = [damaged(rng, payload) if rng.random() < 0.2 else payload for payload in payloads]
    rows, rejects = compare(types, payloads)
    assert rows > 30
    assert rejects > 10


@pytest.mark.parametrize("kind", ["long", "double", "float", "decimal(38,9)", "string", "json", "list<long>"])
def test_poison_of_every_kind_beside_good_records_is_judged_as_python_judges_it(kind: str) -> None:
    good = b'{"a":null}'
    payloads = [one for poison in POISON for one in (good, poison)] + [good]
    rows, rejects = compare({"a": kind}, payloads)
    assert rows >= len(POISON) + 1
    assert rejects > len(POISON) // 2
