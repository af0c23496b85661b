from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from lakeward.decoding import registry as registry_client
from lakeward.decoding.registry import Patience, Registered, RegistryClient
from lakeward.errors import ConfigurationError, PermissionDeniedError, SchemaMismatchError, UnreachableError
from lakeward.testing.registry import EmbeddedRegistry

SCHEMA = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}'
OTHER = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}'


@dataclass
class HandClock:
    """Time that passes only when somebody waits."""

    time: float = 0.0
    waits: list[float] = field(default_factory=list)

    def now_ms(self) -> int:
        return int(self.time * 1000)

    def monotonic(self) -> float:
        return self.time

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.time += seconds
        return event.is_set()


Connect = Callable[..., RegistryClient]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def connect(clock: HandClock) -> Iterator[Connect]:
    clients = []

    def connect(url: str, auth: tuple[str, str] | None = None, **patience: Any) -> RegistryClient:
        client = RegistryClient(url, auth, clock, requests.Session(), Patience(**patience), jitter=lambda: 1.0)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def registry() -> Iterator[EmbeddedRegistry]:
    with EmbeddedRegistry() as running:
        yield running


def call(registry: EmbeddedRegistry, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    response = requests.request(method, registry.url + path, json=body, timeout=5)
    return response.status_code, response.json()


def test_a_schema_is_asked_for_once(registry: EmbeddedRegistry, connect: Connect) -> None:
    schema_id = registry.register("s", SCHEMA)
    client = connect(registry.url)
    assert [client.schema(schema_id) for _ in range(3)] == [Registered("AVRO", SCHEMA)] * 3
    assert registry.requests == [f"GET /schemas/ids/{schema_id}"]


def test_the_latest_schema_of_a_subject_is_always_asked_for(registry: EmbeddedRegistry, connect: Connect) -> None:
    client = connect(registry.url + "/")
    assert client.latest("a/b c-value") is None
    first = registry.register("a/b c-value", SCHEMA)
    assert client.latest("a/b c-value") == (first, Registered("AVRO", SCHEMA))
    second = registry.register("a/b c-value", OTHER)
    assert client.latest("a/b c-value") == (second, Registered("AVRO", OTHER))
    assert client.schema(second) == Registered("AVRO", OTHER)
    assert len(registry.requests) == 3


def test_an_unknown_id_is_remembered_for_a_while(
    registry: EmbeddedRegistry, connect: Connect, clock: HandClock
) -> None:
    client = connect(registry.url, unknown_for=10.0)
    assert [client.schema(1) for _ in range(5)] == [None] * 5
    assert len(registry.requests) == 1
    registry.register("s", SCHEMA)
    clock.time += 9.9
    assert client.schema(1) is None
    clock.time += 0.1
    assert client.schema(1) == Registered("AVRO", SCHEMA)


def test_no_more_unknown_ids_are_remembered_than_there_is_room_for(
    registry: EmbeddedRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_client, "REMEMBERED_UNKNOWN", 3)
    client = connect(registry.url)
    assert [client.schema(schema_id) for schema_id in (1, 2, 3, 4)] == [None] * 4
    registry.requests.clear()
    assert [client.schema(schema_id) for schema_id in (4, 3, 2)] == [None] * 3
    assert registry.requests == []
    assert client.schema(1) is None
    assert registry.requests == ["GET /schemas/ids/1"]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_registry_that_is_busy_is_asked_again(
    registry: EmbeddedRegistry, connect: Connect, clock: HandClock, status: int
) -> None:
    schema_id = registry.register("s", SCHEMA)
    registry.fail(status, times=3)
    assert connect(registry.url, first_pause=0.2).schema(schema_id) == Registered("AVRO", SCHEMA)
    assert clock.waits == [0.2, 0.4, 0.8]


def test_patience_is_bounded_and_an_outage_is_not_remembered(registry: EmbeddedRegistry, connect: Connect) -> None:
    schema_id = registry.register("s", SCHEMA)
    registry.fail(500, times=4)
    client = connect(registry.url, attempts=4)
    with pytest.raises(UnreachableError, match=r"does not answer \(status 500, 4 attempts\)"):
        client.schema(schema_id)
    assert client.schema(schema_id) == Registered("AVRO", SCHEMA)


def test_pauses_have_a_ceiling(registry: EmbeddedRegistry, connect: Connect, clock: HandClock) -> None:
    registry.fail(500, times=8)
    with pytest.raises(UnreachableError):
        connect(registry.url, attempts=8, longest_pause=2.0).schema(1)
    assert clock.waits == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]


