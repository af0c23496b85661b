"""PROTOCOL S1, S5 and S7: polls that bring messages, rebalances and ends in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from tests.unit.loop_rig import T0, T1, U0, Ends, Flaky, Rig, bounded, texts, values

from lakeward.batching import FlushPolicy
from lakeward.errors import UnreachableError
from lakeward.pipeline import Until
from lakeward.records import Decoded, Polled, RawBatch


def test_s5_messages_that_come_with_the_revocation_of_their_partition_are_discarded() -> None:
    rig = Rig()
    rig.source.append("t", 0, values(0, 30))
    rig.source.append("t", 1, values(50, 80))
    pipeline = rig.pipeline()
    poll, polls = rig.source.poll, iter(range(1_000_000))

    def both_at_once(timeout: float) -> Polled:
        polled = poll(timeout)
        if next(polls) == 2:
            assert {int(raw.partition[0]) for raw in polled.batches} == {0, 1}
            rig.source._at.pop(T1)
            return replace(polled, revoked=frozenset({T1}))
        return polled

    rig.source.poll = both_at_once
    bounded(pipeline)
    assert sorted(rig.tables["a"].rows) == sorted(texts(0, 30))


def test_s5_a_partition_revoked_and_given_back_inside_one_poll_is_read_from_where_its_table_stands() -> None:
    rig = Rig()
    rig.source.append("t", 0, values(0, 50))
    rig.source.append("t", 1, values(50, 100))
    pipeline = rig.pipeline()
    rig.on_poll(3, lambda: (rig.source.revoke(T1), rig.source.assign(T1)))
    bounded(pipeline)
    assert sorted(rig.tables["a"].rows) == sorted(texts(0, 100))


def test_s5_a_backlog_is_forgotten_with_the_run_it_belongs_to() -> None:
    """Polled while the registry was away, then revoked, then given back: read once."""
    rig = Rig(flush=FlushPolicy(3600, 20, 1 << 30))
    rig.decoder = Flaky(6)
    rig.source.append("t", 0, values(0, 40))
    rig.source.append("t", 1, values(50, 90))
    pipeline = rig.pipeline()
    rig.on_poll(4, lambda: rig.source.revoke(T1))
    rig.on_poll(6, lambda: rig.source.assign(T1))
    bounded(pipeline)
    assert sorted(rig.tables["a"].rows) == sorted([*texts(0, 40), *texts(50, 90)])
    assert sum(batch.account.records for batch in rig.tables["a"].commits) == 80


def test_s5_a_backlog_is_forgotten_when_its_table_is_rewound() -> None:
    rig = Rig(flush=FlushPolicy(3600, 10, 1 << 30))
    rig.source.append("t", 0, values(0, 60))
    pipeline = rig.pipeline()
    decode, decoded = rig.decoder.decode, iter(range(1_000_000))

    def away_for_a_while(raw: RawBatch) -> Decoded:
        if 1 <= next(decoded) <= 4:
            raise UnreachableError("registry away")
        return decode(raw)

    rig.decoder.decode = away_for_a_while
    rig.targets["a"].faults.append(lambda staged: rig.rival("a", T0, 0, 3))
    bounded(pipeline)
    assert rig.tables["a"].rows == texts(0, 60)
    assert pipeline.lanes[0].tally.refusals == 1


@pytest.mark.parametrize("failures", [0, 3])
def test_s7_an_end_that_is_told_while_its_messages_wait_for_the_registry_is_not_forgotten(failures: int) -> None:
    rig = Rig()
    rig.source = Ends()
    rig.decoder = Flaky(failures)
    rig.source.append("t", 0, values(0, 5))
    bounded(rig.pipeline(), seconds=3.0)
    assert rig.tables["a"].rows == texts(0, 5)
    assert rig.next_of("a", T0) == 7


def test_s7_an_end_that_was_told_of_an_ended_run_passes_nothing_in_the_next() -> None:
    """The end comes with messages that wait for the registry; then their table is refused and read again."""
    rig = Rig(flush=FlushPolicy(3600, 10, 1 << 30))
    rig.source = Ends()
    rig.source.append("t", 0, values(0, 20))
    pipeline = rig.pipeline()
    decode, decoded = rig.decoder.decode, iter(range(1_000_000))

    def away_for_a_while(raw: RawBatch) -> Decoded:
        if 1 <= next(decoded) <= 4:
            raise UnreachableError("registry away")
        return decode(raw)

    rig.decoder.decode = away_for_a_while
    rig.targets["a"].faults.append(lambda staged: rig.rival("a", T0, 0, 3))
    bounded(pipeline)
    assert rig.tables["a"].rows == texts(0, 20)


def test_s7_an_end_told_by_the_poll_that_max_messages_cuts_passes_nothing() -> None:
    rig = Rig()
    rig.source = Ends()
    rig.source.append("t", 0, values(0, 10))
    bounded(rig.pipeline(), Until(messages=4))
    assert (rig.tables["a"].rows, rig.next_of("a", T0)) == (texts(0, 4), 4)
    bounded(rig.pipeline(), Until(messages=6))
    assert (rig.tables["a"].rows, rig.next_of("a", T0)) == (texts(0, 10), 10)
    bounded(rig.pipeline())
    assert rig.next_of("a", T0) == 12


def test_caught_up_with_partitions_that_are_empty_or_hold_only_what_no_message_tells_of() -> None:
    rig = Rig()
    rig.source = Ends()
    rig.source.append("t", 0, values(0, 3))
    rig.source.append("t", 1, [])
    bounded(rig.pipeline())
    assert rig.tables["a"].rows == texts(0, 3)
    bounded(rig.pipeline())
    assert rig.tables["a"].rows == texts(0, 3)


def test_caught_up_waits_for_every_named_topic() -> None:
    """A topic that is assigned a moment later than another is read all the same."""
    rig = Rig({"t": ["a"], "u": ["b"]})
    rig.source.append("t", 0, values(0, 3))
    rig.source.append("u", 0, values(0, 3))
    pipeline = rig.pipeline()
    opened = rig.source.open
    rig.source.open = lambda: (opened(), rig.source._assign.discard(U0))[1]
    rig.on_poll(5, lambda: rig.source.assign(U0))
    bounded(pipeline)
    assert rig.tables["a"].rows == rig.tables["b"].rows == texts(0, 3)


def test_caught_up_does_not_wait_for_ever_for_a_topic_that_another_worker_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lakeward.joining.OTHERS_S", 0.05)
    rig = Rig({"t": ["a"], "u": ["b"]})
    rig.source.append("t", 0, values(0, 3))
    rig.source.append("u", 0, values(0, 3))
    pipeline = rig.pipeline()
    opened = rig.source.open
    rig.source.open = lambda: (opened(), rig.source._assign.discard(U0))[1]
    bounded(pipeline)
    assert rig.tables["a"].rows == texts(0, 3)
    assert rig.tables["b"].rows == []


def test_s1_a_partition_that_the_source_does_not_know_yet_is_not_asked_for_in_every_turn() -> None:
    rig = Rig()
    rig.source.append("t", 0, values(0, 3))
    pipeline = rig.pipeline()
    asked = []
    ask = rig.source.partitions

    def unknown(topics: Iterable[str]):
        asked.append(1)
        return ask(topics) if len(asked) == 1 else {}

    rig.source.partitions = unknown
    rig.on_poll(50, pipeline.stop)
    pipeline.run(Until())
    assert len(asked) <= 3
