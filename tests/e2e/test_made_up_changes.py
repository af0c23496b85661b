"""Made-up databases are mirrored: thousands of changes, keys that change among them, in many small commits."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.rig import CommandLine, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.change_events import PostgresTable
from lakeward.testing.producing import producer_of


@pytest.mark.parametrize("seed", [1])
def test_a_table_whose_keys_change_is_mirrored(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path, seed: int
) -> None:
    made = PostgresTable(seed, prefix=f"shop{seed}")
    broker.create(made.topic, 1)
    table = {"topics": [made.topic], "table": "shop.orders", "mode": "upsert"}
    document = configuration(broker.bootstrap_servers, None, [table])
    document["decode"] = {"debezium": {"format": "json"}}
    site = Site(tmp_path, command_line, document)
    producer = producer_of(broker.bootstrap_servers, {"log_level": 0})
    events = [*made.snapshot(50), *made.changes(3000)]
    for at in range(0, len(events), 701):
        some = events[at : at + 701]
        headers = [list(one.headers.items()) for one in some]
        for one, more in zip(some, headers, strict=True):
            producer.produce(made.topic, one.value, one.key, partition=0, headers=more)
        assert producer.flush(60) == 0
        site.catch_up()
    held = site.held("shop.orders").to_pylist()
    assert sorted(held, key=lambda row: row["id"]) == [made.rows[key] for key in sorted(made.rows)]
