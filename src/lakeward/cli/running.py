"""What `run` and `consume` share: signals, the live display, the last word."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
import structlog

from lakeward.cli.footprint import Footprint, prepare_libraries
from lakeward.cli.membership import Group, here, is_parent, take
from lakeward.cli.output import print_error, print_json
from lakeward.clock import SystemClock
from lakeward.errors import LakewardError, PositionError

if TYPE_CHECKING:
    from lakeward.config import Config
    from lakeward.observability.progress import Progress
    from lakeward.pipeline import Pipeline, Until

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Extras:
    """What flags may add. ``messages``, ``caught_up``: see `Until`. ``adopt``, ``instance``: see `Choices`.

    ``supervisor`` is the process that holds the lock on ``instance``, where one does.
    """

    messages: int | None = None
    caught_up: bool = False
    adopt: str | None = None
    instance: str | None = None
    supervisor: int | None = None


def stream(config: Config, extras: Extras, assembled: Callable[[], None], *, as_json: bool) -> None:
    """Run the pipeline of ``config``; live progress on a terminal, structured logs elsewhere.

    ``assembled`` is called whenever a pipeline is there, before it runs (see `collector.resting`).

    Raises:
        LakewardError: as `Pipeline.run`.
    """
    prepare_libraries()
    from lakeward.assembly import Assembly, Choices  # noqa: PLC0415 - a second of imports
    from lakeward.observability import logging  # noqa: PLC0415
    from lakeward.pipeline import Until  # noqa: PLC0415

    live = sys.stderr.isatty() and not as_json and extras.instance is None
    logging.configure("WARNING" if live else config.log.level, worker=extras.instance)
    clock = SystemClock()
    chance = random.Random()  # noqa: S311 - commit ids and jitter, not secrets
    # Held until the process ends.
    name = None if extras.instance else take(Group(config.group_id, config.reads), here())
    instance = extras.instance or (name.text if name else None)

    def sole() -> bool:
        return name is not None or is_parent(extras.supervisor)

    choices = Choices(adopt=extras.adopt, instance=instance, sole=sole)
    last: list[Progress] = []
    footprint = Footprint(clock)
    with _display(config.name, clock) if live else nullcontext(_nobody) as show:

        def observe(progress: Progress) -> None:
            last[:] = [progress]
            footprint.observe(progress)
            show(progress)

        def pipeline() -> Pipeline:
            made = Assembly(config, clock, chance, choices).pipeline(observe)
            assembled()
            return made

        kafka = config.source.kafka
        may_lose = kafka is not None and kafka.on_lost_positions != "stop"
        until = Until(extras.messages, extras.caught_up)
        _run_through(pipeline, until, may_lose=may_lose, as_json=as_json)
    _last_word(config.name, last[-1], as_json=as_json)


def _run_through(make: Callable[[], Pipeline], until: Until, *, may_lose: bool, as_json: bool) -> None:
    """Run; where positions are lost on the way and ``may_lose``, begin anew: a start gives them up, and says so."""
    stopped, told = threading.Event(), ""
    running = [make()]

    def stop() -> None:
        stopped.set()
        running[0].stop()

    with _signals(stop):
        while True:
            try:
                running[0].run(until)
            except LakewardError as error:
                pipeline, lost = running[0], isinstance(error, PositionError) and may_lose and error.what != told
                if not lost or stopped.is_set() or pipeline.hangs:
                    if not pipeline.hangs:
                        raise
                    print_error(error, as_json=as_json)
                    sys.stdout.flush()
                    os._exit(error.exit_code)  # the interpreter would wait for the request that hangs
                told = error.what
                log.warning("lost positions are given up", error=told)
            else:
                return
            if until.messages is not None:
                until = replace(until, messages=until.messages - running[0].taken)
            running[0] = make()
            if stopped.is_set():
                running[0].stop()


def _nobody(_progress: Progress) -> None:
    pass


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGTERM or SIGINT drains; a second one leaves at once. Nothing is lost either way."""
    seen: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        if seen:
            os._exit(128 + number)
        seen.append(number)
        click.echo("stopping: committing what is held; once more to leave at once", err=True)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _display(name: str, clock: SystemClock) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    with Live(console=Console(stderr=True), auto_refresh=False, transient=False) as live:

        def show(progress: Progress) -> None:
            live.update(render(name, progress, clock.now_ms()), refresh=True)

        yield show


def render(name: str, progress: Progress, now_ms: int) -> Any:
    """The live display: one line about the pipeline, one about each table."""
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    fresh = (
        f"  freshness p50 {_seconds(progress.freshness[0])}  p99 {_seconds(progress.freshness[1])}"
        if progress.freshness
        else ""
    )
    colour = {"RUNNING": "green", "DRAINING": "yellow"}.get(progress.state, "bold")
    head = Text.assemble((name, "bold"), "  ", (progress.state, colour), f"  {progress.rate:,.0f} rows/s{fresh}")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("TABLE")
    dead = any(row.letters for row in progress.tables)
    followed = any(row.gaps is not None for row in progress.tables)
    for heading in ("ROWS", "LAG", *(("DEAD",) if dead else ()), *(("GAPS",) if followed else ())):
        table.add_column(heading, justify="right")
    table.add_column("LAST COMMIT")
    for row in progress.tables:
        ago = f"{_seconds(max(0, now_ms - row.last_commit_ms))} ago" if row.last_commit_ms is not None else "-"
        snapshot = f"  snapshot {row.snapshot_id}" if row.snapshot_id is not None else ""
        gaps = [f"{row.gaps:,}" if row.gaps is not None else ""] if followed else []
        letters = [f"{row.letters:,}"] if dead else []
        table.add_row(row.table, f"{row.rows:,}", f"{row.lag:,}", *letters, *gaps, ago + snapshot)
    breaks = [Text(f"! {row.table}: {told}", "yellow") for row in progress.tables for told in row.breaks]
    return Group(head, table, *breaks)


def _seconds(ms: int) -> str:
    seconds = ms / 1000
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:,.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:,.0f} h"
    )


def _last_word(name: str, progress: Progress, *, as_json: bool) -> None:
    tables = [
        {
            "table": t.table,
            "written": t.written,
            "commits": t.commits,
            "rows": t.rows,
            "snapshot_id": t.snapshot_id,
            "lag": t.lag,
            "dead_letters": t.letters,
        }
        for t in progress.tables
    ]
    if as_json:
        print_json({"pipeline": name, "state": "stopped", "messages": progress.taken, "tables": tables})
        return
    for table in progress.tables:
        what = (
            f"{_count(table.written, 'row')} in {_count(table.commits, 'commit')}, {table.rows:,} in the table"
            if table.commits
            else "nothing to write"
        )
        dead = f", {_count(table.letters, 'dead letter')}" if table.letters else ""
        click.echo(f"{table.table}: {what}{dead}")
    if not progress.tables:
        click.echo(f"{name}: nothing to write")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
