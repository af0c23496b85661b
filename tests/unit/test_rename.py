"""A pipeline that gets another name: refused, then adopted, against a real Iceberg table (PROTOCOL F4)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lakeward.batching import FlushPolicy
from lakeward.clock import SystemClock
from lakeward.errors import LedgerError
from lakeward.lanes import Lane, LaneSettings
from lakeward.pipeline import Pipeline, PipelineSettings, Until
from lakeward.testing.lake import Lake
from lakeward.testing.memory import MemorySource, TextDecoder


def run(lake: Lake, source: MemorySource, name: str, adopt: str | None = None) -> None:
    lane = Lane(lake.target(name, clock=SystemClock()), TextDecoder(), LaneSettings(FlushPolicy(3600, 7, 1 << 30)))
    settings = PipelineSettings(name, ("t",), adopt=adopt)
    Pipeline(settings, source, lambda topic: [lane], SystemClock(), random.Random()).run(Until(caught_up=True))


def test_a_renamed_pipeline_is_refused_until_it_adopts_its_old_positions_and_then_goes_on_exactly(
    tmp_path: Path,
) -> None:
    source = MemorySource()
    source.append("t", 0, [b"a%d" % i for i in range(20)])
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/c.db", "warehouse": f"{tmp_path}/w"}) as lake:
        run(lake, source, "old")
        source.append("t", 0, [b"b%d" % i for i in range(5)])
        with pytest.raises(LedgerError, match="lakeward run --adopt old"):
            run(lake, source, "new")
        run(lake, source, "new", adopt="old")
        run(lake, source, "new")
        assert sorted(lake.rows().elements()) == sorted(
            [(f"a{i}",) for i in range(20)] + [(f"b{i}",) for i in range(5)]
        )
        assert lake.breaks("new") == []
        assert lake.breaks("old") == []
