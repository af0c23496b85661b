"""Dead letters of a real broker and registry, in a real REST catalog on S3: kills, the fix, the replay."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.schema_registry import SchemaRegistry
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration

from lakeward.testing.producing import producer_of

__all__ = ["command_line", "shared_command_line"]


def test_rows_and_letters_are_the_messages_and_rows_alone_after_the_fix(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    iceberg_rest: IcebergRest,
    fresh_topic: str,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    name = f"{fresh_namespace}.trades"
    kafka.create_topic(fresh_topic, 3)
    schema_id = schema_registry.register(f"{fresh_topic}-value", TRADE)
    good = Feed(kafka.bootstrap_servers, fresh_topic, 3, schema_id, seed=1)
    unknown = schema_id + 20
    bad = Feed(kafka.bootstrap_servers, fresh_topic, 3, unknown, seed=2)
    table = {**TRADES_TABLE, "topics": [fresh_topic], "table": name}
    catalog = {"catalog": iceberg_rest.pyiceberg_properties}
    document = configuration(kafka.bootstrap_servers, schema_registry.url, [table], catalog)
    document["name"] = document["source"]["kafka"]["group_id"] = fresh_topic
    site = Site(tmp_path, command_line, document)
    for _ in range(3):
        running = site.start("run")
        good.trades(2_000)
        bad.trades(20)
        running.until_event("dead letters")
        running.kill()
    producer = producer_of(kafka.bootstrap_servers, {"log_level": 0})
    producer.produce(fresh_topic, b"\x07 not Avro", b"key", 0, headers=[("trace", b"\x01"), ("trace", None)])
    assert producer.flush(60) == 0
    end = site.catch_up()
    assert "not Avro" not in end.err
    assert site.differs(name, good.sent).exact
    told = site.run("dead-letters", "list", "--limit", "100", "--json").document["tables"][0]
    assert told["count"] == 61
    (foreign,) = [letter for letter in told["letters"] if letter["reason"] != "unknown-schema-id"]
    place = "/".join(str(foreign[key]) for key in ("topic", "partition", "offset"))
    (shown,) = site.run("dead-letters", "show", name, place, "--json").document
    assert [header["name"] for header in shown["headers"]] == ["trace", "trace"]

    ids = (
        schema_registry.register(f"{fresh_topic}-{k}", json.dumps({**json.loads(TRADE), "doc": f"{fresh_topic} {k}"}))
        for k in range(40)
    )
    assert unknown in ids
    ended = site.run("dead-letters", "replay", "--json")
    assert ended.code == 1
    assert ended.document["tables"][0]["rows"] == 60
    assert sum(ended.document["tables"][0]["failed"].values()) == 1
    assert site.differs(name, pa.concat_tables([good.sent, bad.sent])).exact
    audited = site.run("verify", "--against-source")
    assert audited.code == 0, audited.out
    assert "1 dead letter left out" in audited.out
