"""What the libraries of a running pipeline's process take beyond what the pipeline holds: memory, and threads."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from lakeward.clock import Clock
from lakeward.observability.progress import Progress

ALLOCATOR = "ARROW_DEFAULT_MEMORY_POOL"
ALGEBRA_THREADS = "OPENBLAS_NUM_THREADS"
EVERY_S = 60.0
"""Seconds between two looks at what can be given back."""

_MAPS = Path("/proc/self/maps")
_COMPILER = "libllvmlite"
_DONTNEED = 4


def prepare_libraries() -> None:
    """Let Arrow allocate as everything else does, and NumPy's linear algebra, which nobody here uses, start no threads.

    Arrow's own allocator keeps some 25 MiB more of what is given back; the threads spin while they wait for work. To be
    called before Arrow and NumPy are imported. What the environment says stays.
    """
    os.environ.setdefault(ALLOCATOR, "system")
    os.environ.setdefault(ALGEBRA_THREADS, "1")


class Footprint:
    """Gives back, now and then, the pages of the compiler: 50 MiB of code that only starting and new schemas need."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = 0.0
        self._taken = False

    def observe(self, progress: Progress) -> None:
        """Look after the start, after the first messages, which decoders are loaded for, and from time to time."""
        now, taken = self._clock.monotonic(), progress.taken > 0
        if now >= self._next or taken != self._taken:
            self._next, self._taken = now + EVERY_S, taken
            release_compiler()


def release_compiler() -> None:
    """Let go of the pages of LLVM's code; they come back from the file, unchanged, when it runs again. Linux only."""
    if not sys.platform.startswith("linux") or "llvmlite" not in sys.modules:
        return
    advise = ctypes.CDLL(None).madvise
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        where, rights, *_ = line.split(maxsplit=2)
        # Code alone: what the loader has written into other pages is not in the file.
        if _COMPILER in line and rights == "r-xp":
            start, end = (int(address, 16) for address in where.split("-"))
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)
