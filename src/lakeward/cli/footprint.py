"""How much memory the process of a running pipeline keeps, beyond what the pipeline holds."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from lakeward.clock import Clock
from lakeward.observability.progress import Progress

ALLOCATOR = "ARROW_DEFAULT_MEMORY_POOL"
EVERY_S = 60.0
"""Seconds between two looks at what can be given back."""

_MAPS = Path("/proc/self/maps")
_COMPILER = "libllvmlite"
_DONTNEED = 4


def share_allocator() -> None:
    """Let Arrow allocate as everything else does: its own allocator keeps some 25 MiB more of what is given back.

    To be called before Arrow is imported. What the environment says stays.
    """
    os.environ.setdefault(ALLOCATOR, "system")


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
