from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from lakeward.cli import main
from lakeward.clock import SystemClock
from lakeward.demo import story
from lakeward.demo.feed import STREAMS, TRADES
from lakeward.demo.folder import Folder
from lakeward.demo.proof import prove

ENDS_S = 60.0
EXAMPLES = Path(__file__).parents[3] / "examples" / "market_data" / "schemas"


def run(*args):
    return CliRunner().invoke(main, ["demo", *map(str, args)])


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "lake"
    result = run("--folder", folder, "--trades", "20000", "--json")
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_every_message_is_in_the_tables_once_although_a_writer_was_killed(played):
    _, document = played
    assert document["passed"]
    *added, mirror = [(t["compared"]["sent"], t["compared"]["rows"]) for t in document["tables"]]
    assert added == [(20000,) * 2, (2500,) * 2]
    assert mirror[0] == mirror[1] > 100
    assert all(t["compared"]["exact"] and t["verify"]["passed"] for t in document["tables"])
    killed = document["killed"]
    assert 22900 // 2 <= killed["rows"] < 22900
    assert killed["rows"] <= killed["sent"]


def test_the_day_is_told_symbol_by_symbol(played):
    _, document = played
    assert len(document["day"]) == 8
    for row in document["day"]:
        low, high = float(row["low"]), float(row["high"])
        assert all(low <= float(row[price]) <= high for price in ("open", "close", "vwap"))
        assert float(row["spread"]) > 0


def test_the_commands_that_it_names_work_afterwards(played):
    folder, _ = played
    file = str(folder / "lakeward.yaml")
    rows = CliRunner().invoke(main, ["query", file, "SELECT * FROM market_data.trades LIMIT 5", "--json"])
    assert len(json.loads(rows.stdout)) == 5
    assert CliRunner().invoke(main, ["verify", file]).exit_code == 0
    status = CliRunner().invoke(main, ["status", file])
    assert "market_data.trades" in status.stdout
    assert (status.exit_code, "does not answer" in status.stderr) == (3, True)


def test_what_was_sent_can_be_compared_again_with_sql(played):
    folder, _ = played
    sent = f"SELECT * FROM '{folder / 'sent' / 'trades.parquet'}'"
    sql = f"SELECT count(*) AS missing FROM ({sent} EXCEPT ALL SELECT * FROM market_data.trades)"
    result = CliRunner().invoke(main, ["query", str(folder / "lakeward.yaml"), sql, "--json"])
    assert json.loads(result.stdout) == [{"missing": 0}]


@pytest.mark.parametrize(
    ("spoil", "missing", "extra"),
    [
        (lambda rows: rows.slice(1), 0, 1),
        (lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), 1, 0),
        (lambda rows: rows.set_column(5, "volume", pc.add(rows["volume"], 1)), 20000, 20000),
    ],
    ids=["a row that was not sent", "a row that is not there", "a value that was changed"],
)
def test_the_comparison_sees(played, tmp_path, spoil, missing, extra):
    folder, _ = played
    place = Folder(folder)
    copy = tmp_path / "trades.parquet"
    rows = pq.read_table(place.sent_file(TRADES))
    assert rows.column_names[5] == "volume"
    pq.write_table(spoil(rows), copy)
    config, targets = story.tables_of(place, SystemClock())
    proof = prove(targets[0], copy, config.catalog_properties())
    compared = proof.comparison
    assert not proof.passed
    assert proof.verdict.passed
    if missing == 20000:
        assert compared.missing == compared.extra > 10000
    else:
        assert (compared.missing, compared.extra) == (missing, extra)


def test_it_runs_again_in_a_folder_of_its_own_and_never_touches_another(played, tmp_path):
    folder, _ = played
    Folder(folder.parent / "lake").prepare()
    assert list((folder / "sent").iterdir()) == []
    (tmp_path / "thesis.txt").write_text("years of work")
    result = run("--folder", tmp_path)
    assert (result.exit_code, "was not made by the demo" in result.stderr) == (2, True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_schemas_are_those_of_the_example():
    for stream in STREAMS:
        assert stream.schema_text() == (EXAMPLES / stream.schema).read_text(encoding="utf-8")


@contextlib.contextmanager
def demo(folder, *args):
    command = [sys.executable, "-u", "-m", "lakeward", "demo", "--folder", folder, *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its writer too, where a test has failed before their end


def until(lines, pattern):
    for line in lines:
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"it ended without {pattern}")


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_when_it_is_stopped_its_writer_is_gone(tmp_path, number, code):
    with demo(tmp_path / "lake", "--trades", "300000") as process:
        writer = int(until(process.stdout, r"writer +pid (\d+)")[1])
        process.send_signal(number)
        process.communicate(timeout=ENDS_S)
        assert not is_running(writer)
    assert process.returncode == code


def test_a_writer_that_fails_ends_it_with_the_writers_own_words(tmp_path):
    with demo(tmp_path / "lake", "--trades", "300000") as process:
        writer = int(until(process.stdout, r"writer +pid (\d+)")[1])
        os.kill(writer, signal.SIGKILL)
        _, errors = process.communicate(timeout=ENDS_S)
    assert process.returncode == 1
    assert f"error: the writer {writer} ended with exit code -9" in errors
    assert "writer.log" in errors


def test_a_writer_that_is_killed_between_making_a_table_and_its_first_commit_has_left_no_files(tmp_path):
    with story.Demo(Folder(tmp_path / "lake"), story.Volume(1000), SystemClock()) as demo:
        assert demo._stray_files() == 0
        _, targets = story.tables_of(Folder(tmp_path / "lake"), SystemClock())
        targets[-1].create(pa.schema([("company_id", pa.string())]))
        assert targets[-1].load() is not None
        assert demo._stray_files() == 0
