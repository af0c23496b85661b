"""Business sequences through the whole pipeline: counted once, whatever happens to the writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.rig import CommandLine, Site, configuration

from lakeward.sequences import DAY_MS
from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.producing import produce, producer_of

TABLE: dict[str, Any] = {
    "topics": ["ticks"],
    "table": "m.ticks",
    "decode": {"json": {"fields": {"symbol": "string", "seq": "long"}}},
    "gaps": {"key": ["symbol"], "sequence": "seq"},
}
NEVER_SENT = {137, 138, 400, 777}
SENT_TWICE = 512


class Ticks:
    """Two symbols, one in each partition; both count up, with the same holes."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        broker.create("ticks", 2)
        self._producer = producer_of(broker.bootstrap_servers, {"linger.ms": 1, "log_level": 0})

    def send(self, first: int, end: int) -> None:
        numbers = [n for n in range(first, end) if n not in NEVER_SENT for _ in range(1 + (n == SENT_TWICE))]
        values = [json.dumps({"symbol": symbol, "seq": n}).encode() for n in numbers for symbol in ("A", "B")]
        produce(self._producer, "ticks", values, homes=[0, 1] * len(numbers))


def gaps(site: Site) -> dict[str, int]:
    (table,) = site.run("status", "--json").document["tables"]
    found: dict[str, int] = table["gaps"]
    return found


def test_gaps_are_counted_once_over_kills_restarts_and_a_rollback(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    ticks = Ticks(broker)
    document = configuration(broker.bootstrap_servers, None, [TABLE])
    document["source"]["kafka"]["group_id"] = (
        "${GROUP:-last}"  # or each start would wait for the killed member's session
    )
    site = Site(tmp_path, command_line, document)
    for number, first in enumerate(range(0, 900, 180)):
        ticks.send(first, first + 180)
        writer = site.start("run", env={"GROUP": f"g{number}"})
        writer.until_committed(20)
        writer.kill()
    site.catch_up()
    expected = {"gaps": 6, "missing": 8, "duplicates": 2, "regressions": 0}
    assert gaps(site) == expected
    site.verified()
    history = [
        record for record in site.history("m.ticks") if record.entry is not None and record.entry.gaps is not None
    ]
    early = next(record for record in history if record.entry and record.entry.gaps and record.entry.gaps.counts.gaps)
    site.run("rollback", "m.ticks", "--to", str(early.snapshot_id), "--yes")
    assert gaps(site)["gaps"] < 6
    site.catch_up()
    assert gaps(site) == expected


def test_a_running_writer_says_where_a_sequence_broke(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    Ticks(broker).send(130, 150)
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [TABLE]))
    told = site.start("run", "--until-caught-up")
    told.wait()
    broken = [(e["kind"], e["key"], e["before"], e["after"], e["offset"]) for e in told.events("sequence broken")]
    assert sorted(broken) == [("gap", f'["{symbol}"]', 136, 139, 7) for symbol in "AB"]


def test_a_day_starts_its_own_sequence_by_the_records_timestamps(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    broker.create("ticks", 1)
    producer = producer_of(broker.bootstrap_servers, {"log_level": 0})
    for day, number in ((1, 998), (1, 999), (2, 1), (2, 2), (1, 1000), (2, 5)):
        value = json.dumps({"symbol": "A", "seq": number})
        producer.produce("ticks", value, partition=0, timestamp=20_000 * DAY_MS + day * DAY_MS)
    assert producer.flush(60) == 0
    table = {**TABLE, "gaps": {**TABLE["gaps"], "reset": "daily"}}
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [table]))
    site.catch_up()
    assert gaps(site) == {"gaps": 1, "missing": 2, "duplicates": 0, "regressions": 0}


def test_a_column_that_is_not_there_stops_the_table_before_anything_is_committed(
    broker: EmbeddedBroker, command_line: CommandLine, tmp_path: Path
) -> None:
    Ticks(broker).send(0, 5)
    table = {**TABLE, "gaps": {"key": ["venue"], "sequence": "seq"}}
    site = Site(tmp_path, command_line, configuration(broker.bootstrap_servers, None, [table]))
    ended = site.run("run", "--until-caught-up")
    assert ended.code == 2
    assert "gaps names column venue, which the rows do not have" in ended.err
