"""PROTOCOL R4: a key may move to a partition that is added to its topic, and its changes keep their order."""

from __future__ import annotations

import pytest
from tests.unit.loop_rig import T0, T1, Rig, bounded, texts, values

from lakeward import joining
from lakeward.keying import Upserting
from lakeward.positions import Span


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(joining, "RETRY_S", 0.01)
    rig = Rig()
    rig.upserting = Upserting(("value",))
    return rig


def test_the_first_commit_tells_which_partitions_were_there_from_the_first(mirror: Rig) -> None:
    mirror.source.append("t", 0, values(0, 5))
    mirror.source.append("t", 1, values(5, 6))
    bounded(mirror.pipeline())
    entry = mirror.tables["a"].entry
    assert entry is not None
    assert entry.positions.keys() == {T0, T1}


def test_changes_of_an_added_partition_wait_until_the_others_are_committed_up_to_where_they_ended(mirror: Rig) -> None:
    mirror.source.append("t", 0, values(0, 5))
    bounded(mirror.pipeline())
    mirror.source.append("t", 0, values(5, 40))
    mirror.source.append("t", 1, values(40, 50))
    bounded(mirror.pipeline())
    table = mirror.tables["a"]
    assert table.rows == texts(0, 50)
    done = next(at for at, batch in enumerate(table.commits) if T0 in batch.claim and batch.claim[T0].end == 40)
    begun = next(at for at, batch in enumerate(table.commits) if T1 in batch.claim)
    assert done < begun


def test_rows_that_are_only_added_need_not_wait(mirror: Rig) -> None:
    mirror.upserting = None
    mirror.source.append("t", 0, values(0, 5))
    bounded(mirror.pipeline())
    mirror.source.append("t", 0, values(5, 40))
    mirror.source.append("t", 1, values(40, 50))
    bounded(mirror.pipeline())
    assert mirror.tables["a"].commits[2].claim == {T0: Span(5, 40), T1: Span(0, 10)}
