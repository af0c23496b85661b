"""The loop on a real table whose columns change under it: every record is a row or a letter, exactly once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.admission import SchemaChanges
from lakeward.batching import FlushPolicy
from lakeward.clock import SystemClock
from lakeward.dead_letters.box import Letterbox
from lakeward.dead_letters.rows import Owner
from lakeward.lanes import Lane, LaneSettings
from lakeward.outcomes import CommitReceipt
from lakeward.pipeline import Pipeline, PipelineSettings, Until
from lakeward.positions import Partition
from lakeward.records import Decoded, DecodedPart, RawBatch
from lakeward.testing.faults import Plan, meanwhile
from lakeward.testing.lake import Lake, batch, commit
from lakeward.testing.memory import MemorySource

OURS, THEIRS = Partition("t", 0), Partition("t", 1)


class ByShape:
    """JSON objects; those with the same fields, of the same types, are a part."""

    def decode(self, raw: RawBatch) -> Decoded:
        groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for i in range(len(raw)):
            row = json.loads(raw.values.get(i) or b"")
            groups.setdefault(str({name: type(value) for name, value in row.items()}), []).append((i, row))
        parts = [
            DecodedPart(pa.Table.from_pylist([row for _, row in group]), np.array([i for i, _ in group]))
            for group in groups.values()
        ]
        return Decoded(parts, (), np.zeros(0, np.int64))

    def schema(self, topic: str) -> pa.Schema | None:
        del topic
        return None


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        opened.clock = SystemClock()  # type: ignore[assignment]
        yield opened


def run(lake: Lake, source: MemorySource, plan: Plan, policy: SchemaChanges = SchemaChanges.EVOLVE) -> Pipeline:
    """One worker, until it has caught up; letters go to a table of their own."""
    flush = FlushPolicy(3600, 1_000, 1 << 30)
    main = lake.target("t", plan=plan, schema_changes=policy)
    name, lake.name = lake.name, (*lake.name[:-1], "letters")
    letters, lake.name = lake.target("t"), name
    letterbox = Letterbox(letters, Owner("t", main.name), 1.0, SystemClock())
    lane = Lane(main, ByShape(), LaneSettings(flush, schema_changes=policy), letterbox)
    settings = PipelineSettings("t", ("t",))
    pipeline = Pipeline(settings, source, lambda _: [lane], SystemClock(), random.Random())  # ids, which must differ
    pipeline.run(Until(caught_up=True))
    return pipeline


def numbers(lake: Lake, table: str, column: str) -> list[Any]:
    rows = lake.catalog.load_table((*lake.name[:-1], table)).scan().to_arrow()
    rows = rows.filter(pa.compute.equal(rows["kind"], "letter")) if "kind" in rows.column_names else rows
    return sorted(rows.column(column).to_pylist())


@pytest.mark.parametrize("policy", [SchemaChanges.EVOLVE, SchemaChanges.DEAD_LETTER])
def test_what_a_rival_makes_of_the_table_decides_what_becomes_of_our_records(lake: Lake, policy: SchemaChanges) -> None:
    source, plan = MemorySource(step=4), Plan()
    source.append("t", 0, [json.dumps({"n": n}).encode() for n in range(3)])
    run(lake, source, plan)
    source.append("t", 0, [json.dumps({"n": n, **({"x": "text"} if n % 2 else {})}).encode() for n in range(3, 9)])

    def rival() -> None:
        """Another worker has a number in ``x``."""
        target = lake.target("t")
        rows = pa.table({"n": [100], "x": [1]})
        assert isinstance(commit(target, replace(batch(0, 1, partition=THEIRS), parts=[rows])), CommitReceipt)

    plan.next("commit_table", meanwhile(rival))
    lane = run(lake, source, plan, policy).lanes[0]
    assert numbers(lake, "orders", "n") == [0, 1, 2, 4, 6, 8, 100]
    assert numbers(lake, "letters", "offset") == [3, 5, 7]
    assert lane.tally.refusals == (1 if policy is SchemaChanges.EVOLVE else 0)
    assert lake.breaks("t") == []


def test_records_of_one_fetch_that_contradict_each_other_are_told_apart(lake: Lake) -> None:
    source = MemorySource(step=100)
    source.append("t", 0, [b'{"n": 0, "x": 1}', b'{"n": 1, "x": "text"}', b'{"n": 2, "y": 1}', b'{"n": 3, "x": 2}'])
    run(lake, source, Plan())
    assert numbers(lake, "orders", "n") == [0, 2, 3]
    assert numbers(lake, "letters", "code") == ["schema-incompatible"]
    assert lake.breaks("t") == []
