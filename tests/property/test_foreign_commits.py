"""Whatever others do to a table while lakeward writes to it, it holds the stream up to its positions, or says so.

A history is a seed, and plays the same each time: ``play(seed, folder)``. What happens in it: see `foreign`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import duckdb
from pyiceberg.table import Table
from structlog.testing import capture_logs
from tests.property.foreign import ACTIONS, History

from lakeward.testing.lake import Lake

HISTORIES = 24


def play(seed: int, folder: Path) -> History:
    """One history, checked after every run; at its end the table has all that was sent, by DuckDB's own reading."""
    quiet = capture_logs()  # hundreds of lines, which nobody reads
    with quiet, Lake({"type": "sql", "uri": "sqlite://", "warehouse": str(folder)}, ("shop", f"s{seed}")) as lake:
        history = History(seed, lake)
        while history.runs_left:
            history.run()
            history.check()
        history.finish()
        history.check()
        table = lake.table()
        head = table.metadata.current_snapshot_id
        assert head is not None
        state = history.states[head]
        assert {p: state.ends.get(p, 0) for p in history.logs} == {
            p: len(log.values) for p, log in history.logs.items()
        }
        assert read_by_duckdb(table) == state.rows
        assert lake.breaks("p") == lake.breaks("q") == []
    return history


def read_by_duckdb(table: Table) -> Counter[str]:
    """The rows in the head's files, whose column was named ``text`` for a while."""
    files = [task.file.file_path for task in table.scan().plan_files()]
    with duckdb.connect() as reader:
        source = "read_parquet($files, hive_partitioning = false, union_by_name = true)"
        rows = reader.execute(f"SELECT COLUMNS('value|text') FROM {source}", {"files": files}).fetchall()
    return Counter(next(value for value in row if value is not None) for row in rows)


def test_whatever_others_do_the_table_holds_the_stream_up_to_its_positions(tmp_path: Path) -> None:
    happened = play_all(range(HISTORIES), tmp_path)
    wanted = {*ACTIONS, "refused", "lost answer", "repaired", "LedgerError", "TableChangedError"}
    assert wanted <= happened.keys(), wanted - happened.keys()


def play_all(seeds: Iterable[int], folder: Path) -> Counter[str]:
    """What happened in all of them; the first that fails is told."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        try:
            happened += play(seed, folder).happened
        except BaseException as error:
            error.add_note(f"again: play({seed}, folder)")
            raise
    return happened
