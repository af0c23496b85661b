"""Structured logs: for people on a terminal, one JSON object a line elsewhere. Always on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog


def _named(worker: str | None) -> structlog.types.Processor:
    def add(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        return {"worker": worker, **event} if worker else event

    return add


def configure(
    level: str, *, as_json: bool | None = None, stream: TextIO | None = None, worker: str | None = None
) -> None:
    """Set up structlog once for this process.

    Args:
        level: least important level, such as ``INFO``.
        as_json: one JSON object a line; None: unless ``stream`` is a terminal.
        stream: where to; None is standard error.
        worker: this process' name among several, put into every line.
    """
    out = stream or sys.stderr
    for_people = not as_json if as_json is not None else out.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=out.isatty()) if for_people else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            _named(worker),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
