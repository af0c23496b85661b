"""Makes the captures in `tests/fixtures/debezium` again: python -m tests.integration.capturing [NAME …]."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg2
import requests
from bson import CodecOptions
from bson.codec_options import DatetimeConversion
from bson.json_util import JSONMode, JSONOptions, dumps, loads
from confluent_kafka import Consumer, TopicPartition
from pymongo.client_session import ClientSession
from servers.debezium import RELEASE as DEBEZIUM
from servers.debezium import Debezium, Envelope, converters
from servers.kafka import RELEASE as KAFKA
from servers.kafka import Kafka
from servers.mongodb import MongoDb
from servers.postgres import BOUNDED, Postgres
from servers.releases import ServerError
from servers.schema_registry import SchemaRegistry
from tests.fixtures.captures import FOLDER, Capture, Event, Shown, Step, save
from tests.integration import scenarios_mongodb as mongodb
from tests.integration import scenarios_postgres as postgres
from tests.integration.workload import shown

from lakeward.sources.kafka_client import close

FENCE = "zz_fence"  # the last in a snapshot too
_PATIENCE_S = 30.0
_ENVELOPES = {"json": Envelope.JSON, "schemas": Envelope.JSON_WITH_SCHEMA, "avro": Envelope.AVRO}
_PLAIN = {"extended.headers.enabled": "false"}
"""Four headers about the connector, the same in each event, are kept in one capture only."""
_UNWRAP = {
    "transforms": "unwrap",
    "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
    "transforms.unwrap.delete.tombstone.handling.mode": "rewrite-with-tombstone",
    "transforms.unwrap.add.fields": "op,lsn,source.ts_ms",
}
_UNWRAP_DOCUMENTS = {
    **{name: value for name, value in _UNWRAP.items() if not name.endswith("add.fields")},
    "transforms.unwrap.type": "io.debezium.connector.mongodb.transforms.ExtractNewDocumentState",
    "transforms.unwrap.add.fields": "op,source.ts_ms",
}
_OPTIONS = JSONOptions(json_mode=JSONMode.CANONICAL, datetime_conversion=DatetimeConversion.DATETIME_MS)
_CODEC = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_MS)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is there when the connector starts, and what is done then, step by step."""

    name: str
    tables: Sequence[str]
    there: Sequence[str]
    steps: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One capture: its source and scenario, how events are written, and the connector's settings beyond the usual."""

    name: str
    scenario: Scenario
    envelope: str = "json"
    settings: Mapping[str, str] = field(default_factory=dict)


KINDS = Scenario("postgres-kinds", [postgres.KINDS_TABLE], postgres.KINDS_THERE, postgres.KINDS_STEPS)
AMOUNTS = Scenario("postgres-amounts", [postgres.AMOUNTS_TABLE], postgres.AMOUNTS_THERE, postgres.AMOUNTS_STEPS)
TIMES = Scenario("postgres-times", [postgres.TIMES_TABLE], postgres.TIMES_THERE, postgres.TIMES_STEPS)
FLOW = Scenario("postgres-flow", [postgres.FLOW_TABLES], postgres.FLOW_THERE, postgres.FLOW_STEPS)
DOCUMENTS = Scenario("mongodb-kinds", mongodb.KINDS_TABLES, mongodb.KINDS_THERE, mongodb.KINDS_STEPS)
DOCUMENT_FLOW = Scenario("mongodb-flow", mongodb.FLOW_TABLES, mongodb.FLOW_THERE, mongodb.FLOW_STEPS)
TIME_MODES = (
    "adaptive",
    "adaptive_time_microseconds",
    "connect",
    "isostring",
    "microseconds",
    "nanoseconds",
)