def test_a_closed_port_is_unreachable(connect: Connect) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=r"ConnectionError, 2 attempts.*\n.*schema_registry\.url"):
            connect(url, attempts=2).schema(1)


def test_a_server_that_never_answers_is_unreachable(connect: Connect) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="ReadTimeout"):
            connect(url, attempts=1, timeout=0.05).latest("s")


def test_a_password_is_sent_and_never_shown(connect: Connect) -> None:
    with EmbeddedRegistry(auth=("user", "hunter2")) as registry:
        schema_id = registry.register("s", SCHEMA)
        assert connect(registry.url, ("user", "hunter2")).schema(schema_id) == Registered("AVRO", SCHEMA)
        embedded = registry.url.replace("http://", "http://user:hunter3@")
        for client in (connect(registry.url), connect(registry.url, ("user", "hunter3")), connect(embedded)):
            with pytest.raises(PermissionDeniedError, match="refuses us") as caught:
                client.schema(schema_id)
            assert "hunter" not in str(caught.value)


def test_a_forbidden_answer_is_not_retried(registry: EmbeddedRegistry, connect: Connect, clock: HandClock) -> None:
    registry.fail(403)
    with pytest.raises(PermissionDeniedError):
        connect(registry.url).latest("s")
    assert clock.waits == []


def test_a_registry_behind_a_path_works(connect: Connect) -> None:
    with EmbeddedRegistry(path="/apis/ccompat/v7") as registry:
        schema_id = registry.register("s", SCHEMA)
        assert connect(registry.url).latest("s") == (schema_id, Registered("AVRO", SCHEMA))
        with pytest.raises(ConfigurationError, match="does not answer like a Schema Registry"):
            connect(registry.url.removesuffix("/apis/ccompat/v7")).latest("s")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"schema": 1, "id": 1}', b'{"schema": "", "id": "1"}'])
def test_another_kind_of_server_is_told_from_a_registry(
    registry: EmbeddedRegistry, connect: Connect, body: bytes
) -> None:
    registry.fail(200, body=body)
    with pytest.raises(ConfigurationError, match="does not answer like a Schema Registry"):
        connect(registry.url).latest("s")


def test_a_schema_says_its_kind(registry: EmbeddedRegistry, connect: Connect) -> None:
    _, json_schema = call(registry, "POST", "/subjects/j/versions", {"schema": "{}", "schemaType": "JSON"})
    _, avro = call(registry, "POST", "/subjects/a/versions", {"schema": SCHEMA})
    client = connect(registry.url)
    assert client.schema(json_schema["id"]) == Registered("JSON", "{}")
    assert client.schema(avro["id"]) == Registered("AVRO", SCHEMA)
    assert client.latest("j") == (json_schema["id"], Registered("JSON", "{}"))


def refer(registry: EmbeddedRegistry, subject: str, *others: str) -> int:
    """Register a schema that refers to the first versions of ``others``."""
    references = [{"name": other, "subject": other, "version": 1} for other in others]
    text = json.dumps({"type": "fixed", "name": subject, "size": 1})
    body = {"schema": text, "references": references}
    return int(call(registry, "POST", f"/subjects/{subject}/versions", body)[1]["id"])


def test_references_are_followed_innermost_first_and_each_asked_for_once(
    registry: EmbeddedRegistry, connect: Connect
) -> None:
    for subject, others in (("a", ""), ("b", "a"), ("c", "ab"), ("d", "cab")):
        top = refer(registry, subject, *others)
    client = connect(registry.url)
    registry.requests.clear()
    found = client.schema(top)
    assert found is not None
    assert [json.loads(text)["name"] for text in (*found.references, found.text)] == ["a", "b", "c", "d"]
    assert sorted(registry.requests) == sorted(
        [f"GET /schemas/ids/{top}", *(f"GET /subjects/{subject}/versions/1" for subject in "abc")]
    )
    again = client.latest("d")
    assert again == (top, found)


def test_a_reference_to_what_is_not_there_is_told(registry: EmbeddedRegistry, connect: Connect) -> None:
    top = refer(registry, "lonely", "nobody")
    with pytest.raises(SchemaMismatchError, match=f"schema id {top} refers to version 1 of subject nobody"):
        connect(registry.url).schema(top)


def test_a_url_that_is_none_is_a_configuration_error(connect: Connect) -> None:
    with pytest.raises(ConfigurationError, match="is not a URL"):
        connect("localhost:8081").schema(1)


# --- the embedded registry speaks Confluent's dialect ---------------------------------------------------------------


def test_equal_schemas_share_an_id_over_subjects_and_layouts(registry: EmbeddedRegistry) -> None:
    spread = json.dumps(json.loads(SCHEMA), indent=2)
    first = call(registry, "POST", "/subjects/a/versions", {"schema": SCHEMA})
    assert call(registry, "POST", "/subjects/a/versions", {"schema": spread, "schemaType": "AVRO"}) == first
    assert call(registry, "POST", "/subjects/b/versions?normalize=true", {"schema": SCHEMA}) == first
    other = call(registry, "POST", "/subjects/a/versions", {"schema": OTHER})
    assert other[1]["id"] != first[1]["id"]
    assert call(registry, "GET", "/subjects") == (200, ["a", "b"])
    assert call(registry, "GET", "/subjects/a/versions") == (200, [1, 2])
    version = {"subject": "a", "version": 1, "id": first[1]["id"], "schema": SCHEMA}
    assert call(registry, "GET", "/subjects/a/versions/1") == (200, version)
    assert call(registry, "POST", "/subjects/a", {"schema": spread}) == (200, version)
    assert call(registry, "GET", "/subjects/a/versions/latest")[1]["version"] == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/subjects/none/versions", None, 404, 40401),
        ("GET", "/subjects/none/versions/latest", None, 404, 40401),
        ("GET", "/subjects/a/versions/2", None, 404, 40402),
        ("GET", "/subjects/a/versions/0", None, 422, 42202),
        ("GET", "/schemas/ids/77", None, 404, 40403),
        ("POST", "/subjects/none", {"schema": SCHEMA}, 404, 40401),
        ("POST", "/subjects/a", {"schema": OTHER}, 404, 40403),
        ("POST", "/subjects/a/versions", {"schema": "{"}, 422, 42201),
        ("POST", "/subjects/a/versions", {"schema": '{"type": "nothing"}'}, 422, 42201),
        ("POST", "/subjects/a/versions", {}, 422, 42201),
        ("PUT", "/config", {"compatibility": "SOME"}, 422, 42203),
        ("GET", "/nothing", None, 404, 404),
        ("POST", "/subjects/a", [], 400, 400),
    ],
)
def test_errors_carry_confluents_codes(
    registry: EmbeddedRegistry, method: str, path: str, body: Any, status: int, code: int
) -> None:
    registry.register("a", SCHEMA)
    answer = call(registry, method, path, body)
    assert (answer[0], answer[1]["error_code"]) == (status, code)


def test_the_compatibility_level_is_kept(registry: EmbeddedRegistry) -> None:
    assert call(registry, "GET", "/config") == (200, {"compatibilityLevel": "BACKWARD"})
    assert call(registry, "PUT", "/config", {"compatibility": "FULL"}) == (200, {"compatibility": "FULL"})
    assert call(registry, "GET", "/config") == (200, {"compatibilityLevel": "FULL"})
