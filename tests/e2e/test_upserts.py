"""Keyed topics mirrored into a table: the last value of a key is its row, and a tombstone deletes it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.e2e.rig import CommandLine, Site, configuration
from tests.others import rewrite

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import produce, producer_of

COMPANIES: dict[str, Any] = {
    "topics": ["companies"],
    "table": "reference_data.companies",
    "mode": "upsert",
    "key": ["company_id"],
    "decode_key": "string",
}


class KeyedTopic:
    """A keyed topic, and what it says: a dict."""

    def __init__(self, servers: str, topic: str, partitions: int, seed: int = 1) -> None:
        self._producer = producer_of(servers, {"log_level": 0})
        self._topic = topic
        self._partitions = partitions
        self._chance = random.Random(seed)
        self.held: dict[str, dict[str, Any]] = {}

    def send(self, *changes: tuple[str, dict[str, Any] | None]) -> None:
        """Send rows, or None for a tombstone, under their keys."""
        keys = [key.encode() for key, _ in changes]
        values = [None if row is None else json.dumps({"company_id": key, **row}).encode() for key, row in changes]
        homes = [int.from_bytes(key[-2:], "big") % self._partitions for key in keys]
        produce(self._producer, self._topic, values, keys, homes)
        for key, row in changes:
            if row is None:
                self.held.pop(key, None)
            else:
                self.held[key] = {"company_id": key, **row}

    def change(self, count: int, keys: int) -> None:
        """Send ``count`` random changes among so many keys: one in four deletes."""
        some = [f"C{self._chance.randrange(keys):04}" for _ in range(count)]
        self.send(
            *[
                (key, None if self._chance.random() < 0.25 else {"name": f"n{self._chance.random()}", "employees": i})
                for i, key in enumerate(some)
            ]
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.held[key] for key in sorted(self.held)]


class Companies(KeyedTopic):
    """The topic of `COMPANIES`, on an embedded broker."""

    def __init__(self, broker: EmbeddedBroker, partitions: int, seed: int = 1) -> None:
        broker.create("companies", partitions)
        super().__init__(broker.bootstrap_servers, "companies", partitions, seed)


def mirrored(site: Site) -> list[dict[str, Any]]:
    """What the table holds, read by DuckDB; PyIceberg and DataFusion read the same."""
    table = site.held(COMPANIES["table"]).sort_by("company_id")
    for found in (site.scanned(COMPANIES["table"]), site.queried(COMPANIES["table"])):
        assert table.to_pylist() == found.sort_by("company_id").select(table.column_names).to_pylist()
    return table.to_pylist()


def test_a_table_holds_the_last_value_of_each_key_and_nothing_of_deleted_ones(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    companies = Companies(broker, 2)
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [COMPANIES]))
    companies.send(("a", {"name": "x"}), ("b", {"name": "y"}), ("a", {"name": "z"}), ("c", None))
    site.catch_up()
    assert mirrored(site) == companies.rows == [{"company_id": "a", "name": "z"}, {"company_id": "b", "name": "y"}]
    companies.send(("b", None), ("c", {"name": "w"}), ("never", None))
    site.catch_up()
    assert mirrored(site) == companies.rows
    site.verified()


def test_random_changes_over_many_commits_and_kills_leave_what_the_topic_says(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    companies = Companies(broker, 3)
    document = configuration(broker.bootstrap_servers, None, [COMPANIES])
    document["source"]["kafka"]["group_id"] = "${GROUP:-last}"
    site = Site(tmp_path, command_line, document)
    chance = random.Random(3)
    companies.change(200, keys=300)
    for number in range(6):
        running = site.start("run", env={"GROUP": f"g{number}"})
        for commits in range(chance.randrange(1, 4)):
            companies.change(chance.randrange(1, 150), keys=300)
            running.until_event("committed", commits + 1)
        companies.change(chance.randrange(1, 150), keys=300)
        running.kill()
    site.catch_up()
    assert mirrored(site) == companies.rows
    assert site.breaks(COMPANIES["table"]) == []
    site.verified()


def test_a_change_without_a_key_is_set_aside_and_letters_of_a_mirror_are_not_brought_back_one_by_one(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    companies = Companies(broker, 1)
    companies.send(*[(f"k{i}", {"name": "x"}) for i in range(20)])
    produce(producer_of(broker.bootstrap_servers, {"log_level": 0}), "companies", [b'{"name": "nobody"}'])
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [COMPANIES]))
    site.catch_up()
    assert mirrored(site) == companies.rows
    (told,) = site.run("dead-letters", "list", "--json").document["tables"]
    assert [reason["reason"] for reason in told["reasons"]] == ["null-key"]
    refused = site.run("dead-letters", "replay")
    assert refused.code == 2
    assert "lakeward seek" in refused.err


def test_deleted_rows_may_stay_and_be_marked(broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path) -> None:
    companies = Companies(broker, 1)
    table = {**COMPANIES, "on_delete": "mark", "metadata_columns": {"_offset": "offset"}}
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [table]))
    companies.send(("a", {"name": "x"}), ("b", {"name": "y"}))
    site.catch_up()
    companies.send(("a", None), ("never", None))
    site.catch_up()
    assert mirrored(site) == [
        {"company_id": "a", "name": "x", "_cdc_deleted": True, "_offset": 2},
        {"company_id": "b", "name": "y", "_cdc_deleted": False, "_offset": 1},
    ]
    companies.send(("a", {"name": "back"}))
    site.catch_up()
    assert mirrored(site)[0] == {"company_id": "a", "name": "back", "_cdc_deleted": False, "_offset": 4}


def test_a_table_that_is_rolled_back_makes_its_changes_again(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    companies = Companies(broker, 1)
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [COMPANIES]))
    companies.change(50, keys=20)
    site.catch_up()
    before = site.history(COMPANIES["table"])[-1].snapshot_id
    companies.change(50, keys=20)
    site.catch_up()
    ended = site.run("rollback", COMPANIES["table"], "--to", str(before), "--yes")
    assert ended.code == 0, ended.err
    site.catch_up()
    assert mirrored(site) == companies.rows
    site.verified()


def test_an_audit_finds_what_somebody_else_did_to_a_mirror(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    companies = Companies(broker, 2)
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [COMPANIES]))
    companies.change(200, keys=60)
    site.catch_up()
    companies.change(100, keys=60)
    site.catch_up()
    fine = site.run("verify", "--against-source")
    assert fine.code == 0, fine.out
    assert "0 missing, 0 extra, 0 changed" in fine.out
    first, second, third = sorted(companies.held)[:3]
    other = site.catalog().load_table(COMPANIES["table"])
    other.delete(f"company_id in ('{first}', '{second}')")
    rows = site.scanned(COMPANIES["table"]).slice(0, 1).to_pylist()[0]
    schema = other.schema().as_arrow()
    forged = [{**rows, "company_id": second, "name": "forged"}, {**rows, "company_id": "never told"}]
    other.append(pa.Table.from_pylist(forged, schema))
    told = site.run("verify", "--against-source", "--json")
    assert told.code == 1
    (verdict,) = told.document["tables"]
    figures = verdict["figures"]["source"]
    assert [figures[name] for name in ("missing", "extra", "changed")] == [1, 1, 1], verdict["problems"]
    other.append(pa.Table.from_pylist([{**rows, "company_id": third}], schema))
    doubled = site.run("verify", "--json").document["tables"][0]
    assert any("different keys" in problem for problem in doubled["problems"]), doubled
    companies.change(10, keys=60)
    stopped = site.run("run", "--until-caught-up")
    assert stopped.code == 4
    assert "GROUP BY" in stopped.err, "the operator is told how to find the rows that are there twice"


@pytest.mark.parametrize("kept", ["all", "all but one", "deleted ones too"])
def test_a_mirror_compacted_by_another_program_must_hold_all_its_rows_and_no_others(
    kept: str, broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    companies = Companies(broker, 1)
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [COMPANIES]))
    for _ in range(2):
        companies.change(60, keys=40)
        site.catch_up()
    other = site.catalog().load_table(COMPANIES["table"])
    assert any(task.delete_files for task in other.scan().plan_files())
    rows = other.scan().to_arrow()
    deleted = int(site.history(COMPANIES["table"])[-1].summary["total-position-deletes"])
    back = pa.table({name: [f"back {n}" for n in range(deleted)] for name in ("company_id", "name")})
    given = {
        "all": rows,
        "all but one": rows.slice(1),
        # The totals say then that nothing was changed: as many rows are in the files as before.
        "deleted ones too": pa.concat_tables([rows, back], promote_options="default"),
    }
    rewrite(other, given[kept].cast(other.schema().as_arrow()))
    ended = site.run("verify")
    change = len(given[kept]) - len(rows)
    assert ended.code == (1 if change else 0), ended.out
    assert (f"changed the table by {change:+} rows" in ended.out) == bool(change)
    if not change:
        companies.change(30, keys=40)
        site.catch_up()
        assert mirrored(site) == companies.rows
        site.verified()


def test_rows_are_never_just_added_to_a_mirror(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    companies = Companies(broker, 1)
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [COMPANIES]))
    companies.change(20, keys=10)
    site.catch_up()
    table = {key: value for key, value in COMPANIES.items() if key in {"topics", "table"}}
    site.document["tables"] = [table]
    site.save()
    held = mirrored(site)
    companies.change(20, keys=10)
    ended = site.run("run", "--until-caught-up")
    assert ended.code == 4
    assert "mode: upsert" in ended.err
    assert mirrored(site) == held
