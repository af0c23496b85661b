"""Which dead letters count (PROTOCOL D1, D2, D4), by entries alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from lakeward.dead_letters import replay
from lakeward.dead_letters.share import Share
from lakeward.ledger import LedgerEntry, decode, encode, next_entry, outdated
from lakeward.letters import Confirmed, Interval, Lettering, Letters
from lakeward.outcomes import Batch
from lakeward.positions import Account

PLAIN = LedgerEntry("u", "c0", 5)


def commit(name: str, lettering: Lettering | None = None) -> Batch:
    return Batch(name, (), {}, {}, {}, Account(3, 2, 0, 1), lettering=lettering)


def after(before: LedgerEntry | None, batch: Batch, highest: int = 0) -> LedgerEntry:
    entry = next_entry(before, table="u", batch=batch, highest=highest)
    assert decode(encode(entry), "here") == entry
    return entry


def test_d1_a_commit_with_letters_is_open_until_it_is_confirmed() -> None:
    one = after(PLAIN, commit("c1", Lettering()))
    assert one.letters == Letters(line="c1", open={"c1": 6})
    two = after(one, commit("c2"))
    assert two.letters == one.letters
    three = after(two, commit("c3", Lettering(confirmed={"c1": 6})))
    assert three.letters == Letters(line="c1", open={"c3": 8})


def test_d1_a_commit_that_was_confirmed_as_another_number_stays_open() -> None:
    one = after(PLAIN, commit("c1", Lettering()))
    assert after(one, commit("c2", Lettering(confirmed={"c1": 9}))).letters.open == {"c1": 6, "c2": 7}


def test_d2_letters_count_when_their_commit_is_open_or_confirmed_on_this_line_and_not_undone() -> None:
    letters = Letters("line", {"open": 9}, (Interval(4, 6),))
    assert letters.count("open", 9, ())
    assert not letters.count("never", 9, ())
    assert letters.count("old", 9, [Confirmed("line", 3)])
    assert not letters.count("old", 9, [Confirmed("another", 3)])
    assert not letters.count("undone", 9, [Confirmed("line", 5)])
    assert not letters.count("ahead", 9, [Confirmed("line", 10)]), "the table was rewound to before it"


def test_d2_numbers_that_a_rewind_skips_are_undone_by_the_next_commit() -> None:
    one = after(PLAIN, commit("c1", Lettering()))
    assert after(one, commit("c9"), highest=12).letters.undone == (Interval(7, 12),)
    assert after(PLAIN, commit("c9"), highest=12).letters == Letters(), "there is no letter that could be undone"


def test_d2_a_rollback_takes_the_letters_of_what_it_undoes() -> None:
    one = after(PLAIN, commit("c1", Lettering()))
    back = one.rolled_back("r", 9)
    assert (back.commit, back.number, back.account) == ("r", 10, one.account)
    assert back.letters.count("c1", back.number, ())
    assert not back.letters.count("c2", back.number, [Confirmed("c1", 8)])


def test_d4_a_replay_is_refused_where_another_or_a_rollback_was_faster() -> None:
    held = after(PLAIN, commit("c1", Lettering()))
    plan = commit("r1", Lettering(planned_on=held.letters))
    assert not outdated(held, plan, held.number)
    assert not outdated(after(held, commit("c2")), plan, 7), "other commits do not matter"
    assert outdated(None, plan, 0)
    assert outdated(after(held, plan), commit("r2", Lettering(planned_on=held.letters)), 0)
    assert outdated(held, plan, highest=held.number + 1)
    assert outdated(held.rolled_back("r", 9), plan, 10)
    assert after(held, plan).letters.replays == 1


def test_entries_of_before_dead_letters_are_read() -> None:
    document = json.loads(encode(replace(PLAIN, account=Account(3, 2, 1))))
    document["account"].pop()
    assert "letters" not in document
    entry = decode(json.dumps(document), "here")
    assert entry.account == Account(3, 2, 1, 0)
    assert entry.letters == Letters()


@pytest.mark.parametrize(
    ("most", "fetches", "stops"),
    [
        (0.1, [(10, 10)], False),
        (0.1, [(50, 50), (50, 50)], False),
        (0.1, [(50, 50), (51, 51)], True),
        (0.1, [(1000, 100)], False),
        (0.1, [(1000, 101)], True),
        (0.1, [(10_000, 1_000)], False),
        (0.1, [(10_000, 0), (999, 999)], False),
        (0.1, [(10_000, 0), (999, 999), (1, 1)], True),
        (0.1, [(2_000, 200), (2_000, 0), (1_000, 100)], False),
        (0.0, [(5_000, 0), (1, 1)], True),
        (1.0, [(5_000, 5_000), (1, 1)], False),
    ],
)
def test_d5_a_flood_is_more_than_the_share_of_the_last_thousand_records_or_of_a_fetch(
    most: float, fetches: list[tuple[int, int]], *, stops: bool
) -> None:
    share = Share(most)
    for fetch in fetches[:-1]:
        assert not share.exceeded(*fetch)
        share.count(*fetch)
    assert share.exceeded(*fetches[-1]) is stops


def test_letters_are_tried_in_portions_of_a_bounded_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CHUNK", 3)
    monkeypatch.setattr(replay, "CHUNK_BYTES", 100)
    sizes = [10, 10, 10, 10, 500, 90, 20, 80, None, 1]
    chunks = [chunk.column("bytes").to_pylist() for chunk in replay._chunks(pa.table({"bytes": sizes}))]
    assert chunks == [[10, 10, 10], [10], [500], [90], [20, 80, None], [1]]
