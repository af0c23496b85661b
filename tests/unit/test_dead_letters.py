"""What a dead-letter table says, read back: which letters count, whose they are, what was tried since (PROTOCOL 8)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lakeward.clock import SystemClock
from lakeward.dead_letters.book import read, with_payload
from lakeward.dead_letters.box import Letterbox
from lakeward.dead_letters.rows import SCHEMA, Owner, confirmations, failed, letters_of, replayed, sealed
from lakeward.errors import OperatorError
from lakeward.ledger import LedgerEntry
from lakeward.letters import Letters
from lakeward.records import Blobs, RawBatch, Reject
from lakeward.testing.memory import MemoryLetters, MemoryTable

OURS, THEIRS, OTHER = Owner("p", "a.b"), Owner("q", "a.b"), Owner("p", "a.c")
STATE = Letters("line", {"c2": 7})
ENTRY = LedgerEntry("u", "c2", 7, letters=STATE)


def raw(*offsets: int) -> RawBatch:
    n = len(offsets)
    return RawBatch(
        "t",
        np.zeros(n, np.int32),
        np.asarray(offsets),
        np.asarray([-1 if offset == 0 else offset * 1000 for offset in offsets]),
        Blobs.of([None if offset == 0 else b"k%d" % offset for offset in offsets]),
        Blobs.of([b"v%d" % offset for offset in offsets]),
        [[("h", b"%d" % offset)] for offset in offsets],
    )


def letters(owner: Owner, commit: str, *offsets: int) -> pa.Table:
    rejects = [Reject(i, "bad", "it is bad", 9) for i in reversed(range(len(offsets)))]
    return sealed(letters_of(raw(*offsets), rejects, 5_000), owner, commit, {"t": "id"})


def shelf(*tables: pa.Table) -> MemoryLetters:
    table = MemoryTable()
    table.exists = True
    table.rows = [row for one in tables for row in one.to_pylist()]
    return MemoryLetters("a.b__dead_letters", table)


def offsets(some: pa.Table) -> list[int]:
    return some.column("offset").to_pylist()


def test_d2_letters_of_commits_that_are_open_or_confirmed_count_and_no_others() -> None:
    kept = shelf(
        letters(OURS, "c1", 3, 1),
        confirmations(Letters("line", {"c1": 4}), OURS),
        letters(OURS, "c2", 5),
        letters(OURS, "died", 6),
        letters(THEIRS, "c2", 8),
        letters(OTHER, "c2", 9),
    )
    book = read(kept, OURS, ENTRY)
    assert (offsets(book.open), offsets(book.replayed), book.void) == ([1, 3, 5], [], 1)
    assert offsets(read(kept, THEIRS, ENTRY).open) == [8]
    assert offsets(read(kept, OTHER, ENTRY).open) == [9]
    assert len(read(kept, OURS, None).open) == 0
    assert len(read(MemoryLetters("none", MemoryTable()), OURS, ENTRY).open) == 0


def test_d4_a_letter_is_back_when_the_commit_of_its_replay_counts() -> None:
    brought = letters(OURS, "c2", 1, 2, 3)
    back = replayed(brought.slice(0, 1), OURS, "c2")
    died = replayed(brought.slice(1, 1), OURS, "died")
    book = read(shelf(brought, back, died), OURS, ENTRY)
    assert (offsets(book.open), offsets(book.replayed)) == ([2, 3], [1])


def test_the_last_trial_in_vain_has_the_last_word() -> None:
    brought = letters(OURS, "c2", 1, 2)
    first = failed(brought.slice(0, 1), OURS, [Reject(0, "worse", "it is worse")], 6_000)
    second = failed(brought.slice(0, 1), OURS, [Reject(0, "worst", "nothing helps")], 7_000)
    book = read(shelf(brought, second, first), OURS, ENTRY)
    assert book.open.column("code").to_pylist() == ["worst", "bad"]
    seen = [[t.timestamp() for t in book.open.column(name).to_pylist()] for name in ("seen_at", "last_seen")]
    assert seen == [[5, 5], [7, 5]]


def test_what_a_record_said_is_read_back_for_the_letters_that_are_asked_for() -> None:
    kept = shelf(letters(OURS, "c1", 1), letters(OURS, "c2", 4, 0, 2))
    book = read(kept, OURS, ENTRY)
    full = with_payload(kept, book.open)
    assert full.schema == SCHEMA
    assert full.column("value").to_pylist() == [b"v0", b"v2", b"v4"]
    assert full.column("key").to_pylist() == [None, b"k2", b"k4"]
    assert full.column("headers").to_pylist() == [[{"name": "h", "value": b"%d" % n}] for n in (0, 2, 4)]
    assert full.column("timestamp").is_null().to_pylist() == [True, False, False]
    assert full.column("bytes").to_pylist() == [2, 4, 4]
    assert set(full.column("topic_id").to_pylist()) == {"id"}


def test_d5_a_flood_names_its_first_record_and_never_what_it_says() -> None:
    box = Letterbox(MemoryLetters("x", MemoryTable()), OURS, 0.0, SystemClock())
    assert box.take(raw(1, 2), []) is None
    with pytest.raises(OperatorError) as caught:
        box.take(raw(3, 4), [Reject(1, "bad", "it is bad", 9)])
    assert "a.b: 1 of the last 4 records" in caught.value.what
    assert "topic t, partition 0, offset 4, schema id 9: it is bad [bad]" in caught.value.what
    assert "v4" not in str(caught.value)
