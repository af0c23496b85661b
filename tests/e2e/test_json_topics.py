"""Topics of JSON that nobody has declared, and topics that nobody decodes, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.rig import CommandLine, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import produce, producer_of


def send(broker: EmbeddedBroker, *records: Any) -> None:
    payloads = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    produce(producer_of(broker.bootstrap_servers, {"log_level": 0}), "t", payloads)


def rows(site: Site, table: str) -> list[dict[str, Any]]:
    return sorted(site.held(table).to_pylist(), key=lambda row: int(row["n"]))


def test_new_fields_of_undeclared_json_follow_the_policy_of_each_table_and_verify(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("t", 1)
    policies = {"a.evolving": "evolve", "a.steady": "dead-letter"}
    tables: list[dict[str, Any]] = [
        {"topics": ["t"], "table": name, "schema_changes": policy, "columns": {"exclude": ["noise"]}}
        for name, policy in policies.items()
    ]
    tables.append({"topics": ["t"], "table": "a.raw", "decode": "bytes", "metadata_columns": {"n": "offset"}})
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, tables))
    framed = b"\0\0\0\0\1" + json.dumps({"n": 1, "noise": 1}).encode()
    send(broker, {"n": 0, "noise": 1, "user": {"id": 7}}, framed)
    site.catch_up()
    send(broker, {"n": 2, "noise": [1]}, {"n": 3, "user": {"id": 8, "name": "x"}}, {"n": 4, "new": 0.5}, {"n": 5.5})
    site.catch_up()
    assert rows(site, "a.evolving") == [
        {"n": 0, "user": {"id": 7, "name": None}, "new": None},
        {"n": 1, "user": None, "new": None},
        {"n": 2, "user": None, "new": None},
        {"n": 3, "user": {"id": 8, "name": "x"}, "new": None},
        {"n": 4, "user": None, "new": 0.5},
    ]
    assert [row["n"] for row in rows(site, "a.steady")] == [0, 1, 2]
    assert rows(site, "a.raw")[1] == {"value": framed, "n": 1}
    told = {one["table"]: one for one in site.run("dead-letters", "list", "--json").document["tables"]}
    reasons = {name: {one["reason"]: one["letters"] for one in table["reasons"]} for name, table in told.items()}
    assert reasons["a.evolving"] == {"not-an-integer": 1}
    assert reasons["a.steady"] == {"undeclared-field": 2, "not-an-integer": 1}
    ended = site.run("verify", "--against-source")
    assert ended.code == 0, ended.out + ended.err
