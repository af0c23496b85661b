"""An embedded Schema Registry: the Confluent-compatible part that producers and consumers of Avro use.

In a program::

    with EmbeddedRegistry() as registry:
        schema_id = registry.register("trades-value", schema_text)
        ...  # clients use registry.url

By itself: ``python -m lakeward.testing.registry --port 8081``. Everything is kept in memory. New versions are
registered whatever the compatibility level says; the level is only stored.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn, Self
from urllib.parse import unquote, urlsplit

import fastavro

from lakeward.testing.waiting import joined, returned

LEVELS = frozenset(
    {"NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"}
)
CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


class RegistryError(Exception):
    """What a request is answered with when it fails; ``code`` begins with the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Schema:
    """A registered schema, as its answers show it."""

    id: int
    text: str
    kind: str = "AVRO"
    references: tuple[Any, ...] = ()

    def body(self) -> dict[str, Any]:
        """The part that all answers share."""
        extra: dict[str, Any] = {} if self.kind == "AVRO" else {"schemaType": self.kind}
        if self.references:
            extra["references"] = list(self.references)
        return {"schema": self.text, **extra}


@dataclass(slots=True)
class Store:
    """Subjects, versions and schemas; equal schemas share an id, whatever their subject."""

    subjects: dict[str, list[Schema]] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    level: str = "BACKWARD"

    def register(self, subject: str, body: dict[str, Any]) -> Schema:
        """Add a version, unless the subject has this schema."""
        found = self._find(body)
        schema = found or Schema(len(self.schemas) + 1, *_parts(body))
        self.schemas[schema.id] = schema
        versions = self.subjects.setdefault(subject, [])
        if schema not in versions:
            versions.append(schema)
        return schema

    def look_up(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        """The version of ``subject`` that has this schema."""
        versions = self._versions(subject)
        schema = self._find(body)
        if schema is None or schema not in versions:
            raise RegistryError(40403, "Schema not found")
        return self._version(subject, versions.index(schema))

    def by_id(self, schema_id: int) -> dict[str, Any]:
        """The schema with this id."""
        if schema_id not in self.schemas:
            raise RegistryError(40403, f"Schema {schema_id} not found")
        return self.schemas[schema_id].body()

    def numbers(self, subject: str) -> list[int]:
        """The versions that ``subject`` has."""
        return list(range(1, len(self._versions(subject)) + 1))

    def version(self, subject: str, which: str) -> dict[str, Any]:
        """One version; ``which`` is a number or ``latest``."""
        versions = self._versions(subject)
        number = len(versions) if which in {"latest", "-1"} else int(which) if which.isdigit() else 0
        if number < 1:
            raise RegistryError(42202, f"The version {which} is not a valid version id")
        if number > len(versions):
            raise RegistryError(40402, f"Version {which} not found")
        return self._version(subject, number - 1)

    def configure(self, body: dict[str, Any]) -> dict[str, Any]:
        """Set the compatibility level."""
        level = body.get("compatibility")
        if level not in LEVELS:
            raise RegistryError(42203, "Invalid compatibility level")
        self.level = level
        return {"compatibility": level}

    def _version(self, subject: str, index: int) -> dict[str, Any]:
        schema = self.subjects[subject][index]
        return {"subject": subject, "version": index + 1, "id": schema.id, **schema.body()}

    def _versions(self, subject: str) -> list[Schema]:
        if subject not in self.subjects:
            raise RegistryError(40401, f"Subject '{subject}' not found")
        return self.subjects[subject]

    def _find(self, body: dict[str, Any]) -> Schema | None:
        parts = _parts(body)
        return next((s for s in self.schemas.values() if (_same(s.text), s.kind, s.references) == _key(parts)), None)


class EmbeddedRegistry:
    """A registry that serves HTTP on a loopback port from a thread.

    Args:
        port: where to listen; 0: a free port.
        path: what comes before every path, such as ``/apis/ccompat/v7``.
        auth: user and password that every request must carry, or None.
    """

    def __init__(self, port: int = 0, path: str = "", auth: tuple[str, str] | None = None) -> None:
        self.store = Store()
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        self._path = path.rstrip("/")
        self._auth = None if auth is None else "Basic " + base64.b64encode(":".join(auth).encode()).decode()
        self._faults: deque[tuple[int, bytes]] = deque()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="registry", daemon=True)

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{self._path}"

    def start(self) -> Self:
        """Serve until `close`; returns itself."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop serving."""
        returned(self._server.shutdown, "the registry's stop")
        joined(self._thread, "the registry")
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def register(self, subject: str, schema: str) -> int:
        """Register an Avro schema without HTTP; returns its id."""
        with self._lock:
            return self.store.register(subject, {"schema": schema}).id

    def fail(self, status: int, times: int = 1, body: bytes = b"") -> None:
        """Answer the next ``times`` requests with ``status`` and ``body`` instead."""
        with self._lock:
            self._faults.extend([(status, body)] * times)

    def answer(self, method: str, target: str, authorization: str | None, body: bytes) -> tuple[int, bytes]:
        """Status and body for one request."""
        with self._lock:
            self.requests.append(f"{method} {target}")
            if self._faults:
                return self._faults.popleft()
            try:
                self._admit(authorization)
                return 200, json.dumps(self._route(method, urlsplit(target).path, body)).encode()
            except RegistryError as error:
                status = int(str(error.code)[:3])
                return status, json.dumps({"error_code": error.code, "message": error.message}).encode()

    def _admit(self, authorization: str | None) -> None:
        if self._auth is not None and authorization != self._auth:
            raise RegistryError(401, "Unauthorized")

    def _route(self, method: str, path: str, body: bytes) -> Any:
        answer: Any
        if not path.startswith(self._path + "/"):
            _not_found()
        steps = [unquote(step) for step in path[len(self._path) + 1 :].split("/")]
        match method, steps:
            case "GET", ["subjects", *rest]:
                answer = self._subjects(rest)
            case "POST", ["subjects", subject, "versions"]:
                answer = {"id": self.store.register(subject, _json(body)).id}
            case "POST", ["subjects", subject]:
                answer = self.store.look_up(subject, _json(body))
            case "GET", ["schemas", "ids", number] if number.isdigit():
                answer = self.store.by_id(int(number))
            case "GET", ["config"]:
                answer = {"compatibilityLevel": self.store.level}
            case "PUT", ["config"]:
                answer = self.store.configure(_json(body))
            case _:
                _not_found()
        return answer

    def _subjects(self, steps: list[str]) -> Any:
        match steps:
            case []:
                answer: Any = sorted(self.store.subjects)
            case [subject, "versions"]:
                answer = self.store.numbers(subject)
            case [subject, "versions", which]:
                answer = self.store.version(subject, which)
            case _:
                _not_found()
        return answer


