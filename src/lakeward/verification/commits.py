"""The ledger along the ancestry, and whose commits lie there (PROTOCOL I1, I3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lakeward.ledger import LedgerEntry
from lakeward.sinks.iceberg.authorship import Deed
from lakeward.sinks.iceberg.authorship import Kind as Author
from lakeward.sinks.iceberg.history import Record, audit
from lakeward.sinks.iceberg.inspection import Inspection, deleted_by_files, tells_rows
from lakeward.verification.verdict import Findings, listed, plural


class Kind(StrEnum):
    """Whose rows a commit holds."""

    STREAM = "stream"
    LIBRARY = "library"
    PIPELINE = "another pipeline"
    FOREIGN = "foreign"
    COMPACTION = "compaction"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit on the ancestry. ``change`` is in rows."""

    deed: Deed
    kind: Kind
    change: int

    @property
    def record(self) -> Record:
        """What the table's history says of it."""
        return self.deed.record


@dataclass(frozen=True, slots=True)
class Commits:
    """All of them, oldest first. ``complete``: they reach back to the empty table."""

    all: Sequence[Commit]
    complete: bool

    def change(self, *kinds: Kind) -> int:
        """How many rows the commits of ``kinds`` added, less what they removed."""
        return sum(commit.change for commit in self.all if commit.kind in kinds)

    @property
    def others_added(self) -> int:
        """How many rows are in the table without a record in the stream, if no row of the stream was removed."""
        return max(0, sum(commit.change for commit in self.all if commit.kind is not Kind.STREAM))

    @property
    def others_removed(self) -> int:
        """How many rows other programs' commits removed, as far as their summaries tell."""
        return -sum(min(0, commit.change) for commit in self.all if commit.kind is not Kind.STREAM)


def sort_out(inspection: Inspection) -> Commits:
    """Say of each commit whose rows it holds."""
    commits = []
    for deed in inspection.deeds:
        record = deed.record
        change = record.added.rows - record.removed.rows - deleted_by_files(record)
        commits.append(Commit(deed, _kind(deed, inspection.pipeline), change))
    first = inspection.deeds[0].record if inspection.deeds else None
    return Commits(commits, first is not None and first.parent_id is None and first.before.rows == 0)


def _kind(deed: Deed, pipeline: str) -> Kind:
    if deed.kind is Author.FOREIGN:
        return Kind.FOREIGN
    if deed.kind is Author.COMPACTION:
        return Kind.COMPACTION
    if deed.kind is Author.LIBRARY:
        return Kind.LIBRARY
    return Kind.STREAM if deed.kind is Author.ROLLBACK or deed.name == pipeline else Kind.PIPELINE


def audit_ledger(inspection: Inspection, entry: LedgerEntry, commits: Commits, findings: Findings) -> None:
    """Is the ledger contiguous, does each commit hold the rows that it accounts for, what was given up?"""
    problems = audit([deed.record for deed in inspection.deeds])
    if not inspection.key:  # many changes of a key leave one row, or none
        problems = [*problems, *_unaccounted(commits)]
    findings.problems += problems
    ours = sum(1 for commit in commits.all if commit.record.entry and commit.record.entry.claim)
    parts = [plural(ours, "commit"), "BROKEN" if problems else "contiguous", plural(len(entry.positions), "partition")]
    findings.say("ledger", ", ".join(parts), commits=ours, partitions=len(entry.positions), contiguous=not problems)
    if not commits.complete:
        findings.not_checked.append("the ledger before the oldest commit that is still known")
    account = entry.account
    what = "changes" if inspection.key else "rows"
    sum_ = f"{account.rows:,} {what} + {account.skipped:,} skipped"
    if account.letters or entry.letters.line:
        sum_ += f" + {plural(account.letters, 'dead letter')}"
    findings.say(
        "account",
        f"{account.records:,} records = {sum_}",
        records=account.records,
        rows=account.rows,
        skipped=account.skipped,
        letters=account.letters,
    )
    if account.records != account.rows + account.skipped + account.letters:
        findings.problems.append(f"{account.records:,} records are not {sum_}")
    if entry.accepted:
        losses = [f"{loss.partition} [{loss.start:,}, {loss.end:,})" for loss in entry.accepted]
        lost = sum(abs(loss.end - loss.start) for loss in entry.accepted)
        findings.say("given up", f"{plural(lost, 'offset')}: {listed(losses)}", offsets=lost, spans=losses)


