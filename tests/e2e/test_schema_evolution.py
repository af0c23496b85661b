"""What becomes of records whose schema the table does not have, by policy, from the command line."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest
from tests.e2e.rig import CommandLine, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import produce, producer_of
from lakeward.testing.registry import EmbeddedRegistry

VERSIONS: dict[str, list[dict[str, Any]]] = {
    "first": [{"name": "n", "type": "long"}, {"name": "x", "type": "int"}],
    "wider": [{"name": "n", "type": "long"}, {"name": "z", "type": "long", "aliases": ["x"]}],
    "other": [{"name": "n", "type": "long"}, {"name": "x", "type": "string"}],
}
Send = Callable[..., None]


@pytest.fixture
def send(broker: EmbeddedBroker, registry: EmbeddedRegistry) -> Send:
    """Sends one record of a version."""
    broker.create("t", 1)
    producer = producer_of(broker.bootstrap_servers, {"log_level": 0})
    schemas = {name: {"type": "record", "name": "R", "fields": fields} for name, fields in VERSIONS.items()}
    ids = {name: registry.register("t-value", json.dumps(schema)) for name, schema in schemas.items()}

    def send(version: str, **record: Any) -> None:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schemas[version], record)
        produce(producer, "t", [struct.pack(">bI", 0, ids[version]) + out.getvalue()])

    return send


def site_of(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, line: CommandLine, folder: Path, tables: list[dict[str, Any]]
) -> Site:
    return Site(folder, line, configuration(broker.bootstrap_servers, registry.url, tables))


def rows(site: Site, table: str) -> list[dict[str, Any]]:
    return sorted(site.held(table).to_pylist(), key=lambda row: int(row["n"]))


def test_a_table_evolves_or_sets_aside_and_what_was_set_aside_comes_back(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path, send: Send
) -> None:
    policies = {"a.evolving": "evolve", "a.steady": "dead-letter"}
    tables = [{"topics": ["t"], "table": name, "schema_changes": policy} for name, policy in policies.items()]
    site = site_of(broker, registry, command_line, tmp_path, tables)
    send("first", n=0, x=1)
    site.catch_up()
    send("wider", n=1, z=2**40)
    send("other", n=2, x="text")
    send("first", n=3, x=3)
    site.catch_up()
    assert rows(site, "a.evolving") == [{"n": 0, "z": 1}, {"n": 1, "z": 2**40}, {"n": 3, "z": 3}]
    assert rows(site, "a.steady") == [{"n": 0, "x": 1}, {"n": 3, "x": 3}]
    told = {one["table"]: one for one in site.run("dead-letters", "list", "--json").document["tables"]}
    reasons = {name: {one["reason"]: one["letters"] for one in table["reasons"]} for name, table in told.items()}
    assert reasons == {
        "a.evolving": {"schema-incompatible": 1},
        "a.steady": {"schema-change": 1, "schema-incompatible": 1},
    }
    (letter,) = told["a.evolving"]["letters"]
    assert (letter["schema_id"], letter["message"]) == (
        3,
        'column "x" holds string, the table stores long: the values would change',
    )
    ended = site.run("verify", "--against-source")
    assert ended.code == 0, ended.out + ended.err

    site.document["tables"][1]["schema_changes"] = "evolve"
    site.save()
    assert "1 became rows" in site.run("dead-letters", "replay", "a.steady", "--reason", "schema-change").out
    assert rows(site, "a.steady") == rows(site, "a.evolving")


def test_a_table_that_may_not_change_stops_and_says_what_it_would_need(
    broker: EmbeddedBroker, registry: EmbeddedRegistry, command_line: CommandLine, tmp_path: Path, send: Send
) -> None:
    table = {"topics": ["t"], "table": "a.fixed", "schema_changes": "stop"}
    site = site_of(broker, registry, command_line, tmp_path, [table])
    send("first", n=0, x=1)
    site.catch_up()
    send("first", n=1, x=2)
    send("wider", n=2, z=3)
    ended = site.run("run", "--until-caught-up")
    assert ended.code == 4
    for word in ("a.fixed", '"x" is renamed "z"', "widened from int to long", "schema_changes: evolve"):
        assert word in ended.err
    site.document["tables"][0]["schema_changes"] = "evolve"
    site.save()
    site.catch_up()
    assert rows(site, "a.fixed") == [{"n": 0, "z": 1}, {"n": 1, "z": 2}, {"n": 2, "z": 3}]
