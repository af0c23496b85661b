"""Asks every server that a configuration names whether it is there. Writes nothing, waits a bounded time."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from confluent_kafka import Consumer, KafkaError, KafkaException
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io import load_file_io
from sqlalchemy.engine import make_url

from lakeward.config import CATALOG_NAME, Config, Secret
from lakeward.config.sinks import is_url, local_folder
from lakeward.config.tables import Table
from lakeward.errors import ConfigurationError, LakewardError, PermissionDeniedError, StorageError, UnreachableError
from lakeward.sinks.iceberg.catalog import address_of, open_catalog
from lakeward.sinks.iceberg.failures import translated
from lakeward.sources.kafka_client import close

BOUND = 5.0
"""Seconds that each server is given."""
_SLACK = 2.0
_REFUSALS = (401, 403)
_DENIED_CODES = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - a public constant with an unusual name
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)
_HOPELESS_CODES = _DENIED_CODES | {KafkaError._ALL_BROKERS_DOWN}  # noqa: SLF001


class State(Enum):
    """What was found; the worst one decides the exit code."""

    UP = "up"
    WRONG = "wrong"
    MISCONFIGURED = "misconfigured"
    DOWN = "down"

    @property
    def exit_code(self) -> int:
        """0, 1, 2 and 3, in the order of the states."""
        return list(State).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was asked, and what it answered or what to do. ``latency`` in milliseconds."""

    kind: str
    name: str
    state: State
    detail: str = ""
    latency: int | None = None

    def document(self) -> dict[str, Any]:
        """The finding as JSON."""
        return {
            "server": self.kind,
            "name": self.name,
            "state": self.state.value,
            "latency_ms": self.latency,
            "detail": self.detail,
        }


def look(config: Config, bound: float = BOUND) -> list[Finding]:
    """Ask all servers at once, each for at most ``bound`` seconds; findings in the order of the configuration."""
    probes: list[tuple[str, str, Callable[[], list[Finding]]]] = []
    if config.source.kafka is not None:
        probes.append(("kafka", config.source.kafka.bootstrap_servers, lambda: _kafka(config, bound)))
    if config.schema_registry is not None:
        probes.append(("schema registry", config.schema_registry.url, lambda: _registry(config, bound)))
    if config.sink.iceberg is not None:
        properties = config.catalog_properties()
        address = _sqlite_file(properties) or address_of(properties)
        probes.append(("catalog", address, lambda: _catalog(properties, address, bound)))
        place = str(properties.get("warehouse", ""))
        if is_url(place) and not place.startswith("file:"):
            probes.append(("object store", place, lambda: _store(properties, place, bound)))
        elif place and properties.get("type") != "rest":
            probes.append(("folder", place, lambda: [_folder(local_folder(place, config.folder))]))
    waiting = [(kind, name, _started(kind, name, probe)) for kind, name, probe in probes]
    end = time.monotonic() + bound + _SLACK
    findings: list[Finding] = []
    for kind, name, answer in waiting:
        try:
            findings += answer.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            detail = f"does not answer within {bound:g} s. Is it running, and is the address right?"
            findings.append(Finding(kind, name, State.DOWN, detail))
    return findings


def _started(kind: str, name: str, probe: Callable[[], list[Finding]]) -> queue.Queue[list[Finding]]:
    """Run ``probe`` on a thread of its own, one that does not keep the process: some clients cannot be bounded."""
    answer: queue.Queue[list[Finding]] = queue.Queue()

    def ask() -> None:
        try:
            answer.put(probe())
        except LakewardError as error:
            detail = ". ".join(part for part in (error.what, error.way_out) if part)
            answer.put([Finding(kind, name, _state_of(error), detail)])
        except Exception as error:  # noqa: BLE001 - a probe that breaks is a finding, not a crash
            answer.put([Finding(kind, name, State.WRONG, f"{type(error).__name__} while asking it")])

    threading.Thread(target=ask, daemon=True, name=f"probe {kind}").start()
    return answer


