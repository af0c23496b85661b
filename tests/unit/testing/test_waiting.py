"""Waits that end."""

from __future__ import annotations

import threading

import pytest

from lakeward.testing.waiting import joined, returned


def test_a_call_that_does_not_come_back_is_named_and_holds_nobody_up() -> None:
    gate = threading.Event()
    with pytest.raises(TimeoutError, match=r"the close did not end within 0\.01 s"):
        returned(gate.wait, "the close", 0.01)
    gate.set()


def test_what_a_call_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        returned(lambda: 1 // 0, "a division")


def test_a_thread_that_has_ended_is_joined() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    joined(thread, "the thread")
    assert not thread.is_alive()
