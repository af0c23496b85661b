"""Results for people and for later comparison."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measuring import Run
from lakeward.cli.output import print_table

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("lakeward", "confluent-kafka", "pyarrow", "pyiceberg", "numba", "numpy", "fastavro", "orjson")
FIGURES = ("rows_per_second", "rows_per_cpu_second", "rows_per_cpu_second_streaming", "peak_mib")


def origin() -> dict[str, Any]:
    """When, where and of which version something was measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": _machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def medians(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """For each writer and encoding: rows a second, rows a CPU-second, peak memory, and their spread."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(f"{run.writer} {run.encoding}" for run in runs):
        same = [run for run in runs if f"{run.writer} {run.encoding}" == name]
        found[name] = {
            "rows_per_second": statistics.median(run.per_second for run in same),
            "rows_per_cpu_second": statistics.median(run.per_cpu_second for run in same),
            "rows_per_cpu_second_streaming": statistics.median(run.per_cpu_second_streaming for run in same),
            "startup_cpu_s": statistics.median(run.startup_cpu_s for run in same),
            "lowest_rows_per_cpu_second": min(run.per_cpu_second for run in same),
            "highest_rows_per_cpu_second": max(run.per_cpu_second for run in same),
            "peak_mib": max(run.peak_mib for run in same),
        }
    return found


def print_runs(runs: Sequence[Run]) -> None:
    """The table, each encoding with its factor over the baseline."""
    found = medians(runs)
    rows = []
    for name, figures in found.items():
        beside = found.get(f"baseline {name.split()[-1]}", figures)
        factors = [f"{figures[key] / beside[key]:.1f}x" for key in FIGURES[:3]]
        numbers = [f"{figures[key]:,.0f}" for key in FIGURES]
        pairs = [cell for pair in zip(numbers, [*factors, ""], strict=True) for cell in pair]
        rows.append((name, *pairs[:-1]))
    print_table(("WRITER", "ROWS/S", "", "ROWS/CPU-S", "", "WITHOUT START-UP", "", "PEAK MIB"), rows)


def save(result: dict[str, Any], place: Path | None) -> Path:
    """Write ``result``; return where."""
    stamp = result["at"].replace(":", "").replace("+0000", "Z")
    path = place or FOLDER / f"{stamp}-{result['commit']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def compare(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """One line a figure that both have: before, after, and the change."""
    yield f"{before['commit']} -> {after['commit']}"
    for name, value in after["figures"].items():
        was = before["figures"].get(name)
        if was:
            yield f"{name:<26} {was:>14,.2f} {value:>14,.2f} {value / was - 1:>+8.1%}"


def _commit() -> str:
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return told.stdout.strip() or "unknown"


def _machine() -> dict[str, Any]:
    model = "unknown"
    about = Path("/proc/cpuinfo")
    if about.exists():
        model = next(
            (x.partition(":")[2].strip() for x in about.read_text().splitlines() if x.startswith("model name")), model
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "memory_gib": round(memory, 1),
        "cpu": model,
        "system": platform.platform(),
    }