def _state_of(error: LakewardError) -> State:
    if isinstance(error, UnreachableError):
        return State.DOWN
    return State.MISCONFIGURED if isinstance(error, ConfigurationError) else State.WRONG


def _since(start: float) -> int:
    return round((time.monotonic() - start) * 1000)


def _kafka(config: Config, bound: float) -> list[Finding]:
    kafka = config.source.kafka
    if kafka is None:
        return []
    said: list[KafkaError] = []
    settings: dict[str, Any] = {
        **config.kafka_properties(),
        "bootstrap.servers": kafka.bootstrap_servers,
        "group.id": config.group_id,
        "log_level": 0,
        "error_cb": said.append,
    }
    try:
        consumer = Consumer(settings)
    except KafkaException as error:
        words = _without_secrets(error.args[0].str(), kafka.properties)
        raise ConfigurationError(f"the client refuses source.kafka.properties: {words}") from None
    start = time.monotonic()
    try:
        cluster = _metadata(consumer, said, bound)
    except KafkaException as error:
        raise _kafka_error(error.args[0], said, kafka.bootstrap_servers) from error
    finally:
        close(consumer, _SLACK / 2)
    brokers = f"{len(cluster.brokers)} broker{'s' if len(cluster.brokers) != 1 else ''}"
    identity = f", cluster {cluster.cluster_id}" if cluster.cluster_id else ""
    findings = [Finding("kafka", kafka.bootstrap_servers, State.UP, brokers + identity, _since(start))]
    partitions = {name: len(topic.partitions) for name, topic in cluster.topics.items() if topic.error is None}
    for table in config.tables:
        findings += _topics(table, partitions)
    return list(dict.fromkeys(findings))


def _metadata(consumer: Consumer, said: list[KafkaError], bound: float) -> Any:
    """Ask in short turns: the client alone would wait out its time although every broker has refused."""
    end = time.monotonic() + bound
    while True:
        try:
            return consumer.list_topics(timeout=max(0.1, min(0.3, end - time.monotonic())))
        except KafkaException:
            consumer.poll(0)  # hands over what the client has to say
            if time.monotonic() >= end or any(error.code() in _HOPELESS_CODES for error in said):
                raise


def _topics(table: Table, partitions: Mapping[str, int]) -> list[Finding]:
    if table.topic_pattern is not None:
        found = sum(1 for name in partitions if re.fullmatch(table.topic_pattern, name))
        detail = f"matches {found} topic{'s' if found != 1 else ''}" if found else "matches no topic yet"
        return [Finding("topics", table.topic_pattern, State.UP, detail)]
    findings = []
    for topic in table.topics or ():
        count = partitions.get(topic)
        if count is None:
            detail = "does not exist, or we may not see it. Create it, or start what writes to it."
            findings.append(Finding("topic", topic, State.WRONG, detail))
        else:
            findings.append(Finding("topic", topic, State.UP, f"{count} partition{'s' if count != 1 else ''}"))
    return findings


def _kafka_error(error: KafkaError, said: list[KafkaError], servers: str) -> LakewardError:
    told = next((e for e in said if e.code() in _DENIED_CODES), error)
    if told.code() in _DENIED_CODES:
        return PermissionDeniedError(f"{servers} refuses us: {told.str()}", "Check source.kafka.properties.")
    reason = next((e.str() for e in said if e.code() != KafkaError._ALL_BROKERS_DOWN), error.str())  # noqa: SLF001
    return UnreachableError(f"does not answer: {reason}", "Is it running, and are address and security.protocol right?")


def _without_secrets(words: str, options: Mapping[str, Any]) -> str:
    for value in options.values():
        if isinstance(value, Secret):
            words = words.replace(value.reveal(), str(value))
    return words


