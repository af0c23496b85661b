"""The order of an audit: ledger, account, other people's commits, files, rows, source."""

from __future__ import annotations

import random
import uuid
from functools import partial
from typing import Protocol

import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema
from pyiceberg.types import UUIDType

from lakeward.engine import Engine, quoted
from lakeward.errors import Directive, LakewardError, OperatorError, PermissionDeniedError, UnreachableError
from lakeward.keys import hashes
from lakeward.ledger import LedgerEntry
from lakeward.sinks.iceberg.inspection import Inspection, examine_files, inspect, left_behind
from lakeward.sinks.iceberg.schema import conform
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.sinks.iceberg.upsert.index import KeyIndex
from lakeward.verification.commits import Commits, Kind, audit_ledger, audit_others, audit_replaces, sort_out
from lakeward.verification.letters import Waiting, audit_letters
from lakeward.verification.verdict import Findings, Verdict, plural

BATCH_ROWS = 100_000


class SourceAudit(Protocol):
    """Compares a table with what its source still holds."""

    def compare(self, target: IcebergTarget, seen: Seen, findings: Findings) -> None:
        """Add to ``findings``.

        Raises:
            UnreachableError: a server that is needed does not answer.
        """


class Seen:
    """A table as one audit sees it: one load of it, so that all parts speak of the same snapshot."""

    def __init__(self, inspection: Inspection, entry: LedgerEntry, commits: Commits, engine: Engine) -> None:
        self.inspection = inspection
        self.entry = entry
        self.commits = commits
        self.engine = engine
        self.waiting = Waiting()
        """The dead letters that wait; none before they were looked at."""


def verify(
    target: IcebergTarget, engine: Engine, source: SourceAudit | None = None, letters: IcebergTarget | None = None
) -> Verdict:
    """Audit one table; with ``source``, also value by value against what the source still holds.

    ``letters`` is its dead-letter table.

    A server that is away ends the audit of that part; the verdict says so (`Verdict.unreachable`).

    An ``engine`` is good for one table.
    """
    findings = Findings(target.name)
    try:
        inspection = inspect(target)
        if inspection is None:
            findings.problems.append("the table does not exist")
        elif inspection.entry is None:
            findings.problems.append("no commit of this pipeline is in the table")
        else:
            seen = Seen(inspection, inspection.entry, sort_out(inspection), engine)
            audit_ledger(seen.inspection, seen.entry, seen.commits, findings)
            if letters is not None:
                seen.waiting = audit_letters(target, letters, seen.entry, findings)
            _audit(target, seen, source, findings)
    except OperatorError as error:
        findings.problems.append(error.what)
    except LakewardError as error:
        if error.directive is not Directive.RETRY and not isinstance(error, PermissionDeniedError):
            raise
        findings.unreachable.append(error.what)
    return findings.verdict()


def _audit(target: IcebergTarget, seen: Seen, source: SourceAudit | None, findings: Findings) -> None:
    """Each part in its order; what a part raises ends the audit."""
    audit_others(seen.commits, findings)
    if not _files(seen.inspection, findings):
        findings.not_checked.append("rows and values, since there are files that cannot be read")
        return
    seen.engine.add(seen.inspection.table)
    audit_replaces(seen.commits, partial(_rows_at, seen), findings)
    if seen.inspection.key:
        _keys(seen, findings)
    else:
        _rows(seen, findings)
    if source is None:
        findings.not_checked.append("the values against the source (--against-source)")
    else:
        source.compare(target, seen, findings)


def _files(inspection: Inspection, findings: Findings) -> bool:
    """Whether every file that was looked at is as its manifest says."""
    found = examine_files(inspection.table, random.Random(0))  # noqa: S311 - a sample, the same each time
    total = found.data + found.deletes
    text = plural(found.data, "data file")
    if found.deletes:
        text += f", {plural(found.deletes, 'delete file')}"
    bad = len(found.problems)
    text += f", {bad:,} of them broken" if bad else ", sizes and footers as their manifests say"
    findings.say("files", text, data=found.data, deletes=found.deletes, opened=found.opened, broken=bad)
    findings.problems += found.problems
    if found.opened < total:
        findings.not_checked.append(f"the footers of {total - found.opened:,} of {plural(total, 'file')}")
    return not bad


