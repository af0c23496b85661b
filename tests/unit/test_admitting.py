"""Which decoded rows a table takes, by policy; the table is a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.types import LongType

from lakeward.admission import SchemaChanges
from lakeward.admitting import Admitting
from lakeward.errors import SchemaMismatchError
from lakeward.outcomes import CommitReceipt
from lakeward.records import Decoded, DecodedPart, Reject
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing.lake import Lake, batch, commit

EVOLVE, DEAD_LETTER, STOP = SchemaChanges.EVOLVE, SchemaChanges.DEAD_LETTER, SchemaChanges.STOP
NOTHING = np.zeros(0, np.int64)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": str(tmp_path)}) as opened:
        yield opened


def part(first: int, *aliases: str, **columns: Any) -> DecodedPart:
    told = {b"lakeward.aliases": json.dumps(aliases).encode()} if aliases else None
    rows = pa.table(columns)
    rows = rows.cast(pa.schema([field.with_metadata(told) for field in rows.schema]))
    return DecodedPart(rows, np.arange(first, first + len(rows)))


def decoded(*parts: DecodedPart, rejects: tuple[Reject, ...] = ()) -> Decoded:
    return Decoded(parts, rejects, NOTHING)


def write(target: IcebergTarget, start: int, *parts: DecodedPart) -> None:
    rows = [one.rows for one in parts]
    outcome = commit(target, replace(batch(start, sum(map(len, rows))), parts=rows))
    assert isinstance(outcome, CommitReceipt), outcome


def told(result: Decoded) -> list[tuple[int, str]]:
    return [(reject.index, reject.code) for reject in result.rejects]


LONG, TEXT = pa.array([1, 2]), pa.array(["a", "b"])


def test_rows_that_fit_are_handed_on_as_they_are(lake: Lake) -> None:
    target = lake.target()
    write(target, 0, part(0, x=LONG))
    for policy in SchemaChanges:
        given = decoded(part(0, x=LONG), part(2, x=LONG.cast(pa.int32())))
        assert Admitting(target, policy, {}).admit(given) is given


@pytest.mark.parametrize("policy", list(SchemaChanges))
def test_the_first_rows_make_the_table_whatever_the_policy(lake: Lake, policy: SchemaChanges) -> None:
    admitting = Admitting(lake.target(schema_changes=policy), policy, {})
    given = decoded(part(0, x=LONG))
    assert admitting.admit(given) is given
    change = decoded(part(2, x=LONG, y=TEXT))
    if policy is EVOLVE:
        assert admitting.admit(change) is change
    elif policy is DEAD_LETTER:
        assert told(admitting.admit(change)) == [(2, "schema-change"), (3, "schema-change")]
    else:
        with pytest.raises(SchemaMismatchError, match='"y" is added: string'):
            admitting.admit(change)


def test_what_can_never_fit_is_rejected_with_column_and_types_and_its_neighbours_flow(lake: Lake) -> None:
    target = lake.target()
    write(target, 0, part(0, x=LONG))
    good, bad = part(0, x=LONG), part(3, x=TEXT)
    result = Admitting(target, EVOLVE, {}).admit(decoded(good, bad, rejects=(Reject(2, "too-short", "…"),)))
    assert result.parts == [good]
    assert told(result) == [(2, "too-short"), (3, "schema-incompatible"), (4, "schema-incompatible")]
    assert result.rejects[1].reason == 'column "x" holds string, the table stores long: the values would change'


def test_rows_of_one_batch_never_contradict_one_another(lake: Lake) -> None:
    target = lake.target()
    write(target, 0, part(0, n=LONG))
    admitting = Admitting(target, EVOLVE, {})
    first, second = decoded(part(0, n=LONG, x=LONG)), decoded(part(0, n=LONG, x=TEXT))
    assert told(admitting.admit(first)) == []
    assert told(admitting.admit(second)) == [(0, "schema-incompatible"), (1, "schema-incompatible")]
    admitting.forget()
    assert told(admitting.admit(second)) == []
    assert told(admitting.admit(first)) == [(0, "schema-incompatible"), (1, "schema-incompatible")]


def test_what_waits_to_be_committed_still_counts_when_the_table_has_changed(lake: Lake) -> None:
    target = lake.target()
    write(target, 0, part(0, n=LONG))
    admitting = Admitting(target, EVOLVE, {})
    admitting.admit(decoded(part(0, n=LONG, x=LONG)))
    admitting.admit(decoded(part(0, n=LONG, y=LONG)))
    write(target, 2, part(0, n=LONG, x=LONG))
    assert told(admitting.admit(decoded(part(0, x=TEXT)))) == [(0, "schema-incompatible"), (1, "schema-incompatible")]
    assert told(admitting.admit(decoded(part(0, y=TEXT)))) == [(0, "schema-incompatible"), (1, "schema-incompatible")]


def test_a_verdict_changes_with_the_table(lake: Lake) -> None:
    target = lake.target()
    write(target, 0, part(0, x=LONG.cast(pa.int32())))
    admitting = Admitting(target, DEAD_LETTER, {})
    given = decoded(part(0, x=LONG))
    assert told(admitting.admit(given)) == [(0, "schema-change"), (1, "schema-change")]
    with lake.table().update_schema() as update:
        update.update_column("x", LongType())
    target.find()
    assert admitting.admit(given) is given


def test_a_rename_is_a_change_and_an_older_name_is_not(lake: Lake) -> None:
    target = lake.target()
    write(target, 0, part(0, old=LONG))
    renamed = decoded(part(0, "old", new=LONG))
    assert '"old" is renamed "new"' in Admitting(target, DEAD_LETTER, {}).admit(renamed).rejects[0].reason
    write(target, 2, part(0, "old", new=LONG))
    assert told(Admitting(target, DEAD_LETTER, {}).admit(decoded(part(0, old=LONG)))) == []


def require(lake: Lake, *columns: str) -> None:
    with lake.table().update_schema(allow_incompatible_changes=True) as update:
        for column in columns:
            update._set_column_requirement(column, required=True)


HOLES = pa.array([1, None])


def test_nulls_where_the_table_requires_a_value_go_row_by_row_unless_it_may_change(lake: Lake) -> None:
    target = lake.target()
    structs = pa.array([{"y": 1}, {"y": None}])
    write(target, 0, part(0, x=LONG, s=structs.slice(0, 1).take(pa.array([0, 0]))))
    require(lake, "x", "s.y")
    target.find()
    given = decoded(part(0, x=HOLES.take(pa.array([0, 1, 0])), s=structs.take(pa.array([0, 0, 1]))))
    assert Admitting(target, EVOLVE, {}).admit(given) is given
    result = Admitting(target, DEAD_LETTER, {}).admit(given)
    assert told(result) == [(1, "null-in-required"), (2, "null-in-required")]
    assert [reject.reason for reject in result.rejects] == [
        'the table requires "x", and it is null',
        'the table requires "s.y", and it is null',
    ]
    assert [(one.rows.num_rows, one.index.tolist()) for one in result.parts] == [(1, [0])]
    with pytest.raises(SchemaMismatchError, match='the table requires "x"'):
        Admitting(target, STOP, {}).admit(given)
    full = decoded(part(0, x=LONG, s=structs.take(pa.array([0, 0]))))
    for policy in SchemaChanges:
        assert told(Admitting(target, policy, {}).admit(full)) == []


def test_an_identifier_field_rejects_its_nulls_under_every_policy_but_stop(lake: Lake) -> None:
    target = lake.target()
    write(target, 0, part(0, x=LONG))
    require(lake, "x")
    with lake.table().update_schema() as update:
        update.set_identifier_fields("x")
    target.find()
    result = Admitting(target, EVOLVE, {}).admit(decoded(part(0, x=HOLES)))
    assert told(result) == [(1, "null-in-required")]
    write(target, 2, *result.parts)
    all_null = Admitting(target, EVOLVE, {}).admit(decoded(part(0, x=pa.array([None, None], pa.int64()))))
    assert (list(all_null.parts), len(all_null.rejects)) == ([], 2)


def test_a_field_with_the_name_of_a_metadata_column_is_told(lake: Lake) -> None:
    columns = {"_offset": "offset"}
    given = decoded(part(0, x=LONG), part(2, _offset=LONG))
    result = Admitting(lake.target(), EVOLVE, columns).admit(given)
    assert told(result) == [(2, "schema-incompatible"), (3, "schema-incompatible")]
    assert 'a column "_offset", and metadata_columns gives that name to another' in result.rejects[0].reason
    with pytest.raises(SchemaMismatchError, match="metadata_columns"):
        Admitting(lake.target(), STOP, columns).admit(given)


def test_metadata_columns_are_columns_of_the_table_too(lake: Lake) -> None:
    target = lake.target()
    write(target, 0, part(0, x=LONG))
    given = decoded(part(0, x=LONG))
    assert told(Admitting(target, DEAD_LETTER, {}).admit(given)) == []
    reasons = {one.reason for one in Admitting(target, DEAD_LETTER, {"_offset": "offset"}).admit(given).rejects}
    assert reasons == {'the table would have to change: "_offset" is added: long'}
