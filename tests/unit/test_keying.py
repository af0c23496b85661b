"""What a table's mode makes of decoded rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.changes import Changes, Effect
from lakeward.keying import NO_KEY, NULL_KEY, TRUNCATED, UNORDERED, Upserting, appended, upserted
from lakeward.layout import DELETED
from lakeward.records import Decoded, DecodedPart

NOTHING = np.zeros(0, np.int64)


def decoded(rows: dict[str, list[Any]], effects: list[Effect] | None = None, key: tuple[str, ...] = ("id",)) -> Decoded:
    table = pa.table(rows)
    changes = None if effects is None else Changes(key, np.array(effects, np.uint8))
    part = DecodedPart(table, np.arange(len(table)) * 2 + 1, 7, changes)
    return Decoded([part], [], NOTHING)


def test_in_mode_append_no_event_changes_another() -> None:
    (part,) = appended(decoded({"id": [1, 1]}, [Effect.UPSERT, Effect.DELETE])).parts
    assert part.changes is None
    assert part.rows.num_rows == 2


def test_plain_records_put_whole_rows_under_the_configured_key() -> None:
    (part,) = upserted(decoded({"a": [1, 2], "b": [3, 4]}), Upserting(("b",))).parts
    assert part.changes is not None
    assert part.changes.key == ("b",)
    assert part.changes.effect.tolist() == [Effect.UPSERT] * 2


def test_changes_stand_where_their_messages_stand() -> None:
    (part,) = upserted(decoded({"id": [1, 2]}, [Effect.UPSERT] * 2), Upserting()).parts
    assert part.changes is not None
    assert part.changes.order is not None
    assert part.changes.order.tolist() == [1, 3]


def test_the_configured_key_is_taken_before_the_events_own() -> None:
    (part,) = upserted(decoded({"id": [1], "other": [2]}, [Effect.UPSERT]), Upserting(("other",))).parts
    assert part.changes is not None
    assert part.changes.key == ("other",)


def test_a_row_with_a_null_in_its_key_is_rejected_and_others_stay() -> None:
    result = upserted(decoded({"id": [1, None, 3], "b": [None, 1, 1]}, [Effect.UPSERT] * 3), Upserting(("id", "b")))
    assert [(reject.index, reject.code, reject.schema_id) for reject in result.rejects] == [
        (1, NULL_KEY, 7),
        (3, NULL_KEY, 7),
    ]
    (part,) = result.parts
    assert part.rows.column("id").to_pylist() == [3]
    assert part.index.tolist() == [5]


def test_a_record_without_the_key_columns_is_rejected_by_name() -> None:
    result = upserted(decoded({"a": [1]}), Upserting(("id",)))
    assert not result.parts
    assert [(reject.code, '"id"' in reject.reason) for reject in result.rejects] == [(NO_KEY, True)]


def test_events_without_a_key_are_rejected() -> None:
    result = upserted(decoded({"a": [1]}, [Effect.UPSERT], ()), Upserting())
    assert [reject.code for reject in result.rejects] == [NO_KEY]


def test_a_truncation_needs_no_key() -> None:
    (part,) = upserted(decoded({"id": [None]}, [Effect.TRUNCATE]), Upserting()).parts
    assert part.changes is not None
    assert part.changes.effect.tolist() == [Effect.TRUNCATE]


def test_a_marked_deletion_keeps_every_value_but_the_mark() -> None:
    (part,) = upserted(
        decoded({"id": [1, 2], "v": ["a", None]}, [Effect.UPSERT, Effect.DELETE]), Upserting(marks=True)
    ).parts
    assert part.changes is not None
    assert part.rows.column(DELETED).to_pylist() == [False, True]
    assert part.changes.effect.tolist() == [Effect.UPSERT, Effect.MARK]
    assert {name: mask.tolist() for name, mask in part.changes.absent.items()} == {"v": [False, True]}


def test_a_truncation_that_should_mark_is_set_aside_because_it_names_no_rows() -> None:
    result = upserted(decoded({"id": [1, None]}, [Effect.UPSERT, Effect.TRUNCATE]), Upserting(marks=True))
    assert [reject.code for reject in result.rejects] == [TRUNCATED]
    assert result.parts[0].rows.column("id").to_pylist() == [1]


def test_no_column_of_a_mirrored_table_is_required_because_deletions_tell_only_keys() -> None:
    told = decoded({"id": [1]}, [Effect.UPSERT])
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False)])
    part = DecodedPart(told.parts[0].rows.cast(schema), told.parts[0].index, None, told.parts[0].changes)
    (kept,) = upserted(Decoded([part], [], NOTHING), Upserting()).parts
    assert kept.rows.schema.field("id").nullable


def test_a_truncation_among_several_partitions_is_set_aside_because_its_place_is_not_known() -> None:
    told = decoded({"id": [1, None]}, [Effect.UPSERT, Effect.TRUNCATE])
    result = upserted(told, Upserting(), partitions=2)
    assert [reject.code for reject in result.rejects] == [UNORDERED]
    assert result.parts[0].rows.column("id").to_pylist() == [1]
