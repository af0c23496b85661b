"""The tables that a configuration names, found: for the commands that look at them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lakeward.clock import SystemClock
from lakeward.routing import tables_for

if TYPE_CHECKING:
    from lakeward.assembly import Assembly
    from lakeward.config import Config
    from lakeward.config.tables import Table
    from lakeward.sinks.iceberg.target import IcebergTarget


@contextmanager
def quiet_assembly(config: Config) -> Iterator[Assembly]:
    """The parts of ``config``, with logs from ERROR up: such commands say themselves what is wrong."""
    from lakeward.assembly import Assembly  # noqa: PLC0415 - a second of imports
    from lakeward.observability import logging  # noqa: PLC0415

    logging.configure("ERROR")
    yield Assembly(config, SystemClock(), random.Random())  # noqa: S311 - nothing is drawn from it here


def targets(assembly: Assembly) -> list[IcebergTarget]:
    """Every table that the configuration names; for a pattern, those that exist in the catalog and fit its template."""
    return [target for _, target in fed(assembly)]


def fed(assembly: Assembly) -> list[tuple[Table, IcebergTarget]]:
    """The same, each with the settings that it is fed by."""
    found: dict[str, tuple[Table, IcebergTarget]] = {}
    for table in assembly.config.tables:
        if table.topic_pattern is None or "{" not in table.table:
            found.setdefault(table.table, (table, assembly.target(table, table.table)))
            continue
        namespace = table.table.replace("/", ".").rpartition(".")[0]
        spaces = [namespace] if "{" not in namespace else [".".join(n) for n in assembly.catalog.list_namespaces()]
        for space in spaces:
            if assembly.catalog.namespace_exists(space):
                for identifier in assembly.catalog.list_tables(space):
                    name = ".".join(identifier)
                    target = assembly.target(table, name)
                    entry = target.find().entry
                    topics = entry.sources if entry else {}
                    if any(name == made for topic in topics for _, made in tables_for(assembly.routes, topic)):
                        found.setdefault(name, (table, target))
    return list(found.values())
