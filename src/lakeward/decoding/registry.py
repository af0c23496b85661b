"""The Schema Registry as a decoder needs it: schemas by id, and the latest of a subject."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import requests
import structlog

from lakeward.clock import Clock
from lakeward.errors import ConfigurationError, PermissionDeniedError, SchemaMismatchError, UnreachableError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SUBJECT_NOT_FOUND, VERSION_NOT_FOUND, SCHEMA_NOT_FOUND = 40401, 40402, 40403
BUSY = frozenset({408, 425, 429})
"""Answers below 500 that ask us to come back."""
NO_URL = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema)
REMEMBERED_UNKNOWN = 10_000
AVRO = "AVRO"
MOST_ID = 2**31 - 1
"""Registries count in signed numbers of 32 bits, and some answer a larger one as they answer a wrong address."""
MOST_REFERENCES = 1_000
"""A schema may refer to so many others, theirs included."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema as its registry has it: ``kind`` is AVRO, JSON or PROTOBUF.

    ``references`` are the texts of the schemas that it refers to, each after those that it refers to itself.
    """

    kind: str
    text: str
    references: tuple[str, ...] = ()


class Schemas(Protocol):
    """What a decoder asks of a registry."""

    def schema(self, schema_id: int) -> Registered | None:
        """See `RegistryClient.schema`."""

    def latest(self, subject: str) -> tuple[int, Registered] | None:
        """See `RegistryClient.latest`."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a registry is waited for. All in seconds, but ``attempts``."""

    timeout: float = 5.0
    attempts: int = 5
    first_pause: float = 0.2
    longest_pause: float = 3.0
    unknown_for: float = 10.0
    """How long an unknown id stays unknown before it is asked for again."""


