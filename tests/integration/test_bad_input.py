"""Refusals that only real servers give: told in a sentence with a way out, and nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pytest
from confluent_kafka import TopicPartition
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.minio import REGION, Minio
from servers.postgres import BOUNDED, Postgres
from servers.schema_registry import SchemaRegistry
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import TRADE, TRADES_TABLE, CommandLine, Feed, Site, configuration
from tests.e2e.test_bad_input import told

from lakeward.positions import Partition

__all__ = ["command_line", "shared_command_line"]

TABLE = "market_data.trades"


@pytest.fixture
def feed(kafka: Kafka, schema_registry: SchemaRegistry, fresh_topic: str) -> Feed:
    kafka.create_topic(fresh_topic, 2)
    return Feed(kafka.bootstrap_servers, fresh_topic, 2, schema_registry.register(f"{fresh_topic}-value", TRADE))


@pytest.fixture
def site(kafka: Kafka, schema_registry: SchemaRegistry, feed: Feed, command_line: CommandLine, tmp_path: Path) -> Site:
    """Trades from a fresh topic into local files."""
    table = {**TRADES_TABLE, "topics": [feed.topic]}
    document = configuration(kafka.bootstrap_servers, schema_registry.url, [table])
    document["name"] = feed.topic
    return Site(tmp_path, command_line, document)


def read_only(store: Minio) -> dict[str, str]:
    """Keys that may read everything in the store and write nothing."""
    keys = {"aws_access_key_id": store.access_key, "aws_secret_access_key": store.secret_key}
    sts = boto3.client("sts", endpoint_url=store.url, region_name=REGION, **keys)
    statement = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": ["arn:aws:s3:::*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    given = sts.assume_role(RoleArn="arn:aws:iam::1:role/reader", RoleSessionName="reader", Policy=policy)
    return {
        "s3.access-key-id": given["Credentials"]["AccessKeyId"],
        "s3.secret-access-key": given["Credentials"]["SecretAccessKey"],
        "s3.session-token": given["Credentials"]["SessionToken"],
    }


def test_keys_that_may_not_write_are_told(
    site: Site, feed: Feed, iceberg_rest: IcebergRest, s3: Minio, fresh_namespace: str
) -> None:
    properties = iceberg_rest.pyiceberg_properties
    site.document["sink"]["iceberg"] = {"catalog": {**properties, **read_only(s3)}}
    site.document["tables"][0]["table"] = f"{fresh_namespace}.trades"
    site.save()
    feed.trades(100)
    ended = site.run("run", "--until-caught-up")
    told(
        ended, 3, f"writing data files: s3://warehouse/{fresh_namespace}/trades", "refuses us", "Check the credentials"
    )
    site.document["sink"]["iceberg"] = {"catalog": properties}
    site.save()
    site.catch_up()
    assert site.differs(f"{fresh_namespace}.trades", feed.sent).exact


def test_a_namespace_that_may_not_be_made_is_told(
    site: Site, feed: Feed, postgres: Postgres, fresh_namespace: str, tmp_path: Path
) -> None:
    uri = postgres.dsn.replace("postgresql://", "postgresql+psycopg2://", 1)
    catalog: dict[str, Any] = {"type": "sql", "uri": uri, "warehouse": str(tmp_path / "lake")}
    site.document["sink"]["iceberg"] = {"catalog": catalog}
    site.document["tables"][0]["table"] = f"{fresh_namespace}.trades"
    site.save()
    site.catalog()  # makes the catalog's own tables, as their owner
    user = fresh_namespace
    with psycopg2.connect(postgres.dsn, **BOUNDED) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {user} LOGIN")
        cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
    connection.close()
    catalog["uri"] = uri.replace("postgres@", f"{user}@", 1)
    site.save()
    feed.trades(100)
    ended = site.run("run", "--until-caught-up")
    told(ended, 3, f"creating {fresh_namespace}.trades", "permission denied", "Check the credentials")
    catalog["uri"] = uri
    site.save()
    site.catch_up()
    assert site.differs(f"{fresh_namespace}.trades", feed.sent).exact


def test_retention_that_overtook_the_position_stops_the_table_or_is_accepted_and_recorded(
    site: Site, feed: Feed, kafka: Kafka
) -> None:
    feed.trades(200)
    site.catch_up()
    before = site.positions(TABLE)
    feed.trades(200)
    kept = [TopicPartition(feed.topic, n, before[Partition(feed.topic, n)] + 7) for n in (0, 1)]
    admin = kafka.admin()  # its answers come only while it lives
    for future in admin.delete_records(kept).values():
        future.result(30)
    told(site.run("run"), 4, f"{feed.topic}/", "7 offsets have expired", "on_lost_positions")
    site.document["source"]["kafka"]["on_lost_positions"] = "earliest"
    site.save()
    site.catch_up()
    difference = site.differs(TABLE, feed.sent)
    assert (difference.missing.num_rows, difference.extra.num_rows) == (14, 0)
    ended = site.run("verify")
    assert ended.code == 0, ended.out
    assert "14 offsets: " in ended.out


@pytest.mark.parametrize("running", [False, True], ids=["between runs", "under the writer"])
def test_a_topic_that_was_recreated_is_refused(site: Site, feed: Feed, kafka: Kafka, *, running: bool) -> None:
    """Also where the new topic has grown past the position."""
    feed.trades(200)
    site.catch_up()
    command = site.start("run") if running else None
    if command is not None:
        command.until_event("continues", 2)
        feed.trades(50)
        command.until_committed(50)
    held = site.held(TABLE).num_rows
    admin = kafka.admin()  # its answers come only while it lives
    admin.delete_topics([feed.topic])[feed.topic].result(30)
    kafka.create_topic(feed.topic, 2)
    feed.trades(1_000)
    ended = (command or site.start("run", "--until-caught-up")).wait()
    told(ended, 4, feed.topic)
    assert site.held(TABLE).num_rows == held
