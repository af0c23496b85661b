"""What a real Debezium told of a real PostgreSQL, mirrored: the tables hold what PostgreSQL showed then."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.rig import CommandLine, Site, configuration
from tests.fixtures.captures import Capture, Event, Shown, capture

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import producer_of

FLOW = "postgres-flow-text-json"
KEYED = ("orders", "pairs", "full_rows", "people", "parted")


def mirror(broker: EmbeddedBroker, command_line: CommandLine, folder: Path, made: Capture, **table: Any) -> Site:
    prefix = made.made_by["settings"]["topic.prefix"]
    for topic in sorted({event.topic for event in made.events}):
        broker.create(topic, 1)
    tables = [{"topic_pattern": rf"{prefix}\.shop\.(?P<table>\w+)", "table": "shop.{table}", "mode": "upsert", **table}]
    document = configuration(broker.bootstrap_servers, None, tables)
    document["decode"] = {"debezium": {"format": "json"}}
    document["dead_letters"] = {"max_rate": 1}  # a table without a key has nothing else
    return Site(folder, command_line, document)


def tell(broker: EmbeddedBroker, events: Iterable[Event]) -> None:
    """Send the events as they were."""
    by_topic: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_topic[event.topic].append(event)
    producer = producer_of(broker.bootstrap_servers, {"log_level": 0})
    for topic, some in by_topic.items():
        for event in some:
            producer.produce(topic, event.value, event.key, 0, headers=dict(event.headers))
    assert producer.flush(30) == 0


def shown(made: Capture, upto: int) -> Mapping[str, Shown]:
    """Each table as PostgreSQL showed it after the step ``upto``."""
    return {name.removeprefix("shop."): rows for step in made.steps[: upto + 1] for name, rows in step.shows.items()}


def meant(text: Any, kind: str) -> Any:
    """A value as psql shows it, or as a table holds it, as what it means."""
    if text is None or kind in {"text", "uuid"}:
        return text
    if kind == "text[]":
        return text if isinstance(text, list) else [word for word in text.strip("{}").split(",") if word]
    return Decimal(str(text)).normalize()


def assert_mirrors(site: Site, table: str, wanted: Shown) -> None:
    held = site.held(f"shop.{table}").to_pylist()
    columns = list(wanted.columns)
    rows = [tuple(meant(row[name], wanted.columns[name]) for name in columns) for row in held]
    expected = [
        tuple(meant(text, kind) for text, kind in zip(row, wanted.columns.values(), strict=True)) for row in wanted.rows
    ]
    assert sorted(map(repr, rows)) == sorted(map(repr, expected)), table


@pytest.mark.parametrize("steps", [(22,), (0, 3, 4, 6, 7, 9, 12, 14, 16, 18, 20, 22)], ids=["at once", "step by step"])
def test_tables_hold_what_postgresql_showed(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    made = capture(FLOW)
    site = mirror(broker, command_line, tmp_path, made)
    before = -1
    for upto in steps:
        tell(broker, [event for event in made.events if before < event.step <= upto])
        site.catch_up()
        before = upto
    for table in KEYED:
        assert_mirrors(site, table, shown(made, before)[table])
    tell(broker, [event for event in made.events if event.step > before])
    site.catch_up()
    assert_mirrors(site, "pairs", shown(made, len(made.steps))["pairs"])
    ended = site.run("verify", "--against-source")
    assert ended.code == 0, ended.out + ended.err


def test_a_table_without_a_key_goes_to_the_dead_letters_and_is_whole_in_mode_append(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    made = capture(FLOW)
    logs = [event for event in made.events if event.topic.endswith(".logs")]
    site = mirror(
        broker, command_line, tmp_path, made, mode="append", metadata_columns={"op": "operation", "o": "offset"}
    )
    tell(broker, logs)
    site.catch_up()
    rows = sorted(site.held("shop.logs").to_pylist(), key=lambda row: row["o"])
    assert [row["op"] for row in rows] == ["r", "c", "c", "u", "d", "d"]
    assert [row["a"] for row in rows[:4]] == [1, 1, 2, 2]


@pytest.mark.parametrize("dies", [False, True])
def test_a_commit_between_the_two_halves_of_a_changed_key_does_not_lose_what_they_leave_out(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path, *, dies: bool
) -> None:
    made = capture(FLOW)
    site = mirror(broker, command_line, tmp_path, made)
    events = [event for event in made.events if event.topic.endswith(".orders") and event.step <= 6]
    creates = next(
        at for at, event in enumerate(events) if event.step == 6 and event.value and b'"op":"c"' in event.value
    )
    tell(broker, events[: creates - 2])
    site.catch_up()
    running = site.start("run")
    tell(broker, events[creates - 2 : creates])
    running.until_event("committed", 1)
    if dies:
        running.kill()
    tell(broker, events[creates:])
    if not dies:
        running.until_event("committed", 2)
        running.signal(signal.SIGTERM)
        assert running.wait().code == 0
    site.catch_up()
    assert_mirrors(site, "orders", shown(made, 6)["orders"])
