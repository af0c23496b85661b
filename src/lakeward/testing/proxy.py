"""An HTTP proxy in front of a real S3 store: counts requests, and lets them fail as planned.

Operations of its plan are ``GET``, ``HEAD``, ``PUT``, ``DELETE`` and, told apart by what they ask for, ``LIST``,
``DELETE MANY``, ``BEGIN PARTS``, ``PUT PART`` and ``END PARTS``. A fault that raises `Answer` is that answer; any
other error drops the connection without one.

::

    with StoreProxy(minio.port) as proxy:
        proxy.plan.next("PUT", fail(Answer(503)))           # refused
        proxy.plan.next("PUT", lose(ConnectionError()))     # stored, and the answer lost
        catalog = open_catalog({**properties, "s3.endpoint": proxy.url})
"""

from __future__ import annotations

import http.client
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from lakeward.testing.faults import Plan
from lakeward.testing.waiting import joined, returned

_HOP_HEADERS = {"connection", "transfer-encoding", "keep-alive"}
_ANSWER_S = 60.0


class Answer(Exception):  # noqa: N818 -- an answer of the store, not an error of ours
    """The store answers with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def body(self) -> bytes:
        """What S3 says with it."""
        code = {503: "SlowDown", 500: "InternalError", 403: "AccessDenied"}.get(self.status, "Planned")
        return f"<Error><Code>{code}</Code><Message>planned</Message></Error>".encode()


class StoreProxy:
    """Stands in front of the store on ``port`` of this machine while it is open."""

    def __init__(self, port: int) -> None:
        self.plan = Plan()
        self._server = _Server(port, self.plan)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where clients go instead of to the store."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def counts(self) -> Counter[str]:
        """How many requests there were of each operation."""
        return self.plan.counts

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        returned(self._server.shutdown, "the proxy's stop")
        self._server.server_close()
        joined(self._thread, "the proxy")


def operation_of(method: str, target: str) -> str:
    """What a request with this method and path asks for, in the words of `StoreProxy`'s plan."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    if method == "POST":
        return "BEGIN PARTS" if "uploads" in query else "END PARTS" if "uploadId" in query else "DELETE MANY"
    if method == "PUT" and "partNumber" in query:
        return "PUT PART"
    if method == "GET" and ("list-type" in query or "/" not in parts.path.strip("/")):
        return "LIST"
    return method


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store_port: int, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store_port = store_port
        self.plan = plan

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed is nobody's error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Nothing is told of a request."""

    def handle_expect_100(self) -> bool:
        """The client waits for this before it sends a body."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def do_GET(self) -> None:
        body = self._body()
        try:
            operation = operation_of(self.command, self.path)
            answer = self.server.plan.run(operation, lambda: self._forward(body))
        except Answer as planned:
            answer = planned.status, [("Content-Type", "application/xml")], planned.body()
        except Exception:  # noqa: BLE001 -- whatever was planned: no answer comes
            self.close_connection = True
            return
        self._reply(*answer)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 -- as the base class has them

    def _body(self) -> bytes:
        """As it was sent: chunks stay chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        read = b""
        while True:
            line = self.rfile.readline()
            size = int(line.split(b";")[0], 16)
            read += line + self.rfile.read(size + 2)
            if size == 0:
                return read

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        store = http.client.HTTPConnection("127.0.0.1", self.server.store_port, timeout=_ANSWER_S)
        try:
            # The host that the client has signed, not the one that we speak to.
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:
                    store.putheader(name, value)
            store.endheaders(body)
            answer = store.getresponse()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_HEADERS]
            return answer.status, headers, answer.read()
        finally:
            store.close()

    def _reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if all(name.lower() != "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
