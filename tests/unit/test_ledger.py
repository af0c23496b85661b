"""Entries: what is written is read back, what comes next is built, and claims are compared (PROTOCOL I3, C2c, C9)."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from lakeward.errors import LedgerError
from lakeward.ledger import LedgerEntry, Loss, Standing, Writer, breaks, decode, encode, next_entry
from lakeward.outcomes import Batch
from lakeward.positions import Account, Partition, Position, Span, Witness

P0, P1 = Partition("orders", 0), Partition("orders", 1)
FULL = LedgerEntry(
    table="uuid",
    commit="c7",
    number=7,
    positions={P0: Position(10, 3, Witness(9, 1_700, 12345)), P1: Position(5)},
    sources={"orders": "id-1", "other": None},
    claim={P0: Span(4, 10)},
    writers={"handle": Writer(3, 1_700_000)},
    accepted=(Loss(P1, 0, 5),),
    account=Account(15, 12, 3),
)


def batch(claim: dict[Partition, Span], **changes: object) -> Batch:
    made = Batch(
        id="c8",
        parts=[pa.table({"a": [1]})],
        claim=claim,
        upto={p: Position(span.end) for p, span in claim.items()},
        sources={"orders": None},
        account=Account(2, 1, 1),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_an_entry_is_read_back_equal() -> None:
    assert decode(encode(FULL), "here") == FULL


def test_the_same_entry_is_always_the_same_text() -> None:
    shuffled = replace(
        FULL, positions=dict(reversed(FULL.positions.items())), sources={"other": None, "orders": "id-1"}
    )
    assert encode(shuffled) == encode(FULL)


def test_i5_a_carried_entry_loses_its_claim_and_nothing_else() -> None:
    assert FULL.carried() == replace(FULL, claim={})


def test_i8_an_unknown_format_is_named() -> None:
    text = json.dumps({**json.loads(encode(FULL)), "format": 2})
    with pytest.raises(LedgerError, match="snapshot 5 has format 2"):
        decode(text, "snapshot 5")


@pytest.mark.parametrize("missing", ["table", "commit", "number", "positions", "sources", "claim", "account"])
def test_i8_an_entry_without_one_of_its_parts_is_refused(missing: str) -> None:
    document = json.loads(encode(FULL))
    del document[missing]
    with pytest.raises(LedgerError):
        decode(json.dumps(document), "here")


def test_c2f_the_next_entry_is_complete() -> None:
    after = next_entry(FULL, table="uuid", batch=batch({P0: Span(10, 12)}), highest=7, time_ms=1_700_001)
    assert after.positions == {P0: Position(12, None, Witness(9, 1_700, 12345)), P1: Position(5)}
    assert after.claim == {P0: Span(10, 12)}
    assert after.number == 8
    assert after.commit == "c8"
    assert after.account == Account(17, 13, 4)
    assert after.accepted == FULL.accepted
    assert after.writers == FULL.writers


def test_the_number_is_above_every_number_seen() -> None:
    assert next_entry(FULL, table="uuid", batch=batch({}), highest=20).number == 21
    assert next_entry(None, table="uuid", batch=batch({})).number == 1


def test_a_topic_id_once_told_is_not_forgotten() -> None:
    after = next_entry(FULL, table="uuid", batch=batch({}, sources={"orders": None, "new": "id-9"}))
    assert after.sources == {"orders": "id-1", "other": None, "new": "id-9"}


def test_c9_the_last_append_of_a_handle_is_kept_for_a_day_of_the_tables_time() -> None:
    day = 24 * 3600 * 1000
    first = next_entry(None, table="u", batch=batch({}, writer=("h", 1)), time_ms=1_000)
    assert first.writers == {"h": Writer(1, 1_000)}
    soon = next_entry(first, table="u", batch=batch({}, writer=("g", 1)), time_ms=1_000 + day - 1)
    assert set(soon.writers) == {"h", "g"}
    later = next_entry(soon, table="u", batch=batch({}), time_ms=1_000 + day)
    assert set(later.writers) == {"g"}


@pytest.mark.parametrize(
    ("claim", "standing"),
    [
        ({P0: Span(10, 12)}, Standing.EXTENDS),
        ({P0: Span(10, 12), P1: Span(5, 6)}, Standing.EXTENDS),
        ({Partition("orders", 2): Span(0, 3)}, Standing.EXTENDS),
        ({}, Standing.EXTENDS),
        ({P0: Span(4, 10)}, Standing.COVERED),
        ({P0: Span(4, 8), P1: Span(0, 5)}, Standing.COVERED),
        ({P0: Span(4, 11)}, Standing.REFUSED),
        ({P0: Span(11, 12)}, Standing.REFUSED),
        ({P0: Span(10, 12), P1: Span(0, 5)}, Standing.REFUSED),
    ],
)
def test_c2c_a_claim_extends_is_covered_or_is_refused(claim: dict[Partition, Span], standing: Standing) -> None:
    assert Standing.of(claim, FULL) is standing


def test_c2c_an_accepted_loss_bridges_the_recorded_position_and_the_claim() -> None:
    loss = Loss(P0, 10, 50)
    assert Standing.of({P0: Span(50, 60)}, FULL) is Standing.REFUSED
    assert Standing.of({P0: Span(50, 60)}, FULL, [loss]) is Standing.EXTENDS
    assert Standing.of({P0: Span(50, 60)}, FULL, [Loss(P0, 9, 50)]) is Standing.REFUSED


def test_c2c_a_topic_that_begins_anew_below_the_position_is_not_covered() -> None:
    loss = Loss(P0, 10, 0)
    assert Standing.of({P0: Span(0, 3)}, FULL, [loss]) is Standing.EXTENDS
    after = next_entry(FULL, table="uuid", batch=batch({P0: Span(0, 3)}, accepted=[loss]))
    assert after.positions[P0].next == 3
    assert Standing.of({P0: Span(0, 3)}, after, [loss]) is Standing.COVERED


def test_c2c_a_loss_of_the_same_offsets_after_a_later_entry_is_another_one() -> None:
    first, second = Loss(P0, 10, 0, after=7), Loss(P0, 10, 0, after=9)
    emptied = next_entry(FULL, table="uuid", batch=batch({P0: Span(0, 0)}, accepted=[first]))
    full_again = next_entry(emptied, table="uuid", batch=batch({P0: Span(0, 10)}))
    assert Standing.of({P0: Span(0, 0)}, full_again, [first]) is Standing.COVERED
    assert Standing.of({P0: Span(0, 0)}, full_again, [second]) is Standing.EXTENDS
    after = next_entry(full_again, table="uuid", batch=batch({P0: Span(0, 0)}, accepted=[second]))
    assert after.accepted == (*FULL.accepted, first, second)
    assert breaks(full_again, after) == []


def test_c2c_the_same_offsets_of_a_topic_that_was_created_again_are_other_records() -> None:
    for claim in ({P0: Span(10, 12)}, {P0: Span(4, 10)}):
        assert Standing.of(claim, FULL, (), {"orders": "id-2"}) is Standing.REFUSED
    assert Standing.of({P0: Span(10, 12)}, FULL, (), {"orders": "id-1"}) is Standing.EXTENDS
    assert Standing.of({P0: Span(10, 12)}, FULL, (), {"orders": None}) is Standing.EXTENDS
    claim, lost = {P0: Span(0, 2), P1: Span(0, 0)}, [Loss(P0, 10, 0, 7), Loss(P1, 5, 0, 7)]
    assert Standing.of(claim, FULL, lost, {"orders": "id-2"}) is Standing.EXTENDS
    assert Standing.of(claim, FULL, lost[:1], {"orders": "id-2"}) is Standing.REFUSED
    assert Standing.of({Partition("orders", 2): Span(0, 3)}, FULL, (), {"orders": "id-2"}) is Standing.REFUSED


def test_s3_a_witness_is_kept_until_another_takes_its_place_or_its_log_is_given_up() -> None:
    witness = Witness(9, 1_700, 12345)
    moved = next_entry(FULL, table="uuid", batch=batch({P0: Span(10, 12)}))
    assert moved.positions[P0] == Position(12, None, witness)
    newer = Position(13, None, Witness(12, 1, 2))
    assert next_entry(moved, table="u", batch=batch({P0: Span(12, 13)}, upto={P0: newer})).positions[P0] == newer
    lost = batch({P0: Span(0, 0)}, accepted=[Loss(P0, 12, 0, after=8)])
    assert next_entry(moved, table="uuid", batch=lost).positions[P0].witness is None


def test_i3_a_sound_successor_breaks_nothing() -> None:
    after = next_entry(FULL, table="uuid", batch=batch({P0: Span(10, 12)}))
    assert breaks(FULL, after) == []
    assert breaks(None, next_entry(None, table="u", batch=batch({P0: Span(3, 4)}))) == []


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        ({"claim": {P0: Span(9, 12)}}, "starts at 9, after 10"),
        ({"claim": {P0: Span(10, 11)}}, "ends at 11, the position is 12"),
        ({"number": 7}, "number goes from 7 to 7"),
        ({"positions": {P0: Position(12)}}, "its position is gone"),
        ({"positions": {P0: Position(12), P1: Position(6)}}, "moved from 5 to 6 without a claim"),
    ],
)
def test_i3_a_broken_successor_is_told(spoil: dict[str, object], what: str) -> None:
    after = replace(next_entry(FULL, table="uuid", batch=batch({P0: Span(10, 12)})), **spoil)  # type: ignore[arg-type]
    assert any(what in line for line in breaks(FULL, after))
