"""Python's garbage collector around a pipeline that runs for long."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

from lakeward.cli.collector import resting


class Node:
    def __init__(self) -> None:
        self.itself = self


def cycle() -> weakref.ref[Node]:
    return weakref.ref(Node())


def test_the_collector_rests_until_the_pipeline_is_assembled() -> None:
    with resting() as assembled:
        assert not gc.isenabled()
        assembled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0


def test_garbage_in_cycles_is_collected_while_a_pipeline_runs() -> None:
    with resting() as assembled:
        assembled()
        early = cycle()
        kept = [cycle() for _ in range(1_000_000)]
        assert early() is None
        assert sum(one() is not None for one in kept) < 100_000


def test_what_is_garbage_when_a_pipeline_is_made_anew_is_not_kept_for_ever() -> None:
    with resting() as assembled:
        assembled()
        late = cycle()
        assembled()
        gc.collect()
        assert late() is None


def test_afterwards_the_collector_is_as_it_was() -> None:
    before = gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()
    with resting() as assembled:
        assembled()
    with resting():
        pass
    assert (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()) == before


def test_what_is_there_when_the_process_ends_is_not_looked_through() -> None:
    program = (
        "import atexit, gc\n"
        "from lakeward.cli.collector import resting\n"
        "atexit.register(lambda: print(gc.get_freeze_count(), len(gc.get_objects())))\n"  # the first is called last
        "with resting() as assembled: assembled()\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    left_alone, looked_through = map(int, told.stdout.split())
    assert left_alone > 5_000
    assert looked_through < 100