def _unaccounted(commits: Commits) -> Iterator[str]:
    """Commits of the stream whose rows are not those that their entry adds to the account."""
    before: LedgerEntry | None = None
    for commit in commits.all:
        entry = commit.record.entry
        if commit.kind is Kind.STREAM and entry is not None and (before is not None or entry.number == 1):
            rows = entry.account.rows - (before.account.rows if before is not None else 0)
            if rows != commit.change:
                snapshot = f"snapshot {commit.record.snapshot_id}"
                yield f"{snapshot}: its files change the table by {commit.change:,} rows, its account says {rows:,}"
        before = entry or before


def audit_others(commits: Commits, findings: Findings) -> None:
    """List what was committed by anyone but the stream."""
    for kind, topic in (
        (Kind.FOREIGN, "foreign"),
        (Kind.PIPELINE, "pipelines"),
        (Kind.LIBRARY, "library"),
        (Kind.COMPACTION, "compaction"),
    ):
        groups: dict[tuple[str, str], list[Commit]] = {}
        for commit in commits.all:
            if commit.kind is kind:
                groups.setdefault((commit.record.operation, commit.deed.name or "another program"), []).append(commit)
        if groups:
            figures = {f"{operation} ({engine})": _figures(some) for (operation, engine), some in groups.items()}
            texts = [_told(*key, some, named=kind in {Kind.FOREIGN, Kind.PIPELINE}) for key, some in groups.items()]
            findings.say(topic, "; ".join(texts), **figures)
    for commit in commits.all:
        rewrites = commit.kind in {Kind.COMPACTION, Kind.FOREIGN} and commit.record.operation == "replace"
        if rewrites and commit.change and not _untold(commit):
            findings.problems.append(_not_only_rewritten(commit, commit.change))


def audit_replaces(commits: Commits, count: Callable[[int], int | None], findings: Findings) -> None:
    """Count the rows before and after each replace whose summary does not tell whether they are as many.

    ``count``: how many rows the table held at a snapshot; None where that cannot be read any more.
    """
    unknown = 0
    for commit in filter(_untold, commits.all):
        parent = commit.record.parent_id
        before = 0 if parent is None else count(parent)
        after = count(commit.record.snapshot_id)
        if before is None or after is None:
            unknown += 1
        elif before != after:
            findings.problems.append(_not_only_rewritten(commit, after - before))
    if unknown:
        findings.not_checked.append(
            f"whether {plural(unknown, 'replace')} kept all rows: what the table held before and after has expired"
        )


def _untold(commit: Commit) -> bool:
    """Whether it is another program's replace of files that may hold deleted rows. Ours takes their deletes along."""
    foreign = commit.kind is Kind.FOREIGN and commit.record.operation == "replace"
    return foreign and not tells_rows(commit.record)


def _not_only_rewritten(commit: Commit, change: int) -> str:
    who = "lakeward" if commit.kind is Kind.COMPACTION else commit.deed.name or "another program"
    return (
        f"snapshot {commit.record.snapshot_id}: a replace by {who} "
        f"changed the table by {change:+,} rows; it should only rewrite them"
    )


def _figures(commits: Sequence[Commit]) -> dict[str, int]:
    return {
        "commits": len(commits),
        "added": sum(commit.record.added.rows for commit in commits),
        "removed": sum(commit.record.added.rows - commit.change for commit in commits),
    }


def _told(operation: str, engine: str, commits: Sequence[Commit], *, named: bool) -> str:
    figures = _figures(commits)
    if any(map(_untold, commits)):
        change = f"{figures['added']:,} rows written anew"
    elif figures["added"] == figures["removed"] and (operation == "replace" or not figures["added"]):
        change = "rows unchanged"
    elif figures["added"] and figures["removed"]:
        change = f"+{figures['added']:,} -{figures['removed']:,} rows"
    else:
        change = f"{figures['added'] - figures['removed']:+,} rows"
    who = f" ({engine})" if named else ""
    return f"{plural(len(commits), operation)}{who}, {change}"
