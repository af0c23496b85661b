"""The audit: does the table hold what its own ledger says that the stream said?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lakeward.engine import Engine
from lakeward.sinks.iceberg.history import Record, audit
from lakeward.sinks.iceberg.target import IcebergTarget


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one table. ``lines``: (topic, sentence). ``problems``: what is wrong, in sentences."""

    table: str
    passed: bool
    lines: Sequence[tuple[str, str]]
    problems: Sequence[str]
    not_checked: Sequence[str]

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "lines": dict(self.lines)}


def verify(target: IcebergTarget, engine: Engine) -> Verdict:
    """Audit one table: its ledger along the ancestry, its rows against its records, counted by DuckDB.

    Raises:
        LedgerError: the ledger cannot be proved. UnreachableError: catalog or store do not answer.
    """
    table = target.load()
    if table is None:
        return Verdict(target.name, passed=False, lines=(), problems=("the table does not exist",), not_checked=())
    entry = target.find().entry
    records = [record for record in target.history() if record.on_ancestry]
    if entry is None:
        problem = "no commit of this pipeline is in the table"
        return Verdict(target.name, passed=False, lines=(), problems=(problem,), not_checked=())
    problems = audit(records)
    ours = [record for record in records if record.entry is not None and record.entry.claim]
    lines = [("ledger", f"{_plural(len(ours), 'commit')}, {_plural(len(entry.positions), 'partition')}")]
    if not problems:
        lines[0] = ("ledger", lines[0][1].replace(", ", ", contiguous, ", 1))
    account = entry.account
    lines.append(("account", f"{account.records:,} records = {account.rows:,} rows + {account.skipped:,} skipped"))
    if account.records != account.rows + account.skipped:
        problems.append(f"{account.records:,} records are not {account.rows:,} rows + {account.skipped:,} skipped")
    foreign = [record for record in records if _is_foreign(record)]
    engine.add(table)
    name = ".".join(f'"{part}"' for part in (".".join(table.name()[:-1]), table.name()[-1]))
    counted = int(engine.rows(f"SELECT count(*) FROM {name}")[1][0][0])  # noqa: S608 - a quoted identifier
    lines.append(("rows", f"{counted:,} counted in the data files"))
    not_checked = ["the values against the source"]
    changed = sum(record.added.rows - record.removed.rows for record in foreign)
    complete = bool(records) and records[0].before.rows == 0
    if foreign:
        lines.append(("foreign", f"{_plural(len(foreign), 'commit')} by others, {changed:+,} rows"))
    if not complete:
        not_checked.append("the rows against the records: the history does not reach back to the first commit")
    elif counted != account.rows + changed:
        problems.append(f"the table holds {counted:,} rows; its commits account for {account.rows + changed:,}")
    if records and records[-1].after.rows != counted:
        problems.append(f"the data files hold {counted:,} rows, the snapshot says {records[-1].after.rows:,}")
    lost = sum(abs(loss.end - loss.start) for loss in entry.accepted)
    if lost:
        lines.append(("given up", f"{lost:,} offsets, by on_lost_positions"))
    return Verdict(target.name, not problems, tuple(lines), tuple(problems), tuple(not_checked))


def _is_foreign(record: Record) -> bool:
    """Whether the commit changed rows without a claim or an append of this pipeline."""
    return record.added.rows != record.removed.rows and (record.entry is None or not record.entry.claim)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