def recipes() -> Iterator[Recipe]:
    """Every capture, as `<source>-<scenario>-<variant>-<envelope>`."""
    text = {"decimal.handling.mode": "string"}
    everything = {
        **text,
        "extended.headers.enabled": "true",
        "provide.transaction.metadata": "true",
        "heartbeat.interval.ms": "300",
    }
    yield Recipe("postgres-flow-text-json", FLOW, "json", {**_PLAIN, **text})
    yield Recipe("postgres-kinds-text-json", KINDS, "json", {**_PLAIN, **text})
    for envelope in _ENVELOPES:
        for mode in ("precise", "double", "string"):
            settings = {**_PLAIN, "decimal.handling.mode": mode}
            yield Recipe(f"postgres-amounts-{mode}-{envelope}", AMOUNTS, envelope, settings)
        for mode in TIME_MODES:
            settings = {**_PLAIN, "time.precision.mode": mode}
            if mode == "isostring":
                settings["interval.handling.mode"] = "string"
            yield Recipe(f"postgres-times-{mode}-{envelope}", TIMES, envelope, settings)
    yield Recipe("postgres-kinds-precise-schemas", KINDS, "schemas", _PLAIN)
    yield Recipe("postgres-kinds-precise-avro", KINDS, "avro", _PLAIN)
    yield Recipe("postgres-flow-precise-schemas", FLOW, "schemas", _PLAIN)
    yield Recipe("postgres-flow-precise-avro", FLOW, "avro", _PLAIN)
    yield Recipe("postgres-flow-all-json", FLOW, "json", everything)
    yield Recipe("postgres-flow-unwrapped-json", FLOW, "json", {**_PLAIN, **text, **_UNWRAP})
    yield Recipe("postgres-flow-unwrapped-avro", FLOW, "avro", {**_PLAIN, **_UNWRAP})
    others = {"binary.handling.mode": "hex", "hstore.handling.mode": "map", "interval.handling.mode": "string"}
    yield Recipe("postgres-kinds-others-json", KINDS, "json", {**_PLAIN, **text, **others})
    bare, full = ({**_PLAIN, "capture.mode": f"change_streams{end}"} for end in ("", "_update_full"))
    yield Recipe("mongodb-kinds-full-json", DOCUMENTS, "json", full)
    yield Recipe("mongodb-flow-full-json", DOCUMENT_FLOW, "json", full)
    yield Recipe("mongodb-flow-bare-json", DOCUMENT_FLOW, "json", bare)
    imaged = {
        "capture.mode": "change_streams_update_full_with_pre_image",
        "collection.include.list": "shop.imaged,shop.zz_fence",
    }
    yield Recipe("mongodb-flow-imaged-json", DOCUMENT_FLOW, "json", {**_PLAIN, **imaged})
    for envelope in ("schemas", "avro"):
        yield Recipe(f"mongodb-kinds-full-{envelope}", DOCUMENTS, envelope, full)
        yield Recipe(f"mongodb-flow-full-{envelope}", DOCUMENT_FLOW, envelope, full)
    yield Recipe("mongodb-flow-unwrapped-json", DOCUMENT_FLOW, "json", {**full, **_UNWRAP_DOCUMENTS})


class Source(Protocol):
    """A database that is followed."""

    def begin(self, scenario: Scenario) -> None:
        """An empty database with what is there at first."""

    def follow(self, debezium: Debezium, prefix: str, settings: Mapping[str, str]) -> None:
        """Start a connector for it."""

    def do(self, statement: str) -> None:
        """One statement, committed."""

    def fence(self, number: int) -> None:
        """Write a row that tells where a step ends."""

    def shows(self) -> dict[str, Shown]:
        """All tables but the fence."""

    def version(self) -> str:
        """Of the database."""

    def end(self, prefix: str) -> None:
        """Forget the connector."""


