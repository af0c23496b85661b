"""What this version can run: one list. Everything else that the models know is refused, never ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from lakeward.config.decoding import Decode
from lakeward.config.problems import KeyPath, Problem
from lakeward.config.sections import keys


@dataclass(frozen=True, slots=True)
class Limit:
    """A setting that is not available: in no form, or only with the values in ``refused``.

    ``path`` has ``*`` for each item of a list and each key that the user chooses.
    """

    path: tuple[str, ...]
    refused: tuple[str, ...] = ()
    instead: str = ""


LIMITS: tuple[Limit, ...] = (
    Limit(("source", "postgres_buffer"), instead="source.kafka is"),
    Limit(("sink", "delta"), instead="sink.iceberg is"),
    Limit(("tables", "*", "source_table"), instead="topics and topic_pattern are"),
    Limit(("tables", "*", "mode"), ("overwrite",), "append and upsert are"),
    Limit(("http",)),
    Limit(("provision",)),
    Limit(("checks",)),
)


def unavailable(config: BaseModel) -> Iterator[Problem]:
    """Every setting of ``config`` that this version cannot run."""
    for limit in LIMITS:
        for path, value in _find(config, limit.path, ()):
            chosen = value.kind if isinstance(value, Decode) else value
            if limit.refused and chosen not in limit.refused:
                continue
            what = f"{chosen} is" if limit.refused else "is"
            instead = f"; {limit.instead}" if limit.instead else ""
            yield Problem(path, f"{what} not available in this version{instead}")


def _find(value: Any, pattern: tuple[str, ...], path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if value is None:
        return
    if not pattern:
        yield path, value
        return
    first, *rest = pattern
    inside: Mapping[Any, Any]
    if isinstance(value, BaseModel):
        inside = {first: getattr(value, keys(type(value))[first])}
    else:
        inside = value if isinstance(value, Mapping) else dict(enumerate(value))
    for key, inner in inside.items():
        yield from _find(inner, tuple(rest), (*path, key))
