"""What a running pipeline's process keeps in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import pytest
from numba import njit

from lakeward.cli.footprint import ALGEBRA_THREADS, ALLOCATOR, EVERY_S, Footprint, release_compiler
from lakeward.observability.progress import Progress
from lakeward.testing.lake import ManualClock

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there pages are given back")


def resident_code() -> int:
    """KiB of the compiler's code that are in memory."""
    resident, code = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            code = "libllvmlite" in line and " r-xp " in line
        elif code and line.startswith("Rss:"):
            resident += int(line.split()[1])
    return resident


def use_the_compiler() -> None:
    assert njit(lambda number: number + 1)(41) == 42


@LINUX
def test_the_compilers_code_is_given_back_and_works_on() -> None:
    assert llvmlite.binding is not None
    use_the_compiler()
    assert resident_code() > 5_000
    release_compiler()
    assert resident_code() < 1_000
    use_the_compiler()


@LINUX
def test_it_is_given_back_after_the_start_after_the_first_messages_and_every_minute() -> None:
    clock = ManualClock()
    footprint = Footprint(clock)
    given_back = []
    for taken, waits in ((0, 0.0), (0, 1.0), (5, 1.0), (6, 1.0), (7, EVERY_S)):
        clock.ms += round(waits * 1000)
        use_the_compiler()
        footprint.observe(Progress("RUNNING", taken, 0.0, None, []))
        given_back.append(resident_code() < 1_000)
    assert given_back == [True, False, True, False, True]


@pytest.mark.parametrize(("said", "used"), [(None, "system"), ("mimalloc", "mimalloc")])
def test_arrow_allocates_as_everything_else_unless_the_environment_says_otherwise(said, used) -> None:
    environment = {name: value for name, value in os.environ.items() if name != ALLOCATOR}
    program = (
        "from lakeward.cli.footprint import prepare_libraries; prepare_libraries();"
        "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | ({ALLOCATOR: said} if said else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == used


@LINUX
@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("2", 2)])
def test_numpy_starts_no_threads_unless_the_environment_asks_for_them(said, threads) -> None:
    environment = {name: value for name, value in os.environ.items() if name != ALGEBRA_THREADS}
    program = (
        "from lakeward.cli.footprint import prepare_libraries; prepare_libraries();"
        "import numpy, os; print(len(os.listdir('/proc/self/task')))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | ({ALGEBRA_THREADS: said} if said else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(told.stdout) == min(threads, os.cpu_count() or 1)


def test_arrow_and_numpy_are_imported_after_they_are_told() -> None:
    program = (
        "import sys, lakeward.cli.run, lakeward.cli.consume, lakeward.cli.running, lakeward.config;"
        "sys.exit(bool({'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_run_imports_nothing_that_only_others_need() -> None:
    program = (
        "import sys, lakeward.assembly;"
        "print(*{'duckdb', 'fsspec', 'fastavro', 'pandas', 'pyiceberg.catalog.rest', 'lakeward.decoding.debezium'}"
        " & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []
