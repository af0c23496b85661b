"""Who looks after several workers: starts, restarts, signals, exit codes. The workers are small scripts."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lakeward.cli.workers import Supervisor
from lakeward.clock import SystemClock

PATIENT = """
import pathlib, signal, sys, time
name, folder = sys.argv[-1], pathlib.Path(sys.argv[1])
starts = folder / (name + ".starts")
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
signal.signal(signal.SIGTERM, lambda *_: ((folder / (name + ".drained")).touch(), sys.exit(0)))
(folder / (name + f".ready{len(starts.read_text())}")).touch()
while True: time.sleep(0.05)
"""


def started(script: str, folder: Path, *names: str) -> tuple[Supervisor, threading.Thread, list[int]]:
    supervisor = Supervisor([sys.executable, "-c", script, str(folder)], names, SystemClock())
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run()), daemon=True)
    thread.start()
    return supervisor, thread, codes


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_workers_that_end_well_are_not_started_again(tmp_path: Path) -> None:
    _, thread, codes = started("import sys; sys.exit(0)", tmp_path, "a", "b")
    thread.join(30)
    assert codes == [0]


def test_a_killed_worker_is_started_again_under_its_own_name_and_a_signal_drains_all(tmp_path: Path) -> None:
    supervisor, thread, codes = started(PATIENT, tmp_path, "a", "b")
    until(lambda: (tmp_path / "a.ready1").exists() and (tmp_path / "b.ready1").exists())
    process = supervisor._workers[0].process
    assert process is not None
    process.kill()
    until((tmp_path / "a.ready2").exists)
    supervisor.signal(signal.SIGTERM)
    thread.join(30)
    assert codes == [0]
    assert (tmp_path / "a.starts").read_text() == "xx"
    assert (tmp_path / "b.starts").read_text() == "x"
    assert (tmp_path / "a.drained").exists()
    assert (tmp_path / "b.drained").exists()


def test_a_worker_that_is_told_to_leave_before_it_listens_has_ended_well(tmp_path: Path) -> None:
    script = "import pathlib, sys, time; (pathlib.Path(sys.argv[1]) / 'up').touch(); time.sleep(60)"
    supervisor, thread, codes = started(script, tmp_path, "a")
    until((tmp_path / "up").exists)
    supervisor.signal(signal.SIGTERM)
    thread.join(30)
    assert codes == [0]


def test_a_worker_that_needs_a_person_ends_all_with_its_code(tmp_path: Path) -> None:
    script = "import sys\nif sys.argv[-1] == 'a': sys.exit(4)\n" + PATIENT
    _, thread, codes = started(script, tmp_path, "a", "b")
    thread.join(30)
    assert codes == [4]