class PostgresSource:
    """The schema `shop` of a PostgreSQL."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._connection = psycopg2.connect(server.dsn, **BOUNDED)
        self._connection.autocommit = True
        self._cursor = self._connection.cursor()
        self._cursor.execute("SET TimeZone = 'UTC'; SET client_min_messages = error")

    def begin(self, scenario: Scenario) -> None:
        self.do("DROP SCHEMA IF EXISTS shop CASCADE; CREATE SCHEMA shop")
        for statement in scenario.tables:
            self.do(statement)
        self.do(f"CREATE TABLE shop.{FENCE} (id integer PRIMARY KEY)")
        for statement in scenario.there:
            self.do(statement)

    def follow(self, debezium: Debezium, prefix: str, settings: Mapping[str, str]) -> None:
        root = {"publish.via.partition.root": "true"}
        debezium.follow_postgres(prefix, self._server, "shop", {**root, **settings})

    def do(self, statement: str) -> None:
        self._cursor.execute(statement)

    def fence(self, number: int) -> None:
        self._cursor.execute(f"INSERT INTO shop.{FENCE} VALUES (%s)", (number,))

    def shows(self) -> dict[str, Shown]:
        self._cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition AND relname <> %s ORDER BY 1",
            (FENCE,),
        )
        return {f"shop.{table}": shown(self._cursor, "shop", table) for (table,) in self._cursor.fetchall()}

    def version(self) -> str:
        self._cursor.execute("SHOW server_version")
        return f"PostgreSQL {self._cursor.fetchall()[0][0]}"

    def end(self, prefix: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._cursor.execute("SELECT pg_drop_replication_slot(%s)", (prefix,))
                break
            except psycopg2.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self.do(f"DROP PUBLICATION {prefix}")

    def close(self) -> None:
        self._connection.close()


class MongoDbSource:
    """The database `shop` of a MongoDB."""

    def __init__(self, server: MongoDb) -> None:
        self._server = server
        self._client = server.client()
        self._database = self._client.get_database("shop", codec_options=_CODEC)

    def begin(self, scenario: Scenario) -> None:
        self._client.drop_database("shop")
        for statement in [*scenario.tables, *scenario.there]:
            self.do(statement)

    def follow(self, debezium: Debezium, prefix: str, settings: Mapping[str, str]) -> None:
        debezium.follow_mongodb(prefix, self._server, "shop", settings)

    def do(self, statement: str) -> None:
        command = loads(statement, json_options=_OPTIONS)
        with self._client.start_session() as session:
            if "transaction" not in command:
                self._run(command, session)
                return
            with session.start_transaction():
                for one in command["transaction"]:
                    self._run(one, session)

    def fence(self, number: int) -> None:
        self._database[FENCE].insert_one({"_id": number})

    def shows(self) -> dict[str, Shown]:
        names = sorted(name for name in self._database.list_collection_names() if name != FENCE)
        return {f"shop.{name}": self._shown(name) for name in names}

    def version(self) -> str:
        return f"MongoDB {self._client.server_info()['version']}"

    def end(self, prefix: str) -> None:
        """Nothing is kept for a connector that is gone."""

    def close(self) -> None:
        self._client.close()

    def _run(self, command: Mapping[str, Any], session: ClientSession) -> None:
        answer = self._database.command(command, session=session)
        if "writeErrors" in answer:
            raise ServerError(f"MongoDB refused {command}: {answer['writeErrors']}")

    def _shown(self, collection: str) -> Shown:
        documents = self._database[collection].find()
        return Shown({}, ["_id"], sorted([dumps(document, json_options=_OPTIONS)] for document in documents))


class Topics:
    """All topics of one connector, read on and on."""

    def __init__(self, kafka: Kafka, prefix: str) -> None:
        self._admin = kafka.admin()
        self._prefix = prefix
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "group.id": prefix,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 5,  # the topic is changed all the time, and each change waits for the last fetch
            }
        )
        self._next: dict[str, int] = {}
        self._fences = 0

    def events_of_step(self, step: int) -> list[Event]:
        """What was told until the fence of this step, which must have been written."""
        fence = f"{self._prefix}.shop.{FENCE}"
        deadline = time.monotonic() + _PATIENCE_S
        while self._fences <= step:
            self._fences += len(self._read(fence, step))
            if time.monotonic() > deadline:
                raise ServerError(f"step {step} of {self._prefix} was not told of within {_PATIENCE_S:.0f} s")
        time.sleep(0.15)  # topics are written one beside the other
        topics = [name for name in self._admin.list_topics(timeout=10).topics if self._prefix in name]
        found = [event for topic in sorted(topics) if topic != fence for event in self._read(topic, step)]
        return sorted(found, key=lambda event: event.timestamp)

    def close(self) -> None:
        close(self._consumer)

    def _read(self, topic: str, step: int) -> list[Event]:
        start = self._next.get(topic, 0)
        if topic not in self._admin.list_topics(timeout=10).topics:
            time.sleep(0.05)
            return []
        _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        if end <= start:
            return []
        self._consumer.assign([TopicPartition(topic, 0, start)])
        events: list[Event] = []
        while len(events) < end - start:
            for message in self._consumer.consume(end - start - len(events), 5):
                if message.error() is not None:
                    raise ServerError(f"{topic} cannot be read: {message.error()}")
                headers = {name: bytes(value) for name, value in message.headers() or ()}
                place = (topic, message.offset(), message.timestamp()[1])
                events.append(Event(step, *place, message.key(), message.value(), headers))
        self._next[topic] = end
        return events


@dataclass(frozen=True, slots=True)
class Laboratory:
    """The servers that captures are made with."""

    kafka: Kafka
    registry: SchemaRegistry
    debezium: Debezium

    def make(self, recipe: Recipe, source: Source) -> Capture:
        """Play a scenario before a connector of its own."""
        prefix = recipe.name.replace("-", "_")
        source.begin(recipe.scenario)
        source.fence(0)
        settings = {**converters(_ENVELOPES[recipe.envelope], self.registry), **recipe.settings}
        source.follow(self.debezium, prefix, settings)
        with closing(Topics(self.kafka, prefix)) as topics:
            events = topics.events_of_step(0)
            shown = source.shows()
            steps = [Step([*recipe.scenario.tables, *recipe.scenario.there], shown)]
            for number, statements in enumerate(recipe.scenario.steps, 1):
                for statement in statements:
                    source.do(statement)
                source.fence(number)
                events += topics.events_of_step(number)
                before, shown = shown, source.shows()
                changed = {table: now for table, now in shown.items() if now != before.get(table)}
                steps.append(Step(list(statements), changed))
        self.debezium.delete(prefix)
        source.end(prefix)
        made_by = {
            "source": source.version(),
            "connector": f"Debezium {DEBEZIUM.version}",
            "connect": f"Kafka Connect {KAFKA.version}",
            "settings": {**dict(settings), "topic.prefix": prefix},
        }
        return Capture(
            recipe.name, recipe.scenario.name, _without_addresses(made_by), self._schemas(recipe, events), steps, events
        )

    def _schemas(self, recipe: Recipe, events: Sequence[Event]) -> dict[int, str]:
        if recipe.envelope != "avro":
            return {}
        payloads = [data for event in events for data in (event.key, event.value) if data is not None]
        numbers = sorted({int.from_bytes(data[1:5], "big") for data in payloads})
        return {number: self._schema(number) for number in numbers}

    def _schema(self, number: int) -> str:
        answer = requests.get(f"{self.registry.url}/schemas/ids/{number}", timeout=30)
        answer.raise_for_status()
        return str(answer.json()["schema"])


def _without_addresses(made_by: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in made_by["settings"].items() if not name.endswith("registry.url")}
    return {**made_by, "settings": settings}


def main(wanted: Sequence[str]) -> None:
    """Make the captures whose names are ``wanted`` (parts of names do; none: all)."""
    chosen = [recipe for recipe in recipes() if not wanted or any(part in recipe.name for part in wanted)]
    with tempfile.TemporaryDirectory(prefix="lakeward-captures-") as temporary, ExitStack() as running:
        folder = Path(temporary)
        kafka = running.enter_context(Kafka(folder / "kafka"))
        registry = running.enter_context(SchemaRegistry(folder / "registry"))
        laboratory = Laboratory(kafka, registry, running.enter_context(Debezium(folder / "debezium", kafka)))
        sources = {
            "postgres": PostgresSource(running.enter_context(Postgres(folder / "postgres"))),
            "mongodb": MongoDbSource(running.enter_context(MongoDb(folder / "mongodb"))),
        }
        for source in sources.values():
            running.callback(source.close)
        known: dict[str, Sequence[Step]] = {}
        for recipe in chosen:
            made = laboratory.make(recipe, sources[recipe.name.split("-")[0]])
            assert known.setdefault(made.scenario, made.steps) == made.steps, (
                "the same was done, but not the same is shown"
            )
            path = FOLDER / f"{recipe.name}.json"
            save(path, made)
            print(f"{recipe.name}: {len(made.events)} events, {path.stat().st_size // 1024} KiB", flush=True)  # noqa: T201 -- for whoever runs it


if __name__ == "__main__":
    main(sys.argv[1:])
