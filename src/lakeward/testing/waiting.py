"""Waits that end: for a thread, and for a call into C that no signal interrupts."""

from __future__ import annotations

import threading
from collections.abc import Callable

PATIENCE_S = 60.0
"""Seconds that anything is waited for, unless told otherwise."""


def joined(thread: threading.Thread, what: str, within: float = PATIENCE_S) -> None:
    """Wait for the end of ``thread``, which is ``what`` to a reader; at most ``within`` seconds.

    Raises:
        TimeoutError: it still runs.
    """
    thread.join(within)
    if thread.is_alive():
        raise TimeoutError(f"{what} did not end within {within:g} s")


def returned(call: Callable[[], object], what: str, within: float = PATIENCE_S) -> None:
    """Make ``call``, which may wait for ever where no signal reaches it; at most ``within`` seconds.

    Raises:
        TimeoutError: it has not come back; it goes on in a thread that does not outlive the process.
        BaseException: whatever it raised.
    """
    raised: list[BaseException] = []

    def make() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 -- raised again below
            raised.append(error)

    thread = threading.Thread(target=make, name=what, daemon=True)
    thread.start()
    joined(thread, what, within)
    if raised:
        raise raised[0]