def _rows(seen: Seen, findings: Findings) -> None:
    """Count the rows with DuckDB, and compare with what the commits account for."""
    table, account = seen.inspection.table, seen.entry.account
    counted = int(seen.engine.rows(f"SELECT count(*) FROM {quoted(table)}")[1][0][0])  # noqa: S608 - quoted
    findings.say("rows", f"{counted:,} counted in the data files", counted=counted)
    expected = account.rows + seen.commits.change(Kind.FOREIGN, Kind.PIPELINE, Kind.LIBRARY)
    if not seen.commits.complete:
        findings.not_checked.append("the rows against the records: the history does not reach back to the first commit")
    elif counted != expected and seen.inspection.has_delete_files:
        findings.not_checked.append("the rows against the records: delete files of others do not tell what they remove")
    elif counted != expected:
        findings.problems.append(f"the table holds {counted:,} rows; its commits account for {expected:,}")
    told = seen.inspection.deeds[-1].record.after.rows if seen.inspection.deeds else counted
    if told != counted and not seen.inspection.has_delete_files:
        findings.problems.append(f"the data files hold {counted:,} rows, the snapshot says {told:,}")


def _rows_at(seen: Seen, snapshot_id: int) -> int | None:
    """How many rows DuckDB finds in a snapshot; None where it has expired, or its files are gone."""
    table = seen.inspection.table
    if table.snapshot_by_id(snapshot_id) is None:
        return None
    try:
        return seen.engine.count(table, snapshot_id)
    except UnreachableError:
        return None


def _keys(seen: Seen, findings: Findings) -> None:
    """Count the rows and their keys with DuckDB: each key has one row, and the snapshot says how many there are."""
    table, key = seen.inspection.table, seen.inspection.key
    gone = [name for name in key if name not in table.schema().column_names]
    if gone:
        findings.not_checked.append(f"whether keys are unique: the table has no column {gone[0]} any more")
        return
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in key)
    nulls = " OR ".join('"' + name.replace('"', '""') + '" IS NULL' for name in key)
    counted, distinct, unknown = (
        int(value)
        for value in seen.engine.rows(
            f"SELECT coalesce(sum(n), 0)::BIGINT, count(*), coalesce(sum(n) FILTER ({nulls}), 0)::BIGINT "  # noqa: S608 - quoted
            f"FROM (SELECT {columns}, count(*) AS n FROM {quoted(table)} GROUP BY {columns})"
        )[1][0]
    )
    findings.say(
        "rows", f"{counted:,} counted in the data files, one for each {', '.join(key)}", counted=counted, keys=distinct
    )
    if counted != distinct:
        findings.problems.append(f"{counted:,} rows have only {distinct:,} different keys ({', '.join(key)})")
    if unknown:
        findings.problems.append(f"{plural(unknown, 'row')} without a key ({', '.join(key)})")
    told = seen.inspection.deeds[-1].record.after.rows if seen.inspection.deeds else counted
    lying = left_behind(table) if told != counted else 0
    if lying is None:
        findings.not_checked.append("the rows against the snapshot's totals: a delete file may concern several files")
    elif told + lying != counted:
        findings.problems.append(f"the data files hold {counted:,} rows, the snapshot says {told:,}")
    if counted == distinct and not unknown:
        _index(seen, columns, counted, findings)


def _index(seen: Seen, columns: str, counted: int, findings: Findings) -> None:
    """Does the index that a writer would build find exactly the rows that DuckDB sees? ``counted``: all keys differ."""
    table, key = seen.inspection.table, seen.inspection.key
    index = KeyIndex(key)
    index.advance(table)
    keys = Schema(*(table.schema().find_field(name).model_copy(update={"required": False}) for name in key))
    found = 0
    for batch in seen.engine.query(f"SELECT {columns} FROM {quoted(table)}").to_arrow_reader(BATCH_ROWS):  # noqa: S608
        rows = pa.Table.from_batches([batch])
        if len(rows):
            files, _ = index.find(hashes(conform(_stored(rows, keys), keys)))
            found += int((files >= 0).sum())
    findings.say("index", f"{found:,} keys found where the files have them", keys=found)
    if found != counted:
        findings.problems.append(f"the index of keys finds {found:,} of {counted:,} rows. Please report this")


def _stored(rows: pa.Table, keys: Schema) -> pa.Table:
    """``rows`` as DuckDB has them in the types of the table: it makes texts of uuids."""
    wanted = schema_to_pyarrow(keys, include_field_ids=False)
    columns = []
    for field in wanted:
        column = rows.column(field.name)
        if isinstance(keys.find_field(field.name).field_type, UUIDType):
            texts = column.cast(pa.string()).to_pylist()
            columns.append(pa.array([uuid.UUID(text).bytes for text in texts], pa.binary(16)))
        else:
            columns.append(column.cast(field.type))
    return pa.table(columns, names=list(wanted.names))
