"""The benchmark runs, so that it cannot rot; its figures are nobody's business here."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.__main__ import measure
from benchmarks.poison import RATES, figures
from benchmarks.report import compare, document, medians, save
from servers.kafka import Kafka


def test_both_writers_write_every_message_and_the_result_can_be_kept_and_compared(kafka: Kafka, tmp_path: Path) -> None:
    assert kafka.running  # skips where it is not installed; the benchmark starts one of its own
    runs = measure(tmp_path, 3000, ["avro", "json"], 1)
    assert [(run.writer, run.encoding, run.rows) for run in runs] == [
        ("lakeward", "avro", 3000),
        ("baseline", "avro", 3000),
        ("lakeward", "json", 3000),
        ("baseline", "json", 3000),
    ]
    assert set(medians(runs)) == {"lakeward avro", "baseline avro", "lakeward json", "baseline json"}
    result = document(runs, 3000)
    assert save(result, tmp_path / "r.json").exists()
    assert any("lakeward avro" in line and "+0.0%" in line for line in compare(result, result))


@pytest.mark.parametrize("kind", ["avro", "json"])
def test_bad_messages_are_rejected_and_no_others(kind: str) -> None:
    assert list(figures(kind, 2000, repeat=1)) == [f"{rate:g}" for rate in RATES]
