"""``lakeward run`` with a pattern: many topics into many tables, in one process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.e2e.many import Shops
from tests.e2e.rig import Command, CommandLine

from lakeward.testing.broker import EmbeddedBroker

NAMES = [f"s{number:02d}" for number in range(40)]
HOT, QUIET = NAMES[0], NAMES[-6:]


@pytest.fixture
def shops(broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path) -> Shops:
    return Shops(broker, command_line, tmp_path)


def commits(command: Command) -> list[str]:
    """The tables of its commits, in order."""
    return [event["table"].removeprefix("shops.") for event in command.events("committed")]


def until_tables(command: Command, count: int) -> None:
    command.until(lambda: len(set(commits(command))) >= count, f"{count} tables were committed")


def test_forty_topics_fill_forty_tables_exactly_through_kills_and_new_topics_begin_at_their_beginning(
    shops: Shops,
) -> None:
    shops.open(*NAMES)
    for name in NAMES:
        shops.sell(name, 20)
    for tables in (5, 30):
        killed = shops.site.start("run", env={"GROUP": f"killed-at-{tables}"})
        until_tables(killed, tables)
        for name in NAMES[:10]:
            shops.sell(name, 30)
        assert killed.kill().code == -9
    running = shops.site.start("run")
    until_tables(running, 1)
    shops.open("late")
    shops.sell("late", 50)
    running.until(lambda: "late" in commits(running), "the new topic's table was committed")
    shops.sell("late", 50)
    shops.sell(HOT, 50)
    running.until(lambda: sum(shops.held("late").values()) == 100, "all of the new topic was committed")
    running.signal(15)
    assert running.wait().code == 0
    shops.site.catch_up()
    shops.assert_exact()


def test_quiet_tables_say_again_where_they_stand_once_after_a_commit_of_another_tool(shops: Shops) -> None:
    names = [HOT, *QUIET]
    shops.open(*names)
    for name in names:
        shops.sell(name, 10)
    running = shops.site.start("run")
    running.until(lambda: set(names) <= set(commits(running)), "all tables were committed")
    catalog = shops.site.catalog()
    for name in QUIET:
        table = catalog.load_table(f"shops.{name}")
        table.append(table.scan().to_arrow().slice(0, 1))
    told = len(commits(running))
    running.until(lambda: set(QUIET) <= set(commits(running)[told:]), "every quiet table was committed again")
    for more in range(1, 20):  # intervals of the busy table: twice what a quiet one waits
        shops.sell(HOT, 10)
        running.until(lambda: commits(running)[told:].count(HOT) >= more, "the busy table was committed")  # noqa: B023
    again = Counter(commits(running)[told:])
    assert {name: again[name] for name in QUIET} == dict.fromkeys(QUIET, 1)
    assert all(event["rows"] == 0 for event in running.events("committed")[told:] if HOT not in event["table"])
    running.signal(15)
    assert running.wait().code == 0
    assert all(shops.site.target(f"shops.{name}").find().at_head for name in QUIET)
    assert shops.held(HOT) == shops.sent[HOT]


def test_a_table_with_a_long_backlog_does_not_keep_the_others_waiting(shops: Shops) -> None:
    shops.site.document["flush"] |= {"rows": 500, "interval": "1ms"}  # all others are due while the backlog lasts
    shops.site.document["source"]["kafka"]["poll_records"] = 500
    shops.site.save()
    names = NAMES[:20]
    shops.open(*names)
    shops.sell(HOT, 60_000)
    for name in names[1:]:
        shops.sell(name, 5)
    running = shops.site.start("run", "--until-caught-up")
    assert running.wait().code == 0
    order = commits(running)
    last = max(order.index(name) for name in names[1:])
    assert order[last:].count(HOT) >= 1
    shops.assert_exact()
