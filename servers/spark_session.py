"""Runs inside Spark's own Python, not ours: a session that answers one SQL statement a request.

``POST /`` takes ``{"sql": …}`` and answers ``{"rows": […]}``, or writes them to the folder ``"parquet"``. The settings
come in the variable ``SPARK_SETTINGS``, one ``key=value`` a line.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from pyspark.sql import SparkSession


class Session(BaseHTTPRequestHandler):
    """One request after the other: they would share the two cores anyway."""

    spark: SparkSession

    def do_GET(self) -> None:
        """Whether the session is there."""
        self._answer(200, {})

    def do_POST(self) -> None:
        """Run a statement."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            found = self.spark.sql(request["sql"])
            if "parquet" in request:
                found.write.parquet(request["parquet"])
                rows = []
            else:
                rows = [row.asDict(recursive=True) for row in found.collect()]
        except Exception as error:  # noqa: BLE001 - the client is told
            print(error, file=sys.stderr, flush=True)
            self._answer(400, {"error": f"{type(error).__name__}: {str(error)[:2000]}"})
        else:
            self._answer(200, {"rows": rows})

    def log_message(self, *_: object) -> None:
        """Spark's own log is enough."""

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document, default=str).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(port: int) -> None:
    """Start the session, then serve until killed."""
    builder = SparkSession.builder
    for line in os.environ["SPARK_SETTINGS"].splitlines():
        key, _, value = line.partition("=")
        builder = builder.config(key, value)
    Session.spark = builder.getOrCreate()
    Session.spark.sparkContext.setLogLevel("ERROR")
    HTTPServer(("127.0.0.1", port), Session).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
