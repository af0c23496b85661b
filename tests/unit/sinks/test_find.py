"""PROTOCOL, section 3, over metadata made by hand: each rule, and tables that others have touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pyiceberg.table.metadata import TableMetadata, TableMetadataV2

from lakeward.errors import LedgerError
from lakeward.ledger import LedgerEntry, encode, key_of, refuse_other_owner
from lakeward.outcomes import Batch
from lakeward.positions import Account, Partition, Position
from lakeward.sinks.iceberg.find import Finding, find, mirror, pipelines_of

UUID = "9c12d441-03fe-4693-9a96-a0705ddf69c1"
OTHER_UUID = "00000000-03fe-4693-9a96-a0705ddf69c1"


def entry(number: int, **changes: Any) -> LedgerEntry:
    made = LedgerEntry(
        table=UUID,
        commit=f"c{number}",
        number=number,
        positions={Partition("orders", 0): Position(number * 10)},
        sources={"orders": "id-1"},
    )
    return replace(made, **changes)


def snapshot(
    number: int, parent: int | None, said: dict[str, LedgerEntry] | None = None, **summary: str
) -> dict[str, Any]:
    ledger = {key_of(pipeline): encode(one) for pipeline, one in (said or {}).items()}
    return {
        "snapshot-id": number,
        "parent-snapshot-id": parent,
        "sequence-number": number,
        "timestamp-ms": 1_000 + number,
        "manifest-list": f"file:///m{number}.avro",
        "summary": {"operation": "append", **ledger, **summary},
        "schema-id": 0,
    }


def metadata(
    snapshots: list[dict[str, Any]], head: int | None, properties: dict[str, str] | None = None
) -> TableMetadata:
    return TableMetadataV2.model_validate(
        {
            "format-version": 2,
            "table-uuid": UUID,
            "location": "file:///t",
            "last-sequence-number": len(snapshots),
            "last-updated-ms": 9_000,
            "last-column-id": 1,
            "current-schema-id": 0,
            "schemas": [{"type": "struct", "schema-id": 0, "fields": []}],
            "default-spec-id": 0,
            "partition-specs": [{"spec-id": 0, "fields": []}],
            "last-partition-id": 999,
            "default-sort-order-id": 0,
            "sort-orders": [{"order-id": 0, "fields": []}],
            "properties": properties or {},
            "current-snapshot-id": head,
            "snapshots": snapshots,
            "refs": {"main": {"snapshot-id": head, "type": "branch"}} if head is not None else {},
        }
    )


def no_parent(_: object) -> None:
    return None


def look(table: TableMetadata, parent_of: Any = no_parent) -> Finding:
    return find(table, "p", parent_of)


def property_of(number: int, snapshot_id: int, **changes: Any) -> dict[str, str]:
    return {key_of("p"): mirror(entry(number, **changes), snapshot_id)}


def test_f1_the_first_snapshot_on_the_walk_from_main_with_our_entry_speaks() -> None:
    table = metadata([snapshot(1, None, {"p": entry(1)}), snapshot(2, 1, {"p": entry(2)}), snapshot(3, 2)], 3)
    assert look(table) == Finding(entry(2), depth=1, highest=2)


def test_f1_snapshots_beside_main_do_not_speak() -> None:
    table = metadata([snapshot(1, None, {"p": entry(1)}), snapshot(2, 1, {"p": entry(2)}), snapshot(3, 1)], 3)
    assert look(table).entry == entry(1)


def test_f1_a_missing_link_is_never_jumped() -> None:
    table = metadata([snapshot(1, None, {"p": entry(1)}), snapshot(3, 2)], 3, property_of(1, 1))
    with pytest.raises(LedgerError, match="no snapshot proves"):
        look(table)


def test_f2_no_entry_and_no_property_is_none() -> None:
    assert look(metadata([], None)) == Finding(None, None, 0)
    assert look(metadata([snapshot(1, None), snapshot(2, 1)], 2)) == Finding(None, None, 0)


def test_f2_the_property_speaks_when_its_snapshot_is_the_recorded_parent_of_the_last_one_walked() -> None:
    table = metadata([snapshot(5, 4), snapshot(6, 5)], 6, property_of(4, 4))
    assert look(table) == Finding(entry(4), depth=2, highest=4)


def test_f2_a_blanked_parent_is_read_from_the_manifest_list() -> None:
    table = metadata([snapshot(5, None)], 5, property_of(4, 4))
    asked = []

    def parent_of(last: Any) -> int:
        asked.append(last.snapshot_id)
        return 4

    assert look(table, parent_of).entry == entry(4)
    assert asked == [5]


def test_f2_the_manifest_list_is_not_read_where_the_walk_finds_an_entry() -> None:
    def parent_of(_: object) -> int:
        raise AssertionError

    assert look(metadata([snapshot(1, None, {"p": entry(1)})], 1), parent_of).entry == entry(1)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(metadata([snapshot(9, None)], 9, property_of(4, 4)), id="replaced"),
        pytest.param(metadata([snapshot(9, 8)], 9, property_of(4, 4)), id="two foreign commits, the rest expired"),
        pytest.param(metadata([snapshot(5, 4)], 5, property_of(4, 4, table=OTHER_UUID)), id="cloned, property"),
        pytest.param(metadata([snapshot(1, None, {"p": entry(1, table=OTHER_UUID)})], 1), id="cloned, snapshots"),
        pytest.param(metadata([], None, property_of(4, 4)), id="emptied"),
    ],
)
def test_f2_anything_else_is_unproven(table: TableMetadata) -> None:
    with pytest.raises(LedgerError, match="no snapshot proves"):
        look(table)


def test_f2_an_entry_of_another_table_is_passed_over() -> None:
    table = metadata([snapshot(1, None, {"p": entry(1)}), snapshot(2, 1, {"p": entry(7, table=OTHER_UUID)})], 2)
    assert look(table).entry == entry(1)


@pytest.mark.parametrize("retained", [True, False])
def test_f3_a_cherry_pick_of_our_commit_stops_the_table(*, retained: bool) -> None:
    ours = [snapshot(2, 1, {"p": entry(2)})] if retained else []
    picked = {"source-snapshot-id": "2"}
    table = metadata([snapshot(1, None, {"p": entry(1)}), *ours, snapshot(3, 1, None, **picked)], 3)
    with pytest.raises(LedgerError, match="cherry-picked from snapshot 2"):
        look(table)


def test_f3_a_cherry_pick_of_a_foreign_snapshot_is_just_foreign() -> None:
    picked = {"source-snapshot-id": "2"}
    table = metadata([snapshot(1, None, {"p": entry(1)}), snapshot(2, 1), snapshot(3, 1, None, **picked)], 3)
    assert look(table).entry == entry(1)


def step(sources: dict[str, str | None], adopts: str | None = None) -> Batch:
    return Batch("id", (), {}, {}, sources, Account(), adopts=adopts)


def test_f4_another_pipeline_that_reads_the_same_source_is_refused() -> None:
    others = {"old-name": entry(3)}
    with pytest.raises(LedgerError, match="pipeline 'old-name' already feeds"):
        refuse_other_owner(others, step({"orders": "id-1"}), "p")
    with pytest.raises(LedgerError):
        refuse_other_owner(others, step({"orders": None}), "p")


def test_f4_other_topics_and_other_incarnations_are_not_refused() -> None:
    refuse_other_owner({"q": entry(3)}, step({"quotes": "id-1"}), "p")
    refuse_other_owner({"q": entry(3)}, step({"orders": "id-2"}), "p")


def test_f4_adopting_the_other_pipeline_by_its_name_is_not_refused_and_by_another_name_is() -> None:
    refuse_other_owner({"old": entry(3)}, step({"orders": "id-1"}, adopts="old"), "p")
    with pytest.raises(LedgerError):
        refuse_other_owner({"old": entry(3)}, step({"orders": "id-1"}, adopts="older"), "p")


def test_f5_an_entry_below_the_head_says_so() -> None:
    assert look(metadata([snapshot(1, None, {"p": entry(1)}), snapshot(2, 1)], 2)).depth == 1
    assert look(metadata([snapshot(1, None, {"p": entry(1)})], 1)).depth == 0


def test_f6_a_property_that_is_ahead_tells_of_a_rewind_and_the_ancestor_wins() -> None:
    table = metadata([snapshot(1, None, {"p": entry(1)}), snapshot(2, 1, {"p": entry(2)})], 1, property_of(2, 2))
    assert look(table) == Finding(entry(1), depth=0, highest=2)


@pytest.mark.parametrize("text", ["{", "[]", '{"format":99}', '{"format":1}', "null", "3"])
def test_i8_an_entry_that_cannot_be_read_stops_the_table(text: str) -> None:
    spoiled = snapshot(1, None)
    spoiled["summary"][key_of("p")] = text
    with pytest.raises(LedgerError):
        look(metadata([spoiled], 1))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"snapshot":1}', '{"snapshot":1,"entry":"{}"}', '{"snapshot":"x","entry":""}']
)
def test_i8_a_property_that_cannot_be_read_stops_the_table(text: str) -> None:
    with pytest.raises(LedgerError):
        look(metadata([], None, {key_of("p"): text}))


def test_every_pipeline_is_known_by_its_snapshots_and_by_its_property() -> None:
    table = metadata([snapshot(1, None, {"p": entry(1), "q": entry(2)}), snapshot(2, 1)], 2, {key_of("r"): "x"})
    assert pipelines_of(table) == {"p", "q", "r"}


def test_f2_none_is_not_guessed_where_a_pipeline_that_was_there_may_have_expired() -> None:
    beside = snapshot(3, 2, {"p": entry(3)})
    cut = [snapshot(9, 8), beside]
    with pytest.raises(LedgerError, match="no snapshot proves"):
        look(metadata(cut, 9))
    with pytest.raises(LedgerError, match="no snapshot proves"):
        look(metadata([snapshot(9, 8)], 9, {"lakeward-history.p": "{}"}))
    with pytest.raises(LedgerError, match="no snapshot proves"):
        find(metadata([snapshot(9, None)], 9), "p", lambda _: 8, fed=True)
    assert look(metadata([snapshot(9, 8)], 9)) == Finding(None, None, 0)  # never there: a table with a past of its own


def test_f2_none_is_proved_by_the_first_commit_and_by_one_of_another_pipeline_that_carries_no_entry_of_ours() -> None:
    beside = snapshot(3, 2, {"p": entry(3)})
    assert find(metadata([snapshot(1, None), beside], 1), "p", no_parent, fed=True) == Finding(None, None, 0)
    carried = [snapshot(9, 8, {"q": entry(1)}), beside]
    assert find(metadata(carried, 9), "p", no_parent, fed=True) == Finding(None, None, 0)
