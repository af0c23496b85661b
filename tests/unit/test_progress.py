"""Progress as numbers, and as a person sees it."""

from __future__ import annotations

import io

from rich.console import Console

from lakeward.cli.running import render
from lakeward.observability.progress import Meter, Progress, TableProgress, percentiles


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert percentiles([]) is None
    assert percentiles([5]) == (5, 5)
    assert percentiles(list(range(1, 101))) == (50, 100)


def test_a_rate_is_over_the_last_seconds_and_not_over_all_time() -> None:
    meter = Meter()
    assert meter.rate(0.0, 0) == 0.0
    for second in range(1, 11):
        rate = meter.rate(float(second), second * 100)
    assert rate == 100.0
    for second in range(11, 16):
        rate = meter.rate(float(second), 1000)
    assert rate == 0.0


def test_the_display_shows_each_table_with_rows_lag_and_last_commit() -> None:
    table = TableProgress("market_data.trades", 5_000_000, 1000, 3, 12, 8123, 1_000_000, 0)
    out = io.StringIO()
    Console(file=out, width=120).print(
        render("market-data", Progress("RUNNING", 10, 1234.5, (300, 800), [table]), 1_000_600)
    )
    first, second, third = (line.rstrip() for line in out.getvalue().splitlines())
    assert first == "market-data  RUNNING  1,234 rows/s  freshness p50 0.3 s  p99 0.8 s"
    assert second.split() == ["TABLE", "ROWS", "LAG", "LAST", "COMMIT"]
    assert third.split() == ["market_data.trades", "5,000,000", "12", "0.6", "s", "ago", "snapshot", "8123"]


def test_dead_letters_have_a_column_when_there_are_any() -> None:
    tables = [TableProgress("a.b", 10, 1, 1, 0, 1, 1_000, 0, letters=3), TableProgress("a.c", 20, 1, 1, 0, 2, 1_000, 0)]
    out = io.StringIO()
    Console(file=out, width=120).print(render("p", Progress("RUNNING", 10, 1.0, None, tables), 1_000))
    _, heads, *rows = (line.split() for line in out.getvalue().splitlines())
    assert heads == ["TABLE", "ROWS", "LAG", "DEAD", "LAST", "COMMIT"]
    assert [row[:4] for row in rows] == [["a.b", "10", "0", "3"], ["a.c", "20", "0", "0"]]
