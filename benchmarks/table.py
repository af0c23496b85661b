"""The table of goals: each figure beside what it should reach, from a saved result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import ON_S3


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure. ``key`` is its name in a result's ``figures``; ``most``: a bound from above, else from below."""

    key: str
    words: str
    bound: float
    most: bool = False
    unit: str = ""

    def met(self, value: float) -> bool:
        """Whether ``value`` is within the bound."""
        return value <= self.bound if self.most else value >= self.bound

    def text(self, value: float) -> str:
        """``value`` for people."""
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:,.{digits}f}{self.unit}"


GOALS = (
    Goal("avro rows/CPU-s", "Avro, rows per CPU-second", 1_000_000),
    Goal("json rows/CPU-s", "JSON with declared fields, rows per CPU-second", 700_000),
    Goal("avro rows/s", "one process, wall clock, Avro, rows/s", 900_000),
    Goal("avro rows/CPU-s s3", "Avro to a REST catalog and S3, rows per CPU-second", 1_000_000),
    Goal("json rows/CPU-s s3", "JSON to a REST catalog and S3, rows per CPU-second", 700_000),
    Goal("avro rows/s s3", "one process, wall clock, Avro to a REST catalog and S3, rows/s", 900_000),
    Goal("avro by baseline", "against the plain baseline, Avro", 14, unit="x"),
    Goal("json by baseline", "against the plain baseline, JSON", 6, unit="x"),
    Goal("avro by connect", "against the Iceberg Kafka Connect sink, Avro, per CPU-second", 10, unit="x"),
    Goal("json by connect", "against the Iceberg Kafka Connect sink, JSON, per CPU-second", 9, unit="x"),
    Goal("peak MiB", "peak memory at full speed, Avro", 768, most=True, unit=" MiB"),
    Goal("peak MiB json", "peak memory at full speed, JSON", 768, most=True, unit=" MiB"),
    Goal("steady MiB", "peak memory at 1,000 rows/s", 250, most=True, unit=" MiB"),
    Goal("fresh p50 ms", "produced to visible, 5,000 rows/s, 250 ms flushes, p50", 400, most=True, unit=" ms"),
    Goal("fresh p99 ms", "the same, p99, from the first record on", 1000, most=True, unit=" ms"),
    Goal("late by early disk", "commit time at the last commits against the tenth, SQLite and disk", 1.5, True, "x"),
    Goal("late by early s3", "the same, REST catalog and S3", 1.5, True, "x"),
    Goal("DuckDB aged by big", "reading the aged table against one in big files, DuckDB", 1.5, True, "x"),
    Goal("PyIceberg aged by big", "the same, PyIceberg", 1.5, True, "x"),
    Goal("polars aged by big", "the same, polars", 1.5, True, "x"),
    Goal("start s", "`lakeward run` to its first message", 1.5, True, " s"),
    Goal("help s", "`lakeward --help`", 0.3, True, " s"),
)


_WARM = "rows_per_cpu_second_streaming"
"""Factors are of writers that are up: what starting takes is told beside."""


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """What ``result`` holds of the goals' figures; a part that was not measured has none."""
    return dict(_figures(result))


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for encoding in ("avro", "json"):
        yield from _throughput(result, encoding)
    if "steady" in result:
        yield "steady MiB", result["steady"]["peak_mib"]
    if "freshness" in result:
        yield "fresh p50 ms", result["freshness"]["p50_ms"]
        yield "fresh p99 ms", result["freshness"]["p99_ms"]
    for aged in result.get("ageing", ()):
        yield f"late by early {aged['store']}", aged["late_ms"] / aged["early_ms"]
        if aged["store"] == "disk":
            for reader, (small, big) in aged["readers"].items():
                yield f"{reader} aged by big", small / big
    if "starting" in result:
        yield "start s", result["starting"]["first_message_s"]
        yield "help s", result["starting"]["help_s"]


def _throughput(result: Mapping[str, Any], encoding: str) -> Iterator[tuple[str, float]]:
    medians = result.get("medians", {})
    stored = medians.get(f"{ON_S3} {encoding}")
    if stored is not None:
        yield f"{encoding} rows/CPU-s s3", stored["rows_per_cpu_second"]
        yield f"{encoding} rows/CPU-s s3 warm", stored[_WARM]
        yield f"{encoding} rows/s s3", stored["rows_per_second"]
        yield f"peak MiB s3 {encoding}", stored["peak_mib"]
    ours, plain = medians.get(f"lakeward {encoding}"), medians.get(f"baseline {encoding}")
    if ours is None:
        return
    yield f"{encoding} rows/CPU-s", ours["rows_per_cpu_second"]
    yield f"{encoding} rows/CPU-s warm", ours[_WARM]
    yield f"{encoding} rows/s", ours["rows_per_second"]
    yield "peak MiB" if encoding == "avro" else "peak MiB json", ours["peak_mib"]
    if plain is not None:
        yield f"{encoding} by baseline", ours[_WARM] / plain[_WARM]
    for peer in result.get("peers", ()):
        if peer["encoding"] == encoding:
            yield f"{encoding} by connect", ours[_WARM] / peer["per_cpu_second"]


def lines(found: Mapping[str, float]) -> Iterator[tuple[str, str, str, str]]:
    """For each goal: in words, what to reach, what was measured, and whether that is enough."""
    for goal in GOALS:
        bound = f"{'<=' if goal.most else '>='} {goal.text(goal.bound)}"
        value = found.get(goal.key)
        if value is None:
            yield goal.words, bound, "not measured", ""
        else:
            yield goal.words, bound, goal.text(value), "reached" if goal.met(value) else "missed"
