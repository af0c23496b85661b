"""Python's garbage collector in a process that runs for long.

What the imports make is there until the process ends: to look through it again and again took a tenth of all CPU time.
So the collector rests until the pipeline is assembled, and leaves alone what is there by then. From then on it works as
ever, and what it has to look through is little. Nor does it look through everything once more when the process ends,
which took a third of a second: what is there then goes with the process.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

THRESHOLDS = (5_000, 10, 5)
"""So many objects more than before, and the youngest are looked through; each tenth and fiftieth time older ones."""


@contextmanager
def resting() -> Iterator[Callable[[], None]]:
    """The collector rests until the function that this gives is called first; afterwards everything is as it was.

    What is there when the interpreter exits is left alone.
    """
    atexit.register(gc.freeze)
    before, enabled = gc.get_threshold(), gc.isenabled()
    gc.disable()

    def assembled() -> None:
        if gc.isenabled():  # what is garbage by now would be kept for ever
            return
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.enable()

    try:
        yield assembled
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        if enabled:
            gc.enable()
