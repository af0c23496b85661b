"""The benchmark runs, so that it cannot rot; its figures are nobody's business here."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.parts import QUICK, measure
from benchmarks.poison import RATES, figures
from benchmarks.report import compare, save
from benchmarks.table import GOALS, lines
from servers.kafka import Kafka


@pytest.mark.soak
def test_every_part_is_measured_and_the_result_can_be_kept_shown_and_compared(kafka: Kafka, tmp_path: Path) -> None:
    assert kafka.running  # skips where it is not installed; the benchmark starts one of its own
    kept: list[set[str]] = []
    parts = ["throughput", "throughput-s3", "starting", "steady", "freshness", "ageing", "ageing-s3"]
    result = measure(tmp_path, QUICK, parts, lambda known: kept.append(set(known)))
    assert [(run["writer"], run["encoding"], run["rows"]) for run in result["runs"]] == [
        ("lakeward", "avro", 3000),
        ("baseline", "avro", 3000),
        ("lakeward", "json", 3000),
        ("baseline", "json", 3000),
        ("lakeward s3", "avro", 3000),
        ("lakeward s3", "json", 3000),
    ]
    assert "runs" in kept[0], "what was measured is kept before the next part begins"
    assert "ageing" not in kept[0]
    assert result["freshness"]["records"] > 0
    told = {words: measured for words, _, measured, _ in lines(result["figures"])}
    beyond = {goal.words for goal in GOALS if goal.key.endswith("connect")}
    assert {words for words, measured in told.items() if measured == "not measured"} == beyond
    assert save(result, tmp_path / "r.json").exists()
    assert any("avro rows/s" in line and "+0.0%" in line for line in compare(result, result))


@pytest.mark.parametrize("kind", ["avro", "json"])
def test_bad_messages_are_rejected_and_no_others(kind: str) -> None:
    assert list(figures(kind, 2000, repeat=1)) == [f"{rate:g}" for rate in RATES]