def _registry(config: Config, bound: float) -> list[Finding]:
    registry = config.schema_registry
    if registry is None:
        return []
    auth = (registry.auth.username, registry.auth.password.reveal()) if registry.auth else None
    url = registry.url.rstrip("/")
    start = time.monotonic()
    try:
        with requests.Session() as session:
            answer = session.get(f"{url}/subjects", auth=auth, timeout=bound)
            latency = _since(start)
            version = _registry_version(session.get(f"{url}/v1/metadata/version", auth=auth, timeout=bound))
    except requests.RequestException as error:
        raise UnreachableError(
            f"does not answer ({type(error).__name__})", "Is it running, and is schema_registry.url right?"
        ) from error
    if answer.status_code in _REFUSALS:
        raise PermissionDeniedError(f"refuses us ({answer.status_code})", "Check schema_registry.auth.")
    subjects = _json(answer)
    if answer.status_code >= 500:
        raise UnreachableError(f"answers {answer.status_code}", "Its own log says more.")
    if not answer.ok or not isinstance(subjects, list):
        raise ConfigurationError(
            f"answers {answer.status_code}, not as a schema registry does",
            "Does schema_registry.url need a path, such as /apis/ccompat/v7?",
        )
    detail = f"{len(subjects)} subject{'s' if len(subjects) != 1 else ''}{version}"
    return [Finding("schema registry", registry.url, State.UP, detail, latency)]


def _registry_version(answer: requests.Response) -> str:
    document = _json(answer)
    version = document.get("version") if answer.ok and isinstance(document, dict) else None
    return f", version {version}" if version else ""


def _json(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except requests.exceptions.JSONDecodeError:
        return None


def _sqlite_file(properties: Mapping[str, Any]) -> str | None:
    uri = str(properties.get("uri", ""))
    return make_url(uri).database if uri.startswith("sqlite") else None


def _catalog(properties: Mapping[str, Any], address: str, bound: float) -> list[Finding]:
    file = _sqlite_file(properties)
    if file and not Path(file).exists():
        return [Finding("catalog", address, State.UP, "will be created with the first table")]
    start = time.monotonic()
    catalog = open_catalog(
        {
            "rest.connect-timeout": f"{bound:g}",
            "rest.read-timeout": f"{bound:g}",
            # Looking must not create the tables of a SQL catalog.
            "init_catalog_tables": "false",
            "name": CATALOG_NAME,
            **properties,
        }
    )
    with translated("asking the catalog", address):
        detail = _namespaces(catalog)
    return [Finding("catalog", address, State.UP, detail, _since(start))]


def _namespaces(catalog: Catalog) -> str:
    if isinstance(catalog, SqlCatalog):
        with catalog.engine.connect() as connection:
            there = catalog.engine.dialect.has_table(connection, "iceberg_tables")
        catalog.engine.dispose()
        return "database answers" + ("" if there else "; the catalog's tables will be created")
    count = len(catalog.list_namespaces())
    return f"{count} namespace{'s' if count != 1 else ''}"


def _store(properties: Mapping[str, Any], place: str, bound: float) -> list[Finding]:
    settings = {"s3.connect-timeout": f"{bound:g}", "s3.request-timeout": f"{bound:g}", **properties}
    start = time.monotonic()
    with translated("looking", place):
        # The bucket alone: what is below it comes with the first file.
        parts = urlsplit(place)
        there = load_file_io(settings, place).new_input(f"{parts.scheme}://{parts.netloc}").exists()
    if not there:
        raise StorageError(f"there is no {parts.netloc}, or we may not see it", "Create it, or check our rights.")
    return [Finding("object store", place, State.UP, "reachable", _since(start))]


def _folder(folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        return Finding("folder", str(folder), State.WRONG, f"{existing} is a file. Name another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("folder", str(folder), State.WRONG, f"{existing} is not writable. Check its owner and rights.")
    return Finding("folder", str(folder), State.UP, "writable" if existing == folder else "will be created")
