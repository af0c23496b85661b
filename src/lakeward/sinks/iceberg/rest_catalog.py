"""PyIceberg's REST catalog, that never waits for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.rest.auth import AUTH_MANAGER
from pyiceberg.io import FileIO
from requests import PreparedRequest, Response, Session
from requests.adapters import BaseAdapter, HTTPAdapter

from lakeward.sinks.iceberg.catalog import CONNECT_TIMEOUT, CONNECTIONS, READ_TIMEOUT
from lakeward.sinks.iceberg.store import Stores


class BoundedRestCatalog(RestCatalog):
    """PyIceberg's REST catalog with a bound on every request: its own session would wait for ever."""

    def __init__(self, name: str, **properties: str) -> None:
        self._stores = Stores()
        super().__init__(name, **properties)

    def _load_file_io(self, properties: Mapping[str, Any] | None = None, location: str | None = None) -> FileIO:
        merged: dict[str, Any] = {**self.properties, **(properties or {})}
        if self._auth_manager:
            merged[AUTH_MANAGER] = self._auth_manager
        return self._stores.of(merged, location)

    def _create_session(self) -> Session:
        session = super()._create_session()
        bounds = (float(self.properties[CONNECT_TIMEOUT]), float(self.properties[READ_TIMEOUT]))
        for prefix, adapter in list(session.adapters.items()):
            if isinstance(adapter, HTTPAdapter):  # more than its ten would be opened anew for each request
                adapter.init_poolmanager(CONNECTIONS, CONNECTIONS)
            session.mount(prefix, _Bounded(adapter, bounds))
        return session


class _Bounded(BaseAdapter):
    """Hands requests on to another adapter (which may sign them), never without a timeout.

    The adapters beneath do not send a POST again once it may have arrived, so that a commit is sent once a call; only
    an answer of 401 or 419, after which PyIceberg fetches a new token, sends it twice (PROTOCOL C3 looks then).
    """

    def __init__(self, inner: BaseAdapter, bounds: tuple[float, float]) -> None:
        super().__init__()
        self._inner = inner
        self._bounds = bounds

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        """See `BaseAdapter.send`."""
        if not args and kwargs.get("timeout") is None:
            kwargs["timeout"] = self._bounds
        return self._inner.send(request, *args, **kwargs)

    def close(self) -> None:
        """See `BaseAdapter.close`."""
        self._inner.close()
