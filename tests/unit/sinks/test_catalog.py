"""Opening catalogs: what is asked of PyIceberg, every bound that it lacks, and errors that name the server."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy.exc
from pyiceberg import exceptions
from pyiceberg.catalog import AVAILABLE_CATALOGS, CatalogType
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import UNASSIGNED_SEQ, ManifestFile
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.update import RemoveSnapshotsUpdate, update_table_metadata
from requests.adapters import HTTPAdapter

from lakeward.errors import (
    ConfigurationError,
    LakewardError,
    OperatorError,
    PermissionDeniedError,
    StorageError,
    UnreachableError,
)
from lakeward.sinks.iceberg.catalog import READ_TIMEOUT, address_of, is_served, open_catalog
from lakeward.sinks.iceberg.failures import explained, translated
from lakeward.testing.lake import Lake, ManualClock, batch, commit, expected
from lakeward.testing.waiting import joined, returned

WHERE = "http://catalog:8181"


class Handler(BaseHTTPRequestHandler):
    """A REST catalog of the tests' own: answers as the class attributes of each subclass say."""

    status = 200
    body = b'{"defaults": {}, "overrides": {}}'
    hold: threading.Event | None = None

    def do_GET(self) -> None:
        if self.hold is not None and "/config" not in self.path:
            self.hold.wait(10)
        ok = "/config" in self.path and self.hold is not None
        body = b'{"defaults": {}, "overrides": {}}' if ok else self.body
        self.send_response(200 if ok else self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing to say."""


@contextmanager
def serving(**attributes: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Configured", (Handler,), attributes))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        returned(server.shutdown, "the server's stop")
        server.server_close()
        joined(thread, "the server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_sqlite_catalog_is_made_with_its_folders(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "catalog.db"
    open_catalog({"uri": f"sqlite:///{file}", "warehouse": str(tmp_path)}).close()
    assert file.exists()


def test_a_local_warehouse_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    catalog = open_catalog({"uri": f"sqlite:///{tmp_path}/c.db", "warehouse": "./wh"})
    assert catalog.properties["warehouse"] == (tmp_path / "wh").as_uri()
    catalog.close()


def test_the_catalogs_name_keeps_tables_of_one_database_apart(tmp_path: Path) -> None:
    properties = {"uri": f"sqlite:///{tmp_path}/c.db", "warehouse": str(tmp_path)}
    with Lake(properties) as one, Lake({**properties, "name": "another"}) as other:
        commit(one.target(), batch(0, 1))
        assert one.catalog.name == "default"
        assert not other.target().find().exists


def test_a_locked_sqlite_catalog_is_waited_for(tmp_path: Path) -> None:
    blocker = sqlite3.connect(tmp_path / "c.db", isolation_level=None)

    class Unlocking(ManualClock):
        def wait(self, event: threading.Event, seconds: float) -> bool:
            if blocker.in_transaction:
                blocker.execute("COMMIT")
            return super().wait(event, seconds)

    with Lake({"uri": f"sqlite:///{tmp_path}/c.db?timeout=0.05", "warehouse": str(tmp_path)}) as lake:
        clock = Unlocking()
        target = lake.target(clock=clock)
        staged = target.stage(batch(0, 1))
        blocker.execute("BEGIN EXCLUSIVE")
        target.commit(staged)
        blocker.close()
        assert clock.waits
        assert lake.rows() == expected(batch(0, 1))


def test_pyicebergs_own_configuration_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", "/somewhere/else")
    catalog = open_catalog({"uri": f"sqlite:///{tmp_path}/c.db", "warehouse": str(tmp_path)})
    assert catalog.properties["warehouse"] == tmp_path.as_uri()
    catalog.close()


@pytest.mark.parametrize("properties", [{"type": "oracle"}, {"uri": "ftp://x"}, {"warehouse": "/x"}])
def test_what_is_no_catalog_is_a_configuration_error(properties: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="does not say what kind of catalog"):
        open_catalog(properties)


def test_a_wrong_port_is_named() -> None:
    port = free_port()
    with pytest.raises(UnreachableError, match=f"http://127.0.0.1:{port} does not answer"):
        open_catalog({"type": "rest", "uri": f"http://127.0.0.1:{port}"})


def test_a_database_that_is_not_there_is_named() -> None:
    port = free_port()
    uri = f"postgresql+psycopg2://someone:hidden@127.0.0.1:{port}/db"  # pragma: allowlist secret
    with pytest.raises(UnreachableError, match=f"postgresql\\+psycopg2://127.0.0.1:{port}/db") as raised:
        open_catalog({"type": "sql", "uri": uri, "warehouse": "/x"})
    assert "hidden" not in str(raised.value)


def test_a_catalog_that_hangs_is_given_up_after_the_read_timeout() -> None:
    hold = threading.Event()
    with serving(hold=hold) as uri:
        catalog = open_catalog({"type": "rest", "uri": uri, READ_TIMEOUT: "0.2"})
        with pytest.raises(UnreachableError, match="does not answer"), translated("loading", uri):
            catalog.load_table(("a", "b"))
        hold.set()
        catalog.close()


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, PermissionDeniedError), (403, PermissionDeniedError), (503, UnreachableError), (429, UnreachableError)],
)
def test_what_a_rest_catalog_answers_is_told_in_our_words(status: int, told: type[LakewardError]) -> None:
    body = b'{"error": {"message": "no", "type": "Planned", "code": %d}}' % status
    with serving(status=status, body=body) as uri, pytest.raises(told, match=uri):
        open_catalog({"type": "rest", "uri": uri})


def test_a_server_that_is_no_catalog_is_told() -> None:
    with serving(body=b"<html>hello</html>") as uri, pytest.raises(LakewardError, match=uri):
        open_catalog({"type": "rest", "uri": uri})


def test_it_is_known_which_catalog_a_server_looks_after(tmp_path: Path) -> None:
    assert not is_served(open_catalog({"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db"}))
    with serving() as uri:
        catalog = open_catalog({"type": "rest", "uri": uri})
        assert is_served(catalog)
        catalog.close()


def test_the_whole_history_is_asked_for_whatever_the_properties_say() -> None:
    with serving() as uri:
        catalog = open_catalog({"type": "rest", "uri": uri, "snapshot-loading-mode": "refs"})
        assert catalog.properties["snapshot-loading-mode"] == "all"
        catalog.close()


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://user:hidden@host:8181/api?token=hidden", "http://host:8181/api"),
        ("postgresql+psycopg2://u:hidden@host:5432/db?password=hidden", "postgresql+psycopg2://host:5432/db"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ],
)
def test_addresses_hold_no_secrets(uri: str, address: str) -> None:
    assert address_of({"uri": uri}) == address


def sql(kind: type[sqlalchemy.exc.DBAPIError], words: str) -> Exception:
    return kind("SELECT hidden", {"parameter": "hidden"}, Exception(words))


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (exceptions.UnauthorizedError("x"), PermissionDeniedError),
        (exceptions.ForbiddenError("x"), PermissionDeniedError),
        (exceptions.OAuthError("x"), PermissionDeniedError),
        (exceptions.AuthorizationExpiredError("x"), PermissionDeniedError),
        (exceptions.ServiceUnavailableError("x"), UnreachableError),
        (exceptions.ServerError("x"), UnreachableError),
        (exceptions.TooManyRequestsError("x"), UnreachableError),
        (exceptions.CommitStateUnknownException("x"), UnreachableError),
        (exceptions.BadRequestError("x"), OperatorError),
        (requests.ConnectTimeout("x"), UnreachableError),
        (requests.ReadTimeout("x"), UnreachableError),
        (requests.exceptions.ChunkedEncodingError("x"), UnreachableError),
        (requests.exceptions.InvalidURL("x"), ConfigurationError),
        (sql(sqlalchemy.exc.OperationalError, "database is locked"), UnreachableError),
        (sql(sqlalchemy.exc.OperationalError, "FATAL: password authentication failed"), PermissionDeniedError),
        (sql(sqlalchemy.exc.ProgrammingError, "permission denied for table x"), PermissionDeniedError),
        (sql(sqlalchemy.exc.OperationalError, "database or disk is full"), StorageError),
        (sqlalchemy.exc.ArgumentError("x"), ConfigurationError),
        (sqlalchemy.exc.TimeoutError("pool"), UnreachableError),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), StorageError),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), PermissionDeniedError),
        (OSError("AWS Error ACCESS_DENIED during PutObject"), PermissionDeniedError),
        (OSError("AWS Error SIGNATURE_DOES_NOT_MATCH during PutObject"), PermissionDeniedError),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject"), StorageError),
        (OSError("AWS Error NETWORK_CONNECTION during PutObject"), UnreachableError),
        (ValueError("what?"), OperatorError),
    ],
)
def test_everything_raised_becomes_one_of_our_errors(raised: Exception, told: type[LakewardError]) -> None:
    error = explained(raised, "loading", WHERE)
    assert type(error) is told
    assert WHERE in error.what
    assert error.way_out
    assert "hidden" not in str(error)


def test_what_is_not_there_is_an_answer_and_passes() -> None:
    with pytest.raises(exceptions.NoSuchTableError), translated("loading", WHERE):
        raise exceptions.NoSuchTableError
    with pytest.raises(StorageError, match="ours"), translated("loading", WHERE):
        raise StorageError("ours")


# What follows pins the parts of PyIceberg that are not its public interface.


def test_pin_a_rest_session_is_made_by_one_method_and_has_no_timeout_of_its_own() -> None:
    assert callable(RestCatalog._create_session)
    assert HTTPAdapter().max_retries.total == 0


def test_pin_every_kind_of_catalog_has_a_loader() -> None:
    assert set(AVAILABLE_CATALOGS) == set(CatalogType)


def test_pin_a_sql_commit_answers_with_the_new_metadata(tmp_path: Path) -> None:
    with Lake({"uri": f"sqlite:///{tmp_path}/c.db", "warehouse": str(tmp_path)}) as lake:
        commit(lake.target(), batch(0, 1))
        assert isinstance(lake.catalog, SqlCatalog)
        assert set(CommitTableResponse.model_fields) == {"metadata", "metadata_location"}
        table = lake.table()
        again = Table(table.name(), table.metadata, table.metadata_location, table.io, lake.catalog, table.config)
        assert again == table


def test_pin_removing_a_snapshot_blanks_its_childs_parent_and_twice_is_an_error(tmp_path: Path) -> None:
    with Lake({"uri": f"sqlite:///{tmp_path}/c.db", "warehouse": str(tmp_path)}) as lake:
        target = lake.target()
        for start in range(3):
            commit(target, batch(start, 1))
        metadata = lake.table().metadata
        removal = RemoveSnapshotsUpdate.model_validate({"snapshot-ids": [metadata.snapshots[1].snapshot_id]})
        after = update_table_metadata(metadata, (removal,))
        assert [snapshot.parent_snapshot_id for snapshot in after.snapshots] == [None, None]
        with pytest.raises(ValueError, match="does not exist"):
            update_table_metadata(after, (removal,))


def test_pin_a_manifests_sequence_number_can_be_assigned() -> None:
    manifest = ManifestFile.from_args(sequence_number=UNASSIGNED_SEQ, min_sequence_number=UNASSIGNED_SEQ)
    manifest.sequence_number = 7
    manifest.min_sequence_number = 3
    assert (manifest.sequence_number, manifest.min_sequence_number) == (7, 3)
