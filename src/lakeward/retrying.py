"""Bounded exponential backoff with jitter, for errors whose directive is to try again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from lakeward.clock import Clock
from lakeward.errors import Directive, LakewardError

T = TypeVar("T")
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on trying. Seconds: the first wait, the longest wait, and after how long to stop."""

    first: float = 0.2
    longest: float = 10.0
    total: float = 300.0


class Backoff:
    """The waits of one series of attempts: doubling, each with jitter of up to a half."""

    def __init__(self, patience: Patience, clock: Clock, chance: random.Random) -> None:
        self._patience = patience
        self._clock = clock
        self._chance = chance
        self._wait = patience.first
        self._began = clock.monotonic()

    @property
    def exhausted(self) -> bool:
        """Whether the whole series has taken longer than patience allows."""
        return self._clock.monotonic() - self._began > self._patience.total

    def next_wait(self) -> float:
        """Seconds to wait before the next attempt."""
        wait = self._wait * self._chance.uniform(0.5, 1.0)
        self._wait = min(self._wait * 2, self._patience.longest)
        return wait


class Persistence:
    """Runs actions again while their errors say so."""

    def __init__(self, patience: Patience, clock: Clock, chance: random.Random, stopping: threading.Event) -> None:
        self._patience = patience
        self._clock = clock
        self._chance = chance
        self._stopping = stopping

    def backoff(self) -> Backoff:
        """A fresh series of waits."""
        return Backoff(self._patience, self._clock, self._chance)

    def run(self, action: Callable[[], T], what: str) -> T:
        """Return what ``action`` returns, trying again while its error's directive is retry and patience lasts.

        Raises:
            LakewardError: the last error, once patience is exhausted, or at once when stopping or not retryable.
        """
        backoff = self.backoff()
        while True:
            try:
                return action()
            except LakewardError as error:
                if error.directive is not Directive.RETRY or backoff.exhausted or self._stopping.is_set():
                    raise
                wait = backoff.next_wait()
                log.warning("trying again", what=what, error=error.what, wait_s=round(wait, 1))
                self._clock.wait(self._stopping, wait)
