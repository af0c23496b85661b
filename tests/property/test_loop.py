"""Random histories of one pipeline: whatever happens, each table holds exactly what its entry says that it holds.

A history is a seed. Everything runs on one thread: commits are made when the source is polled, in an order that the
seed draws, so that a history that fails does so again: ``play(seed)``. What happens in them: appends, tombstones,
holes, new partitions, expired records, topics created again; rebalances; registries and catalogs that are away; a
worker that dies at any call, whose requests arrive later or never; answers that are lost; other workers' commits;
tables rolled back by somebody else.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.property.histories import History

from lakeward.ledger import breaks

HISTORIES, BLOCKS = 400, 8


def play(seed: int) -> History:
    """One history, checked after every run and at its end."""
    history = History(seed)
    while history.runs_left:
        history.run()
        check(history)
    history.finish()
    check(history)
    for name, table in history.tables.items():
        book = history.book(name)
        assert (len(book.open), len(book.replayed)) == tuple(map(len, history.letters_of(name))), name
        if table.entry is None:  # nothing but tombstones: there is no table
            assert not table.rows
            continue
        for partition, log in history.source.logs.items():
            if name in history.feeds[partition.topic]:
                assert table.entry.positions[partition].next == len(log.values), (name, partition)
    return history


def check(history: History) -> None:
    for name, table in history.tables.items():
        entries = [None, *(step.entry for step in table.history)]
        for before, after in pairwise(entries):
            assert after is not None
            assert breaks(before, after) == [], name
        waiting, back = history.letters_of(name)
        assert sorted(table.rows + waiting) == sorted(history.told(table)), name
        assert {row for row in table.rows if row.startswith("!!")} == set(back), name
        if table.entry is not None:
            account = table.entry.account
            assert (account.letters, account.rows) == (len(waiting), len(table.rows)), name


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_happens_each_table_holds_what_its_entry_says(block: int) -> None:
    for seed in range(block, HISTORIES, BLOCKS):
        try:
            play(seed)
        except BaseException as error:
            error.add_note(f"again: play({seed})")
            raise


def test_a_history_is_the_same_each_time() -> None:
    one, other = play(3), play(3)
    assert one.happened == other.happened
    assert {n: t.rows for n, t in one.tables.items()} == {n: t.rows for n, t in other.tables.items()}


def test_histories_contain_what_they_are_for() -> None:
    happened = {what for seed in range(40) for what in play(seed).happened}
    wanted = {"killed", "late", "lost answer", "no answer", "rival", "refused", "revoked", "registry away", "expired"}
    wanted |= {"created again", "rolled back", "partition added", "given up", "replayed", "rival replay"}
    wanted |= {"void letter", "void replay", "rolled back while letters come back"}
    assert wanted <= happened, wanted - happened
