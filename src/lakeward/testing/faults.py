"""Faults at the border between lakeward and an Iceberg catalog or store, planned call by call.

A `Plan` says which call of which operation fails, and how; `FaultyCatalog` and `FaultyIO` stand in front of the real
ones and follow it. Operations: every method of a catalog (``load_table``, ``commit_table``, ``create_table``, …), and
of a store ``read``, ``write`` and ``delete``. Calls of each operation are counted from 1.

::

    plan = Plan()
    plan.at("commit_table", 2, lose(requests.ReadTimeout()))    # applied, and the answer lost
    target = IcebergTarget(faulty(catalog, plan), settings, clock, chance)
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io import FileIO, InputFile, OutputFile, OutputStream
from pyiceberg.table import Table

from lakeward.errors import ConfigurationError

HANG_S = 120.0
"""Seconds after which a call that hangs gives up: a thread that waits for ever would keep its process from ending."""

Call = Callable[[], Any]
Fault = Callable[[Call], Any]
"""Takes the call that was to be made; makes it, or not, and returns or raises."""


def fail(error: Exception) -> Fault:
    """Raise ``error``; nothing reaches the server."""

    def fault(_: Call) -> Any:
        raise error

    return fault


def lose(error: Exception) -> Fault:
    """Make the call, then raise ``error``: the server has applied it and its answer is lost."""

    def fault(call: Call) -> Any:
        call()
        raise error

    return fault


def refuse() -> Fault:
    """Answer that another commit was faster; nothing is applied."""
    return fail(CommitFailedException("refused by plan"))


def twice() -> Fault:
    """Deliver the call twice, as a proxy may: the first is applied, the answer is that to the second."""

    def fault(call: Call) -> Any:
        call()
        return call()

    return fault


def meanwhile(action: Callable[[], object]) -> Fault:
    """Do ``action`` (a rival's commit, a slow clock's tick), then make the call."""

    def fault(call: Call) -> Any:
        action()
        return call()

    return fault


def hang(until: threading.Event) -> Fault:
    """Block the caller until ``until`` is set, then make the call; `TimeoutError` where that never happens."""

    def fault(call: Call) -> Any:
        if not until.wait(HANG_S):
            raise TimeoutError(f"a call that hangs by plan was not let go within {HANG_S:g} s")
        return call()

    return fault


def die(code: int = 137) -> Fault:
    """End this process before the call, as `kill -9` does: nothing is cleaned up."""

    def fault(_: Call) -> Any:
        os._exit(code)

    return fault


def die_after(code: int = 137) -> Fault:
    """End this process after the call was applied and before its answer is seen."""

    def fault(call: Call) -> Any:
        call()
        os._exit(code)

    return fault


@dataclass(slots=True)
class Held:
    """A request that is held somewhere on its way: the caller sees ``error``, `release` delivers it later."""

    error: Exception
    calls: list[Call] = field(default_factory=list)

    def fault(self, call: Call) -> Any:
        """The fault to plan."""
        self.calls.append(call)
        raise self.error

    def release(self) -> Any:
        """Deliver the oldest request now; return or raise what its caller would have seen."""
        return self.calls.pop(0)()


@dataclass(slots=True)
class Plan:
    """Which call of which operation gets which fault; everything else goes through. Safe for several threads."""

    counts: Counter[str] = field(default_factory=Counter)
    _at: dict[tuple[str, int], Fault] = field(default_factory=dict)
    _always: dict[str, Fault] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def at(self, operation: str, number: int, fault: Fault) -> None:
        """Plan ``fault`` for the ``number``-th call of ``operation``, counted from 1 over the plan's life."""
        self._at[operation, number] = fault

    def next(self, operation: str, fault: Fault) -> None:
        """Plan ``fault`` for the next call of ``operation`` that has none yet."""
        number = self.counts[operation] + 1
        while (operation, number) in self._at:
            number += 1
        self.at(operation, number, fault)

    def always(self, operation: str, fault: Fault | None) -> None:
        """Plan ``fault`` for every call that has none of its own; None lets them through again."""
        if fault is None:
            self._always.pop(operation, None)
        else:
            self._always[operation] = fault

    def run(self, operation: str, call: Call) -> Any:
        """Count the call and make it as planned."""
        with self._lock:
            self.counts[operation] += 1
            fault = self._at.get((operation, self.counts[operation])) or self._always.get(operation)
        return call() if fault is None else fault(call)

    @staticmethod
    def parse(text: str) -> Plan:
        """A plan for a process of its own, from ``operation:number:fault,…``; faults are die, die-after and refuse.

        Raises:
            ConfigurationError: the text is no plan.
        """
        kinds: dict[str, Callable[[], Fault]] = {"die": die, "die-after": die_after, "refuse": refuse}
        plan = Plan()
        for step in filter(None, text.split(",")):
            operation, _, rest = step.partition(":")
            number, _, kind = rest.partition(":")
            if not number.isdigit() or kind not in kinds:
                raise ConfigurationError(f"{step!r} is no fault", "Write operation:number:die, die-after or refuse.")
            plan.at(operation, int(number), kinds[kind]())
        return plan


def faulty(catalog: Catalog, plan: Plan) -> Catalog:
    """``catalog`` behind ``plan``, its tables' stores too."""
    return cast("Catalog", FaultyCatalog(catalog, plan))


class FaultyCatalog:
    """Hands every method on to a catalog, as the plan says. Tables come back with a `FaultyIO`."""

    def __init__(self, inner: Catalog, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if not callable(attribute) or name.startswith("_"):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = self._plan.run(name, lambda: attribute(*args, **kwargs))
            if isinstance(answer, Table) and not isinstance(answer.io, FaultyIO):
                answer.io = FaultyIO(answer.io, self._plan)
            return answer

        return call


class FaultyIO(FileIO):
    """A store whose reads, writes and deletes follow the plan; a write counts when its stream is opened."""

    def __init__(self, inner: FileIO, plan: Plan) -> None:
        super().__init__(inner.properties)
        self._inner = inner
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def new_input(self, location: str) -> InputFile:
        """See `FileIO.new_input`."""
        return cast("InputFile", self._plan.run("read", lambda: self._inner.new_input(location)))

    def new_output(self, location: str) -> OutputFile:
        """See `FileIO.new_output`."""
        return _FaultyOutput(self._inner.new_output(location), self._plan)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """See `FileIO.delete`."""
        self._plan.run("delete", lambda: self._inner.delete(location))


class _FaultyOutput(OutputFile):
    def __init__(self, inner: OutputFile, plan: Plan) -> None:
        super().__init__(inner.location)
        self._inner = inner
        self._plan = plan

    def __len__(self) -> int:
        return len(self._inner)

    def exists(self) -> bool:
        return self._inner.exists()

    def to_input_file(self) -> InputFile:
        return self._inner.to_input_file()

    def create(self, overwrite: bool = False) -> OutputStream:  # noqa: FBT001, FBT002 -- PyIceberg's signature
        return cast("OutputStream", self._plan.run("write", lambda: self._inner.create(overwrite=overwrite)))
