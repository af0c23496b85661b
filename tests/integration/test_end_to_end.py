"""The whole pipeline on real servers: what was sent is in the tables, value by value, whatever they go through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from confluent_kafka import Producer
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka
from servers.minio import Minio
from servers.postgres import Postgres
from servers.schema_registry import SchemaRegistry
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import JSON_TRADE, QUOTE, TRADE, TRADES_TABLE, CommandLine, Feed, Site, Stream, configuration

from lakeward.config import CATALOG_NAME
from lakeward.sinks.iceberg.catalog import open_catalog
from lakeward.testing.generators import Market, avro_payloads
from lakeward.testing.oracle import compare, held, rows_of
from lakeward.testing.waiting import joined, returned

__all__ = ["command_line", "shared_command_line"]


@pytest.fixture(params=["rest-s3", "postgres-files", "postgres-s3"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The properties of each kind of catalog and store."""
    if request.param == "rest-s3":
        rest: IcebergRest = request.getfixturevalue("iceberg_rest")
        return rest.pyiceberg_properties
    postgres: Postgres = request.getfixturevalue("postgres")
    uri = postgres.dsn.replace("postgresql://", "postgresql+psycopg2://", 1)
    if request.param == "postgres-files":
        return {"type": "sql", "uri": uri, "warehouse": str(tmp_path / "lake")}
    store: Minio = request.getfixturevalue("s3")
    bucket: str = request.getfixturevalue("fresh_bucket")
    return {"type": "sql", "uri": uri, "warehouse": f"s3://{bucket}/lake", **store.pyiceberg_properties}