class RegistryClient:
    """A Confluent-compatible Schema Registry.

    Schemas by id never change, so each is asked for once. Used by one thread at a time.

    Args:
        url: its base, with a path where it has one (``http://host/apis/ccompat/v7``).
        auth: user and password, or None.
        clock: for pauses between attempts and the age of what is remembered.
        session: the connections to use; closed by `close`.
        patience: timeouts and retries.
        jitter: numbers from 0 to 1 that spread the pauses.
    """

    def __init__(
        self,
        url: str,
        auth: tuple[str, str] | None,
        clock: Clock,
        session: requests.Session,
        patience: Patience = Patience(),
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._url = url.rstrip("/")
        self._auth = auth
        self._clock = clock
        self._session = session
        self._patience = patience
        self._jitter = jitter
        self._never = threading.Event()
        self._schemas: dict[int, Registered] = {}
        self._referenced: dict[tuple[str, int], dict[str, Any]] = {}
        self._unknown: OrderedDict[int, float] = OrderedDict()

    @property
    def url(self) -> str:
        """The address, without the user and password that it may contain."""
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def schema(self, schema_id: int) -> Registered | None:
        """The schema with this id; None where the registry knows none.

        Raises:
            UnreachableError: no answer within the patience. PermissionDeniedError: refused.
            SchemaMismatchError: the schema refers to one that is not there, or to too many.
            ConfigurationError: this address is no Schema Registry.
        """
        known = self._schemas.get(schema_id)
        if known is not None or schema_id > MOST_ID:
            return known
        now = self._clock.monotonic()
        if now < self._unknown.get(schema_id, now):
            return None
        answer = self._get(f"/schemas/ids/{schema_id}", {SCHEMA_NOT_FOUND})
        if answer is None:
            self._unknown[schema_id] = now + self._patience.unknown_for
            self._unknown.move_to_end(schema_id)
            if len(self._unknown) > REMEMBERED_UNKNOWN:
                self._unknown.popitem(last=False)
            return None
        self._schemas[schema_id] = self._registered(answer, f"schema id {schema_id}")
        return self._schemas[schema_id]

    def latest(self, subject: str) -> tuple[int, Registered] | None:
        """The id and the schema of ``subject``; None where there is no such subject.

        Raises: as `schema`.
        """
        path = f"/subjects/{quote(subject, safe='')}/versions/latest"
        answer = self._get(path, {SUBJECT_NOT_FOUND, VERSION_NOT_FOUND})
        if answer is None:
            return None
        schema_id = answer.get("id")
        if not isinstance(schema_id, int):
            raise self._alien("an answer without an id")
        self._schemas[schema_id] = self._registered(answer, f"subject {subject}")
        return schema_id, self._schemas[schema_id]

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _registered(self, answer: dict[str, Any], what: str) -> Registered:
        references: dict[tuple[str, int], str] = {}
        self._follow(answer, what, references)
        return Registered(answer.get("schemaType") or AVRO, self._text(answer), tuple(references.values()))

    def _text(self, answer: dict[str, Any]) -> str:
        text = answer.get("schema")
        if not isinstance(text, str):
            raise self._alien("an answer without a schema")
        return text

    def _follow(self, answer: dict[str, Any], what: str, found: dict[tuple[str, int], str]) -> None:
        """Add the texts of the schemas that ``answer`` refers to, the innermost first, each once."""
        for reference in answer.get("references") or ():
            match reference:
                case {"subject": str(subject), "version": int(version)}:
                    place = (subject, version)
                case _:
                    raise self._alien("a reference without subject and version")
            if place in found:
                continue
            if len(found) >= MOST_REFERENCES:
                raise SchemaMismatchError(
                    f"{what} refers to more than {MOST_REFERENCES:,} schemas", "register one that refers to fewer"
                )
            inner = self._version(subject, version, what)
            self._follow(inner, what, found)
            found[place] = self._text(inner)

    def _version(self, subject: str, version: int, what: str) -> dict[str, Any]:
        if (subject, version) not in self._referenced:
            path = f"/subjects/{quote(subject, safe='')}/versions/{version}"
            answer = self._get(path, {SUBJECT_NOT_FOUND, VERSION_NOT_FOUND})
            if answer is None:
                raise SchemaMismatchError(
                    f"{what} refers to version {version} of subject {subject}, which the registry does not have",
                    "register that version again",
                )
            self._referenced[subject, version] = answer
        return self._referenced[subject, version]

    def _get(self, path: str, absent: set[int]) -> dict[str, Any] | None:
        """The JSON at ``path``; None for an error code in ``absent``."""
        reason = ""
        for attempt in range(self._patience.attempts):
            if attempt:
                ceiling = min(self._patience.longest_pause, self._patience.first_pause * 2 ** (attempt - 1))
                self._clock.wait(self._never, ceiling * (0.5 + self._jitter() / 2))
            try:
                response = self._session.get(
                    self._url + path,
                    auth=self._auth,
                    timeout=self._patience.timeout,
                    headers={"Accept": "application/vnd.schemaregistry.v1+json, application/json"},
                )
            except NO_URL as error:
                raise ConfigurationError(f"{self.url} is not a URL", "correct schema_registry.url") from error
            except requests.RequestException as error:
                reason = type(error).__name__
            else:
                if response.status_code < 500 and response.status_code not in BUSY:
                    return self._answer(response, absent)
                reason = f"status {response.status_code}"
            log.warning("registry_unavailable", url=self.url, attempt=attempt + 1, reason=reason)
        raise UnreachableError(
            f"the Schema Registry at {self.url} does not answer ({reason}, {self._patience.attempts} attempts)",
            "start it, or correct schema_registry.url",
        )

    def _answer(self, response: requests.Response, absent: set[int]) -> dict[str, Any] | None:
        if response.status_code in {401, 403}:
            raise PermissionDeniedError(
                f"the Schema Registry at {self.url} refuses us (status {response.status_code})",
                "check schema_registry.auth, and that this user may read subjects",
            )
        try:
            body = response.json()
        except ValueError:
            body = None
        if isinstance(body, dict):
            if response.status_code == 200:
                return body
            if body.get("error_code") in absent:
                return None
        raise self._alien(f"status {response.status_code}")

    def _alien(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.url} does not answer like a Schema Registry ({reason})",
            "correct schema_registry.url; a registry behind a path needs that path, such as /apis/ccompat/v7",
        )
