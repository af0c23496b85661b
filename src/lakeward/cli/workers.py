"""``lakeward run --workers N``: N processes of one pipeline on this machine, and somebody who looks after them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from lakeward.cli.membership import Group, here, take
from lakeward.clock import Clock

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

HOPELESS = frozenset({2, 4})
"""Exit codes after which starting again cannot help: configuration, and what a person must decide."""
LOOK_S = 0.1
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
HEALTHY_S = 60.0
"""A worker that ran so long is started again without a wait."""


@dataclass(slots=True)
class Worker:
    """One child. ``wait_s``: before it is started again; ``at``: monotonic seconds of the next start or the last."""

    name: str
    process: subprocess.Popen[bytes] | None
    at: float
    wait_s: float = FIRST_WAIT_S
    done: bool = False


class Supervisor:
    """Starts workers, starts them again when they die, and passes signals on.

    Each worker has a name of its own that stays over restarts: it is a static member of the consumer group, so one
    that was killed gets its partitions back at once instead of after the session timeout.
    """

    def __init__(self, command: Sequence[str], names: Sequence[str], clock: Clock) -> None:
        self._command = command
        self._clock = clock
        self._waking = threading.Event()
        self._signals: list[int] = []
        self._workers = [Worker(name, None, clock.monotonic()) for name in names]

    def run(self) -> int:
        """Look after the workers until all have ended by themselves, or were told to; return the exit code.

        0 where every worker ended well. A worker that ends with one of `HOPELESS` ends all, with its code.
        """
        code = 0
        while not all(worker.done for worker in self._workers):
            for worker in self._workers:
                ended = self._look(worker)
                if ended in HOPELESS or (self._signals and ended):
                    code = code or ended or 0
                    self.signal(signal.SIGTERM)
            self._clock.wait(self._waking, LOOK_S)
        return code

    def signal(self, number: int) -> None:
        """Pass a signal on to every worker; from then on none is started again."""
        self._signals.append(number)
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.send_signal(number)

    def _look(self, worker: Worker) -> int | None:
        """Start the worker if it is to run, or note how it ended; return its exit code where it just ended."""
        now = self._clock.monotonic()
        if worker.done:
            return None
        if worker.process is None:
            if self._signals:
                worker.done = True
            elif now >= worker.at:
                worker.process, worker.at = self._start(worker.name), now
            return None
        code = worker.process.poll()
        if code is None:
            return None
        worker.process = None
        if -code in self._signals:  # told to leave before it could listen: it held nothing
            code = 0
        worker.done = code == 0 or bool(self._signals) or code in HOPELESS
        if not worker.done:
            worker.wait_s = FIRST_WAIT_S if now - worker.at > HEALTHY_S else min(worker.wait_s * 2, LONGEST_WAIT_S)
            wait = 0.0 if code < 0 else worker.wait_s  # killed from outside: there is nothing to wait for
            worker.at = now + wait
            log.warning("worker ended; starting it again", worker=worker.name, code=code, wait_s=wait)
        return code

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*self._command, "--instance", name], start_new_session=True)  # noqa: S603 - ourselves
        log.info("worker started", worker=name, pid=process.pid)
        return process


def supervise(file: Path, group: Group, options: Sequence[str], count: int, clock: Clock) -> int:
    """Run ``count`` workers of ``file`` as members of ``group``; return the exit code."""
    place = here()
    taken = [take(group, place) for _ in range(count)]  # a second supervisor on this machine gets others
    host = socket.gethostname()
    names = [name.text if name else f"{group.id}-{host}-{number}" for number, name in enumerate(taken, 1)]
    if all(taken):
        options = [*options, "--supervisor", str(os.getpid())]
    supervisor = Supervisor([sys.executable, "-m", "lakeward", "run", str(file), *options], names, clock)
    with _passing_on(supervisor.signal):
        return supervisor.run()


@contextmanager
def _passing_on(handle: Callable[[int], None]) -> Iterator[None]:
    """The first SIGTERM or SIGINT drains every worker; a second one ends them at once."""
    seen: list[int] = []

    def take(number: int, _frame: Any) -> None:
        seen.append(number)
        handle(signal.SIGTERM)
        if len(seen) > 2:
            os._exit(128 + number)

    before = {number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