def test_trades_quotes_and_json_reach_three_tables_exactly(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    catalog: dict[str, Any],
    fresh_topic: str,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    servers = kafka.bootstrap_servers
    names = {kind: kafka.create_topic(f"{fresh_topic}-{kind}", 3) for kind in ("trades", "quotes", "clicks")}
    trades = Feed(servers, names["trades"], 3, schema_registry.register(f"{names['trades']}-value", TRADE), seed=1)
    quotes = Feed(servers, names["quotes"], 3, schema_registry.register(f"{names['quotes']}-value", QUOTE), seed=2)
    clicks = Feed(servers, names["clicks"], 3, None, seed=3)
    feeds = {"trades": trades, "quotes": quotes, "clicks": clicks}
    tables = [
        {**TRADES_TABLE, "topics": [names["trades"]], "table": f"{fresh_namespace}.trades"},
        {"topics": [names["quotes"]], "table": f"{fresh_namespace}.quotes", "partition_by": ["bucket(4, symbol)"]},
        {
            "topics": [names["clicks"]],
            "table": f"{fresh_namespace}.clicks",
            "decode": {"json": {"fields": JSON_TRADE}},
        },
    ]
    document = configuration(servers, schema_registry.url, tables, {"catalog": catalog})
    document["name"] = fresh_topic
    site = Site(tmp_path, command_line, document)
    for _ in range(2):
        trades.trades(20_000)
        quotes.quotes(10_000)
        clicks.trades(5_000)
        site.catch_up()
    for kind, feed in feeds.items():
        table = f"{fresh_namespace}.{kind}"
        difference = site.differs(table, feed.sent)
        assert difference.exact, difference
        scanned = compare(feed.sent, site.scanned(table))
        assert scanned.exact, scanned
        assert site.breaks(table) == []
    site.verified()
    status = site.run("status", "--json").document
    assert [(table["rows"], table["lag"]) for table in status["tables"]] == [(40_000, 0), (20_000, 0), (10_000, 0)]


def test_consume_is_one_line_and_the_second_call_continues(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    iceberg_rest: IcebergRest,
    fresh_topic: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    kafka.create_topic(fresh_topic, 3)
    feed = Feed(kafka.bootstrap_servers, fresh_topic, 3, schema_registry.register(f"{fresh_topic}-value", TRADE))
    feed.trades(2_000)
    line = (
        *("consume", "--topic", fresh_topic, "--max-messages", "1000", "--batch-size", "1000", "--name", fresh_topic),
        *("--brokers", kafka.bootstrap_servers, "--registry", schema_registry.url),
        *("--table", "market_data.trades", "--warehouse", "./lake"),
    )
    for count in ("1,000", "2,000"):
        ended = command_line.run(*line, cwd=tmp_path)
        assert ended.code == 0, ended.err[-3000:]
        assert f"market_data.trades: 1,000 rows in 1 commit, {count} in the table" in ended.out
    properties = {
        "name": CATALOG_NAME,
        "type": "sql",
        "uri": f"sqlite:///{tmp_path}/lake/catalog.db",
        "warehouse": f"{tmp_path}/lake",
    }
    difference = compare(feed.sent, held(open_catalog(properties).load_table("market_data.trades"), properties))
    assert difference.exact, difference


@pytest.fixture
def site(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    fresh_topic: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> Site:
    """Trades from a fresh topic with two partitions into local files."""
    kafka.create_topic(fresh_topic, 2)
    document = configuration(
        kafka.bootstrap_servers, schema_registry.url, [{**TRADES_TABLE, "topics": [fresh_topic]}], interval="100ms"
    )
    document["name"] = fresh_topic
    return Site(tmp_path, command_line, document)


TABLE = "market_data.trades"


def test_aborted_transactions_leave_no_row_and_no_lag(
    site: Site, kafka: Kafka, schema_registry: SchemaRegistry, fresh_topic: str
) -> None:
    schema_id = schema_registry.register(f"{fresh_topic}-value", TRADE)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": fresh_topic, "log_level": 0})
    producer.init_transactions(30)
    market, sent = Market(7), []

    def transact(count: int, *, commit: bool) -> None:
        trades = market.trades(count)
        payloads = avro_payloads(trades, schema_id)
        producer.begin_transaction()
        for index in range(count):
            producer.produce(fresh_topic, payloads.get(index), partition=index % 2)
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
            sent.append(rows_of(trades))
        else:
            producer.abort_transaction(30)

    for _ in range(2):
        for commit in (True, False, True, False):
            transact(200, commit=commit)
        site.catch_up()
        difference = site.differs(TABLE, pa.concat_tables(sent))
        assert difference.exact, difference
        [table] = site.run("status", "--json").document["tables"]
        assert table["lag"] == 0
    # 16 transactions of half that many records in each partition, each with a marker behind it.
    assert all(end == 8 * (100 + 1) for end in site.positions(TABLE).values())
    site.verified()


def test_a_broker_that_is_killed_while_we_run_is_waited_for(
    own_kafka: Kafka, schema_registry: SchemaRegistry, fresh_topic: str, command_line: CommandLine, tmp_path: Path
) -> None:
    own_kafka.create_topic(fresh_topic, 3)
    schema_id = schema_registry.register(f"{fresh_topic}-value", TRADE)
    feed = Feed(own_kafka.bootstrap_servers, fresh_topic, 3, schema_id)
    document = configuration(
        own_kafka.bootstrap_servers, schema_registry.url, [{**TRADES_TABLE, "topics": [fresh_topic]}]
    )
    site = Site(tmp_path, command_line, document)
    feed.trades(500)
    command = site.start("run")
    command.until_committed(500)
    with Stream(feed):
        own_kafka.kill()
        command.until_event("brokers do not answer; waiting for them")
        own_kafka.start()
        command.until_event("brokers answer again")
        seen = command.committed
        command.until_committed(seen + 500)
        own_kafka.restart()
        seen = command.committed
        command.until_committed(seen + 500)
    command.kill()
    site.catch_up()
    difference = site.differs(TABLE, feed.sent)
    assert difference.exact, difference
    site.verified()


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Minio]:
    with Minio(tmp_path / "s3") as running:
        yield running


@pytest.fixture
def own_catalog(tmp_path: Path, own_store: Minio) -> Iterator[IcebergRest]:
    with IcebergRest(tmp_path / "rest", own_store) as running:
        yield running


def test_catalog_and_store_that_hang_or_die_while_we_commit_are_waited_for(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    own_store: Minio,
    own_catalog: IcebergRest,
    fresh_topic: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    kafka.create_topic(fresh_topic, 3)
    feed = Feed(kafka.bootstrap_servers, fresh_topic, 3, schema_registry.register(f"{fresh_topic}-value", TRADE))
    bounds = {f"{server}-timeout": "1" for server in ("rest.connect", "rest.read", "s3.connect", "s3.request")}
    document = configuration(
        kafka.bootstrap_servers,
        schema_registry.url,
        [{**TRADES_TABLE, "topics": [fresh_topic]}],
        {"catalog": {**own_catalog.pyiceberg_properties, **bounds}},
        interval="100ms",
    )
    document["name"] = fresh_topic
    document["flush"]["rows"] = 1_000  # both batches are soon full, so that backpressure is part of it
    site = Site(tmp_path, command_line, document)
    command = site.start("run")

    def trouble() -> int:
        return len([event for event in command.events() if event["event"] in {"trying again", "looking"}])

    with Stream(feed):
        command.until_event("committed")
        for server in (own_catalog, own_store):
            for stop, go_on in ((server.pause, server.resume), (server.kill, server.start)):
                before = trouble()
                stop()
                command.until(lambda least=before + 1: trouble() >= least, "it noticed that a server is away")
                go_on()
                commits = len(command.events("committed"))
                command.until_event("committed", commits + 3)
    command.kill()
    site.catch_up()
    difference = site.differs(TABLE, feed.sent)
    assert difference.exact, difference
    assert site.breaks(TABLE) == []
    site.verified()


class Proxy:
    """Stands before a REST catalog and spoils the answers to its commits, one after the other, as planned."""

    def __init__(self, upstream: str, faults: list[str]) -> None:
        self.left = faults
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                commits = self.command == "POST" and b"add-snapshot" in body
                fault = proxy.left.pop(0) if commits and proxy.left else ""
                if fault == "refused":
                    return self._answer(409, b"{}")
                if fault == "unavailable":
                    return self._answer(503, b"{}")
                headers = {k: v for k, v in self.headers.items() if k.lower() not in {"host", "accept-encoding"}}
                got = requests.request(self.command, upstream + self.path, data=body, headers=headers, timeout=30)
                if fault == "lost":
                    self.close_connection = True
                    return None
                spoiled = {"conflict after success": 409, "error after success": 500, "alien after success": 200}
                if fault:
                    return self._answer(spoiled[fault], b"{}")
                return self._answer(got.status_code, got.content)

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815 -- the names that http.server looks for

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        returned(self._server.shutdown, "the proxy's stop")
        joined(self._thread, "the proxy")
        self._server.server_close()


def test_answers_to_commits_that_are_lost_or_wrong_are_looked_through(
    kafka: Kafka,
    schema_registry: SchemaRegistry,
    iceberg_rest: IcebergRest,
    fresh_topic: str,
    fresh_namespace: str,
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    kafka.create_topic(fresh_topic, 3)
    feed = Feed(kafka.bootstrap_servers, fresh_topic, 3, schema_registry.register(f"{fresh_topic}-value", TRADE))
    faults = ["refused", "lost", "conflict after success", "error after success", "alien after success", "unavailable"]
    proxy = Proxy(iceberg_rest.url, [*faults, *faults[::-1], "lost", "lost"])
    table = {**TRADES_TABLE, "topics": [fresh_topic], "table": f"{fresh_namespace}.trades"}
    catalog = {**iceberg_rest.pyiceberg_properties, "uri": proxy.url}
    document = configuration(kafka.bootstrap_servers, schema_registry.url, [table], {"catalog": catalog}, "50ms")
    document["name"] = fresh_topic
    site = Site(tmp_path, command_line, document)
    command = site.start("run")
    with Stream(feed):
        command.until(lambda: not proxy.left, "all faults have struck")
        command.until_event("committed", len(command.events("committed")) + 2)
    command.kill()
    site.catch_up()
    difference = site.differs(f"{fresh_namespace}.trades", feed.sent)
    assert difference.exact, difference
    assert site.breaks(f"{fresh_namespace}.trades") == []
    site.verified()
    proxy.close()
