"""Cooperative threads: exactly one runs at a time, and a seed decides which one is next.

A strand gives way only where it asks to (`Strands.sleep`), so that a history is the same each time it is played. Time
is simulated: it goes on when every strand sleeps.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


class Killed(BaseException):
    """The process dies here, or the history has ended: nothing of ours catches it."""


@dataclass(slots=True, eq=False)
class Process:
    """What dies together: a worker, its committing threads, and all that they remember.

    ``calls_left``: so many calls to the outside it survives. ``skew_ms``: how wrong its clock is.
    """

    name: str
    calls_left: int = 1 << 60
    skew_ms: int = 0
    dead: bool = False
    failed: BaseException | None = None


@dataclass(slots=True, eq=False)
class Strand:
    """One line of execution. ``process`` is None for what is not part of any worker."""

    process: Process | None
    thread: _Thread
    wake: float


class _Thread:
    """A thread that is used for one strand after the other: making one costs more than a switch."""

    idle: list[_Thread] = []  # noqa: RUF012 -- shared on purpose

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.job: Callable[[], Callable[[], None]] | None = None
        threading.Thread(target=self._serve, name="strand", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self.go.acquire()
            assert self.job is not None
            after = self.job()
            self.job = None
            _Thread.idle.append(self)
            after()


@dataclass(slots=True)
class Strands:
    """The scheduler. ``most`` bounds the simulated seconds of a history."""

    chance: random.Random
    most: float
    now: float = 0.0
    switches: int = 0
    current: Strand | None = None
    failure: BaseException | None = None
    _ident: int = 0
    _all: list[Strand] = field(default_factory=list)
    _main: threading.Lock = field(default_factory=threading.Lock)

    def run(self, first: Callable[[], None]) -> None:
        """Run ``first`` and all that it starts; return when the last has ended, raise what one of them raised."""
        self._main.acquire()
        self.start(None, first)
        self._next().thread.go.release()
        self._main.acquire()
        self.current = None
        if self.failure is not None:
            raise self.failure

    def start(self, process: Process | None, work: Callable[[], object]) -> Strand:
        """Start a strand; it runs when it is its turn."""
        thread = _Thread.idle.pop() if _Thread.idle else _Thread()
        strand = Strand(process, thread, self.now)

        def job() -> Callable[[], None]:
            self._ident = threading.get_ident()
            try:
                if self.failure is None:
                    work()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 -- told by `run`
                self.failure = self.failure or error
            self._all.remove(strand)
            return self._next().thread.go.release if self._all else self._main.release

        thread.job = job
        self._all.append(strand)
        return strand

    @property
    def inside(self) -> bool:
        """Whether the caller is a strand, and not a thread that a library has started."""
        return self.current is not None and threading.get_ident() == self._ident

    def sleep(self, seconds: float) -> None:
        """Let others go on; return after ``seconds``.

        Raises:
            Killed: the process has died meanwhile, or the history has failed.
        """
        me = self.current
        assert me is not None
        self._check(me)
        me.wake = self.now + seconds
        chosen = self._next()
        if chosen is not me:
            chosen.thread.go.release()
            me.thread.go.acquire()
            self._ident = threading.get_ident()
        self._check(me)

    def freeze(self, process: Process, seconds: float) -> None:
        """Nothing of ``process`` goes on for so long, as after SIGSTOP."""
        for strand in self._all:
            if strand.process is process:
                strand.wake = max(strand.wake, self.now + seconds)

    def hurry(self, process: Process) -> None:
        """Wake what sleeps of ``process``: it is dead, and unwinds."""
        for strand in self._all:
            if strand.process is process:
                strand.wake = self.now

    def _check(self, me: Strand) -> None:
        if self.failure is not None or (me.process is not None and me.process.dead):
            raise Killed

    def _next(self) -> Strand:
        if self.failure is not None:
            chosen = self._all[0]
        else:
            ready = [strand for strand in self._all if strand.wake <= self.now]
            if not ready:
                self.now = min(strand.wake for strand in self._all)
                ready = [strand for strand in self._all if strand.wake <= self.now]
                if self.now > self.most:
                    self.failure = AssertionError(f"the history does not end: {self.now:.0f} s")
            chosen = ready[0] if len(ready) == 1 else self.chance.choice(ready)
        self.switches += 1
        self.current = chosen
        return chosen
