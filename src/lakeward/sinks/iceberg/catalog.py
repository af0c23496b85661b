"""Opens Iceberg catalogs: REST, SQL (SQLite, PostgreSQL), and whatever else PyIceberg knows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyiceberg.catalog import (
    AVAILABLE_CATALOGS,
    PY_CATALOG_IMPL,
    Catalog,
    CatalogType,
    infer_catalog_type,
    load_catalog,
)
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from lakeward.errors import ConfigurationError
from lakeward.sinks.iceberg.failures import translated

CONNECT_TIMEOUT = "rest.connect-timeout"
READ_TIMEOUT = "rest.read-timeout"
CONNECTIONS = 16
"""Requests to a catalog's server that may be under way at once."""
_DEFAULTS = {
    CONNECT_TIMEOUT: "10",
    READ_TIMEOUT: "60",
    "s3.connect-timeout": "10",
    "s3.request-timeout": "60",
    # A commit on a connection that the server has closed meanwhile would look like an unknown outcome.
    "pool_pre_ping": "true",
}
_POSTGRES_BOUNDS = {
    "connect_timeout": "10",
    "tcp_user_timeout": "30000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "options": "-c statement_timeout=60000 -c lock_timeout=30000",
}
_SQLITE_BUSY_SECONDS = "30"


def open_catalog(properties: Mapping[str, str]) -> Catalog:
    """Open the catalog that ``properties`` describe, in PyIceberg's own words.

    ``name`` (default "default") is the catalog's name: SQL catalogs keep several apart by it. For REST,
    ``rest.connect-timeout`` and ``rest.read-timeout`` (seconds, default 10 and 60) bound every request. Nothing is
    read from the environment or from PyIceberg's own configuration file.

    Raises:
        ConfigurationError: the properties make no catalog. UnreachableError: its server does not answer.
        PermissionDeniedError: its server refuses us.
    """
    settings: dict[str, Any] = {**_DEFAULTS, **properties}
    name = settings.pop("name", "default")
    kind = _kind(settings)
    # A table loaded without its whole history would look rewound or unproven.
    settings["snapshot-loading-mode"] = "all"
    warehouse = settings.get("warehouse")
    if warehouse and kind is not CatalogType.REST:
        settings["warehouse"] = _absolute(warehouse)
    address = address_of(settings)
    if kind is CatalogType.SQL:
        settings["uri"] = _bounded_sql(settings["uri"])
    with translated("opening the catalog", address):
        if kind is None:
            return load_catalog(name, **settings)
        if kind is CatalogType.REST:
            return _rest(name, settings)
        catalog = _sql(name, settings) if kind is CatalogType.SQL else AVAILABLE_CATALOGS[kind](name, settings)
        if isinstance(engine := getattr(catalog, "engine", None), Engine):
            event.listen(engine, "checkin", _end_transaction)
        return catalog


def _rest(name: str, settings: Mapping[str, Any]) -> Catalog:
    from lakeward.sinks.iceberg.rest_catalog import BoundedRestCatalog  # noqa: PLC0415 -- others do without

    return BoundedRestCatalog(name, **settings)


def _sql(name: str, settings: Mapping[str, Any]) -> Catalog:
    from lakeward.sinks.iceberg.sql_catalog import RememberingSqlCatalog  # noqa: PLC0415 -- others do without

    return RememberingSqlCatalog(name, **settings)


def commits_at_once(properties: Mapping[str, str]) -> int:
    """How many commits are worth sending side by side: a server is waited for, a file takes one after the other."""
    return 2 if str(properties.get("uri", "")).startswith("sqlite") else CONNECTIONS


def is_served(catalog: Catalog) -> bool:
    """Whether ``catalog`` is a REST server's. Nobody has one who has not imported its class, which costs 30 ms."""
    rest = sys.modules.get("pyiceberg.catalog.rest")
    return rest is not None and isinstance(catalog, rest.RestCatalog)


def address_of(properties: Mapping[str, Any]) -> str:
    """The catalog's address as people write it, without user, password or query."""
    uri = str(properties.get("uri") or properties.get("type") or "the catalog")
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri.partition("?")[0]
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _kind(settings: Mapping[str, Any]) -> CatalogType | None:
    if settings.get(PY_CATALOG_IMPL):
        return None
    named = settings.get("type")
    try:
        return CatalogType(named.lower()) if named else infer_catalog_type("lakeward", dict(settings))
    except ValueError as error:
        kinds = ", ".join(kind.value for kind in CatalogType)
        raise ConfigurationError(
            f"{address_of(settings)} does not say what kind of catalog it is",
            f"Set `type` under sink.iceberg.catalog to one of {kinds}, and `uri` to its address.",
        ) from error


def _absolute(warehouse: str) -> str:
    """Paths inside tables must mean the same in every working folder."""
    if urlsplit(warehouse).scheme:
        return warehouse
    return Path(warehouse).expanduser().resolve().as_uri()


def _bounded_sql(uri: str) -> str:
    with translated("opening the catalog", address_of({"uri": uri})):
        url = make_url(uri)
    if url.get_backend_name() == "sqlite":
        if url.database and url.database != ":memory:":
            folder = Path(url.database).parent
            with translated("opening the catalog", str(folder)):
                folder.mkdir(parents=True, exist_ok=True)
        bounds = {"timeout": _SQLITE_BUSY_SECONDS}
    elif url.get_backend_name() == "postgresql":
        bounds = _POSTGRES_BOUNDS
    else:
        bounds = {}
    missing = {key: value for key, value in bounds.items() if key not in url.query}
    return url.update_query_dict(missing).render_as_string(hide_password=False)


def _end_transaction(connection: DBAPIConnection | None, _record: ConnectionPoolEntry) -> None:
    """Nothing unfinished goes back into the pool.

    SQLite leaves a transaction open whose COMMIT it could not finish, because somebody was reading, and SQLAlchemy
    takes it for ended. The next look through that connection would find a commit that nobody else has (PROTOCOL C3).
    """
    if connection is not None:
        connection.rollback()
