"""The servers that the other tests stand on do what those tests rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pyarrow as pa
import pytest
import requests
from botocore.exceptions import ClientError
from confluent_kafka import Consumer, Producer
from pyiceberg.catalog import load_catalog
from servers.debezium import Debezium, Envelope, converters
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.minio import Minio
from servers.mongodb import MongoDb
from servers.postgres import BOUNDED, Postgres
from servers.process import Server
from servers.releases import HOME, NotInstalledError, Release, ServerError
from servers.schema_registry import SchemaRegistry

from lakeward.sources.kafka_client import close

TRADE = json.dumps({"type": "record", "name": "Trade", "fields": [{"name": "volume", "type": "long"}]})
TRADE_NARROWED = json.dumps({"type": "record", "name": "Trade", "fields": [{"name": "volume", "type": "boolean"}]})


def produce(kafka: Kafka, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "acks": "all"})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def consume(kafka: Kafka, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    try:
        return [message.value() for message in consumer.consume(count, 30)]
    finally:
        close(consumer)


def test_kafka_gives_back_what_was_produced(kafka: Kafka, fresh_topic: str) -> None:
    kafka.create_topic(fresh_topic, partitions=3)
    produce(kafka, fresh_topic, b"one", b"two", b"three")
    assert sorted(consume(kafka, fresh_topic, 3)) == [b"one", b"three", b"two"]


def test_kafka_refuses_a_topic_that_exists(kafka: Kafka, fresh_topic: str) -> None:
    kafka.create_topic(fresh_topic)
    with pytest.raises(ServerError, match=fresh_topic):
        kafka.create_topic(fresh_topic)


def test_kafka_killed_and_restarted_keeps_its_records_and_its_address(own_kafka: Kafka) -> None:
    own_kafka.create_topic("kept")
    produce(own_kafka, "kept", b"before")
    address = own_kafka.bootstrap_servers
    own_kafka.kill()
    assert not own_kafka.running
    own_kafka.restart()
    assert own_kafka.bootstrap_servers == address
    produce(own_kafka, "kept", b"after")
    assert consume(own_kafka, "kept", 2) == [b"before", b"after"]


def test_the_registry_hands_out_ids_and_refuses_what_readers_cannot_read(schema_registry: SchemaRegistry) -> None:
    number = schema_registry.register("trades-value", TRADE)
    answer = requests.get(f"{schema_registry.url}/schemas/ids/{number}", timeout=30).json()
    assert json.loads(answer["schema"]) == json.loads(TRADE)
    with pytest.raises(ServerError, match="409"):
        schema_registry.register("trades-value", TRADE_NARROWED)


def test_the_registry_answers_again_after_a_pause(schema_registry: SchemaRegistry) -> None:
    schema_registry.pause()
    try:
        with pytest.raises(requests.Timeout):
            requests.get(f"{schema_registry.url}/subjects", timeout=0.3)
    finally:
        schema_registry.resume()
    assert requests.get(f"{schema_registry.url}/subjects", timeout=30).status_code == 200


def test_the_store_lets_only_one_writer_create_an_object(s3: Minio, fresh_bucket: str) -> None:
    client = s3.client()
    client.put_object(Bucket=fresh_bucket, Key="a/b", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=fresh_bucket, Key="a/b", Body=b"second", IfNoneMatch="*")
    assert client.get_object(Bucket=fresh_bucket, Key="a/b")["Body"].read() == b"first"


def test_the_catalog_keeps_a_table_in_the_store(iceberg_rest: IcebergRest, fresh_namespace: str) -> None:
    catalog = load_catalog("rest", **iceberg_rest.pyiceberg_properties)
    catalog.create_namespace(fresh_namespace)
    table = catalog.create_table((fresh_namespace, "trades"), pa.schema({"volume": pa.int64()}))
    table.append(pa.table({"volume": [1, 2]}))
    assert catalog.load_table((fresh_namespace, "trades")).scan().to_arrow()["volume"].to_pylist() == [1, 2]
    assert table.location().startswith(iceberg_rest.warehouse)


def test_a_killed_catalog_and_store_keep_their_tables(tmp_path: Path, iceberg_rest: IcebergRest) -> None:
    assert iceberg_rest.running
    with Minio(tmp_path / "s3") as store, IcebergRest(tmp_path / "rest", store) as own:
        catalog = load_catalog("rest", **own.pyiceberg_properties)
        catalog.create_namespace("kept")
        catalog.create_table("kept.trades", pa.schema({"volume": pa.int64()})).append(pa.table({"volume": [1]}))
        own.kill()
        store.kill()
        store.restart()
        own.restart()
        assert catalog.load_table("kept.trades").scan().count() == 1


def test_postgres_answers_and_decodes_logically(postgres: Postgres) -> None:
    with closing(psycopg2.connect(postgres.dsn, **BOUNDED)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1, current_setting('wal_level')")
        assert cursor.fetchone() == (1, "logical")


def test_a_killed_postgres_keeps_what_was_committed(tmp_path: Path, postgres: Postgres) -> None:
    assert postgres.running
    with Postgres(tmp_path) as own:
        with closing(psycopg2.connect(own.dsn, **BOUNDED)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE kept AS SELECT 7 AS a")
        own.kill()
        own.restart()
        with closing(psycopg2.connect(own.dsn, **BOUNDED)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT a FROM kept")
            assert cursor.fetchone() == (7,)


def test_mongodb_keeps_documents_and_survives_a_kill(tmp_path: Path, mongodb: MongoDb) -> None:
    assert mongodb.running
    with MongoDb(tmp_path) as own:
        with own.client() as client:
            client.kept.things.insert_one({"_id": 1, "a": 7})
        own.kill()
        own.restart()
        with own.client() as client:
            assert client.kept.things.find_one() == {"_id": 1, "a": 7}


@pytest.mark.parametrize("envelope", Envelope)
def test_debezium_tells_what_was_there_and_what_changes(
    debezium: Debezium,
    kafka: Kafka,
    postgres: Postgres,
    schema_registry: SchemaRegistry,
    fresh_namespace: str,
    envelope: Envelope,
) -> None:
    topic = kafka.create_topic(f"{fresh_namespace}.{fresh_namespace}.items")
    with closing(psycopg2.connect(postgres.dsn, **BOUNDED)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"CREATE SCHEMA {fresh_namespace}")
        cursor.execute(f"CREATE TABLE {fresh_namespace}.items AS SELECT 1 AS a")
        settings = converters(envelope, schema_registry)
        debezium.follow_postgres(fresh_namespace, postgres, fresh_namespace, settings)
        cursor.execute(f"INSERT INTO {fresh_namespace}.items VALUES (2)")
        events = consume(kafka, topic, 2)
    debezium.delete(fresh_namespace)
    if envelope is Envelope.AVRO:
        numbers = [int.from_bytes(event[1:5], "big") for event in events if event is not None]
        answer = requests.get(f"{schema_registry.url}/schemas/ids/{numbers[0]}", timeout=30).json()
        assert json.loads(answer["schema"])["name"] == "Envelope"
        return
    documents = [json.loads(event) for event in events if event is not None]
    payloads = [document["payload"] if envelope is Envelope.JSON_WITH_SCHEMA else document for document in documents]
    assert [(payload["op"], payload["after"]) for payload in payloads] == [("r", {"a": 1}), ("c", {"a": 2})]


def test_a_server_whose_port_is_taken_does_not_start(tmp_path: Path, s3: Minio) -> None:
    with pytest.raises(ServerError, match=f"port {s3.port}"):
        Minio(tmp_path, port=s3.port).start()


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path, kafka: Kafka) -> None:
    assert kafka.running
    (tmp_path / "data").mkdir()
    broken = Kafka(tmp_path)
    with pytest.raises(ServerError, match=r"(?s)died before it was ready.*meta\.properties"):
        broken.start()
    assert not broken.running


def test_a_server_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(NotInstalledError, match="python -m servers install"):
        Minio(tmp_path / "data", home=tmp_path)


def test_an_interrupted_installation_starts_again(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Release("some", "1", interrupted).install_into(tmp_path)
    release = Release("some", "1", lambda folder: (folder / "whole").touch())
    assert not release.is_installed(tmp_path)
    release.install_into(tmp_path)
    assert release.is_installed(tmp_path)
    assert {file.name for file in release.folder(tmp_path).iterdir()} == {"whole", "installed"}
    assert not Release("some", "2", release.install).is_installed(tmp_path)


START_AND_WAIT = """
import sys, time
from pathlib import Path
from servers.{module} import {server}
running = {server}(Path(sys.argv[1])).start()
print(running.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("module", "server"), [("minio", Minio), ("postgres", Postgres)])
def test_a_server_dies_with_the_process_that_started_it(
    tmp_path: Path, module: str, server: type[Server], s3: Minio, postgres: Postgres
) -> None:
    assert s3.running, postgres.running
    program = START_AND_WAIT.format(module=module, server=server.__name__)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=HOME.parent,
    ) as starter:
        try:
            assert starter.stdout is not None
            started = psutil.Process(int(starter.stdout.readline()))
        finally:
            starter.kill()
    assert psutil.wait_procs([started], timeout=30)[1] == []