def _not_found() -> NoReturn:
    raise RegistryError(404, "HTTP 404 Not Found")


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise RegistryError(400, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise RegistryError(400, "the body is not a JSON object")
    return value


def _parts(body: dict[str, Any]) -> tuple[str, str, tuple[Any, ...]]:
    """Text, kind and references of the schema in a request; Avro without references must be valid."""
    text, kind = body.get("schema"), body.get("schemaType") or "AVRO"
    references = tuple(body.get("references") or ())
    if not isinstance(text, str) or kind not in {"AVRO", "JSON", "PROTOBUF"}:
        raise RegistryError(42201, "Invalid schema")
    if kind == "AVRO" and not references:
        try:
            # A bare primitive may be written without quotes, as Confluent's own clients do.
            fastavro.parse_schema(text if re.fullmatch(r"[a-z]+", text) else json.loads(text))
        except Exception as error:
            raise RegistryError(42201, f"Invalid schema: {type(error).__name__}") from error
    return text, kind, references


def _same(text: str) -> str:
    """``text`` without its layout."""
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        return text


def _key(parts: tuple[str, str, tuple[Any, ...]]) -> tuple[str, str, tuple[Any, ...]]:
    return (_same(parts[0]), *parts[1:])


def _handler(registry: EmbeddedRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        disable_nagle_algorithm = True  # head and body are two packets: the second would wait 40 ms for the first's ACK

        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = registry.answer(self.command, self.path, self.headers.get("Authorization"), body)
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = _respond  # noqa: N815  the names that http.server looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as the base class has it
            """Stay silent: `EmbeddedRegistry.requests` keeps them."""

    return Handler


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="An embedded Schema Registry, kept in memory.")
    parser.add_argument("--port", type=int, default=8081, help="where to listen on 127.0.0.1 (8081)")
    registry = EmbeddedRegistry(parser.parse_args().port)
    print(f"Schema Registry at {registry.url}", flush=True)  # noqa: T201  the one thing it says
    with registry, contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
