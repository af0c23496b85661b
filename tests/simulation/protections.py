"""What protects the promise, one by one: how to switch it off, and what then goes wrong in which situation.

The table in docs/guarantee.md is made of these; `test_protections` switches each of them off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from pyiceberg.table.update import AssertRefSnapshotId, AssertTableUUID
from tests.simulation import scripts
from tests.simulation.history import History, play
from tests.simulation.world import Climate

from lakeward.joining import Joining
from lakeward.lanes import Lane
from lakeward.ledger import LedgerEntry, Standing
from lakeward.outcomes import Outcome, Refused
from lakeward.sinks.iceberg import commit
from lakeward.sinks.iceberg.attempt import Attempt, Entries
from lakeward.sinks.iceberg.commit import Commit, StagedFiles
from lakeward.sinks.iceberg.find import Finding, find
from lakeward.sinks.iceberg.handle import Handle
from lakeward.sources.kafka_runs import Run, Runs
from lakeward.watching import Watching

Patches = list[Any]
BUSY = Climate(
    workers=(2, 3), tables=(1, 1), events=(5, 9), fail=0.0, registry=0.0, death=0.0, pipelines=0.0, latest=0.0
)
"""Workers that quarrel about partitions, and little else."""


@dataclass(frozen=True)
class Protection:
    """``off`` makes the patches that switch it off. ``play`` plays one seed, and raises what the oracle finds.

    ``seeds``: with so many seeds at most, something must go wrong without it.
    """

    what: str
    rule: str
    fault: str
    without: str
    off: Callable[[], Patches]
    play: Callable[[int], object]
    seeds: int = 150


def as_table() -> str:
    """The protections as docs/guarantee.md shows them."""
    rows = ["| protection | in this situation | without it | rule |", "|---|---|---|---|"]
    rows += [f"| {p.what} | {p.fault} | {p.without} | {p.rule} |" for p in PROTECTIONS]
    return "\n".join(rows) + "\n"


def happening(**weights: float) -> dict[str, float]:
    """Events and how often they are chosen; underscores stand for spaces."""
    return {name.replace("_", " "): weight for name, weight in weights.items()}


def climate(**changes: Any) -> Callable[[int], History]:
    """Plays seeds in a climate in which the fault is likely."""
    chosen = Climate(**{**{name: getattr(BUSY, name) for name in BUSY.__dataclass_fields__}, **changes})
    return lambda seed: play(seed, chosen)


def scripted(script: Callable[[History], None], **changes: Any) -> Callable[[int], History]:
    """Plays a script of one situation; a seed only decides about delays."""
    chosen = Climate(**{**{name: getattr(BUSY, name) for name in BUSY.__dataclass_fields__}, **changes})
    return lambda seed: play(seed, chosen, script)


def _unsent(kind: type) -> Callable[[], Patches]:
    """Requests go without their assertions of this kind."""
    send = Handle.send

    def without(self: Handle, table: Any, requirements: Any, updates: Any) -> Any:
        return send(self, table, tuple(one for one in requirements if not isinstance(one, kind)), updates)

    return lambda: [patch.object(Handle, "send", without)]


def _believing() -> Patches:
    """An answer that is lost is taken for a success."""
    send = Commit._send

    def believed(self: Commit, table: Any, attempt: Attempt) -> Any:
        answer = send(self, table, attempt)
        return table if isinstance(answer, Exception) else answer

    return [patch.object(Commit, "_send", believed)]


def _keeping_rows() -> Patches:
    def release(self: Lane, revoked: Any) -> set[Any]:
        for partition in revoked:
            self.next.pop(partition, None)
        return set()

    return [patch.object(Lane, "release", release), patch.object(Lane, "recall", lambda *_: False)]


def _not_settling() -> Patches:
    settle = Lane.settle

    def at_once(self: Lane, *arguments: Any, **named: Any) -> None:
        settle(self, *arguments, **named)
        self.settling = False

    return [patch.object(Lane, "settle", at_once)]


def _keeping_next() -> Patches:
    def drop(self: Lane, entry: LedgerEntry | None) -> None:
        self.entry, self.committing, self.settling = entry, None, False

    return [patch.object(Lane, "drop", drop)]


def _guessing() -> Patches:
    """The table property is believed, whatever snapshot it speaks of."""
    from lakeward.errors import LedgerError  # noqa: PLC0415
    from lakeward.sinks.iceberg.find import mirrored  # noqa: PLC0415

    def guess(metadata: Any, pipeline: str, parent_of: Any, **named: Any) -> Finding:
        try:
            return find(metadata, pipeline, parent_of, **named)
        except LedgerError:
            held = mirrored(metadata, pipeline)
            assert held is not None
            return Finding(held.entry, 1, held.entry.number)

    return [patch(f"lakeward.sinks.iceberg.{name}.find", guess) for name in ("commit", "target")]


def _forgetting_others() -> Patches:
    return [patch.object(commit, "Entries", lambda pipeline, own, others: Entries(pipeline, own, {}))]


def _proving_most() -> Patches:
    def proved(self: Joining, partitions: Any) -> dict[Any, Any]:
        found = {}
        for partition in self.begun.intersection(partitions):
            entries = [lane.entry for lane in self.lanes_of(partition.topic)]
            known = [entry.positions[partition] for entry in entries if entry and partition in entry.positions]
            if known:
                found[partition] = max(known, key=lambda at: at.next)
        return found

    return [patch.object(Joining, "proved", proved)]


def _leaving_stash() -> Patches:
    def end(self: Runs, partitions: Any) -> None:
        for partition in partitions:
            self._open.pop(partition, None)
            self._held.discard(partition)

    return [patch.object(Runs, "end", end)]


def _deleting() -> Patches:
    """What was staged for a commit that was refused is deleted, whatever may refer to it."""
    sweep = Commit._sweep

    def all_of_it(self: Commit, table: Any, outcome: Outcome) -> None:
        sweep(self, table, outcome)
        if isinstance(outcome, Refused):
            self.discard(table, self.staged.files.files)

    return [patch.object(Commit, "_sweep", all_of_it)]


def _deaf() -> Patches:
    return [
        patch.object(Run, "of", staticmethod(lambda position: Run(position.next, position.next, None))),
        patch.object(Lane, "_hear_witness", lambda *_: None),
    ]


def _any_table() -> Patches:
    return [patch.object(Handle, "_check", lambda *_: None), *_unsent(AssertTableUUID)()]


PROTECTIONS = (
    Protection(
        "A commit asserts the table's head",
        "I2, C2g",
        "two workers make the first commit of a table at the same time",
        "the second one replaces the first: its rows are lost",
        _unsent(AssertRefSnapshotId),
        climate(workers=(3, 3), delay=0.8, happens=happening(rebalance=1, appended=1)),
    ),
    Protection(
        "Each attempt compares the batch's claim with the positions at the head",
        "C2c",
        "a worker that lost its partitions, and does not know it yet, commits what their new owner has committed",
        "rows twice",
        lambda: [patch.object(Standing, "of", staticmethod(lambda *_: Standing.EXTENDS))],
        climate(zombie=1.0, happens=happening(appended=1, rebalance=2, stalled=2)),
    ),
    Protection(
        "Every answer but a parsed success is followed by a look",
        "C3, C4",
        "a commit's request never arrives",
        "a receipt for rows that are in no table: they are acked, and whoever holds the receipt believes it",
        _believing,
        climate(commit={"fine": 2.0, "no answer": 1.0}),
    ),
    Protection(
        "A look searches for the commit's own id, also after a conflict",
        "C3, C4, C9",
        "a library's append lands, its answer is lost or a proxy delivers it twice, and somebody else commits",
        "the append is made again: rows twice",
        lambda: [patch.object(Commit, "_trace", lambda *_: None)],
        scripted(scripts.append_that_landed),
    ),
    Protection(
        "A refused batch takes the filling one with it, and the table is asked again where it continues",
        "C5",
        "a commit is refused while the next batch fills",
        "the next batch claims from where the table never was: nothing is ever committed again",
        _keeping_next,
        climate(zombie=1.0, events=(12, 12), happens=happening(appended=3, rebalance=2, stalled=2)),
    ),
    Protection(
        "Rows of a revoked partition are dropped from the batch that fills",
        "R2",
        "a partition is revoked and given back at once, or before the batch is committed",
        "it is read again from the table's position, into the same batch: rows twice",
        _keeping_rows,
        scripted(scripts.given_back_while_filling, flush_s=(2.0,)),
    ),
    Protection(
        "Messages of a run that has ended are discarded",
        "S5",
        "messages wait for the schema registry; meanwhile a refused commit takes their partition back",
        "they are taken at once, and what lies before them never: rows are lost",
        lambda: [patch.object(Joining, "current", lambda self, raw: raw)],
        climate(registry=0.5, zombie=1.0, happens=happening(appended=2, rebalance=2, stalled=2)),
    ),
    Protection(
        "What was fetched for a paused partition is forgotten when its run ends",
        "S5",
        "a partition that is paused is revoked and comes back, or goes back",
        "it is handed over before the new run's first record: rows are lost",
        _leaving_stash,
        climate(registry=0.5, zombie=1.0, events=(12, 12), happens=happening(appended=3, rebalance=2, stalled=2)),
    ),
    Protection(
        "A table takes only offsets behind what it holds, fills and commits",
        "S6",
        "two tables are fed from one topic, and one of them goes back",
        "the other one takes the same records again: rows twice",
        lambda: [patch.object(Lane, "wanted", lambda self, raw: raw)],
        climate(tables=(2, 2), happens=happening(appended=2, rebalance=2, stalled=2, foreign_rollback=1)),
    ),
    Protection(
        "Where a pipeline starts is committed before it reads anything",
        "S2",
        "`start: latest`, and death before the first commit of rows",
        "the next start begins at a later end: rows are lost",
        _not_settling,
        climate(
            latest=1.0,
            workers=(1, 2),
            events=(12, 12),
            delay=0.8,
            commit={"fine": 1.0, "no answer": 4.0},
            happens=happening(appended=2, killed=1),
        ),
    ),
    Protection(
        "Only what is in every table that it feeds is acked",
        "I7",
        "two tables are fed from one topic, and one of them is behind",
        "lag tools, and whoever deletes what is acked, are told that rows are safe that are not",
        _proving_most,
        climate(tables=(2, 2), happens=happening(appended=1)),
    ),
    Protection(
        "A table without commits is looked at",
        "B2",
        "another tool rolls back a table whose stream is silent",
        "what was undone stays missing until the next record",
        lambda: [patch.object(Watching, "turn", lambda *_: [])],
        climate(fresh=0.0, workers=(1, 1), happens=happening(foreign_rollback=1, rollback=1)),
    ),
    Protection(
        "A rollback of some partitions is noticed when another one joins",
        "B2",
        "a table is rolled back right before one of its partitions is assigned anew",
        "what was undone of the others stays missing until their next record",
        lambda: [patch("lakeward.joining.differs", lambda *_: False)],
        scripted(scripts.rolled_back_before_a_rebalance),
    ),
    Protection(
        "A rollback of some partitions is noticed by a commit of others",
        "B2",
        "a table is rolled back right before a commit that claims none of the partitions that went back",
        "what was undone of the others stays missing until their next record",
        lambda: [patch("lakeward.pipeline.differs", lambda *_: False)],
        scripted(scripts.rolled_back_before_a_commit_of_others),
    ),
    Protection(
        "The property's positions count only where its snapshot is the proven parent of what is left",
        "F2",
        "another tool rolls the table back, writes, and expires every snapshot but the last",
        "the position of rows that were rolled back is believed: rows are lost",
        _guessing,
        scripted(scripts.rolled_back_and_expired),
    ),
    Protection(
        "Every commit carries the entries of all other pipelines",
        "I5",
        "two pipelines feed one table, and another tool expires every snapshot but the last",
        "the other pipeline cannot prove its position any more, and stops",
        _forgetting_others,
        scripted(scripts.expired_under_two_pipelines),
    ),
    Protection(
        "A pipeline that a table does not know may not read what another one feeds it from",
        "F4",
        "the pipeline was renamed",
        "everything is read again: rows twice",
        lambda: [patch.object(commit, "refuse_other_owner", lambda *_: None)],
        scripted(scripts.renamed),
    ),
    Protection(
        "A table with another uuid is another table",
        "C2b, B4",
        "the table is dropped and created again while it is written to",
        "it goes on in the middle, and says that it holds everything: rows are lost",
        _any_table,
        scripted(scripts.dropped_and_created_again),
    ),
    Protection(
        "A topic with another id is another topic",
        "S3",
        "the topic is deleted and created again, with more records than before",
        "reading goes on in the middle of it: rows are lost",
        lambda: [patch("tests.simulation.stream.Member.identities", lambda self, topics: dict.fromkeys(topics))],
        scripted(scripts.topic_created_again),
    ),
    Protection(
        "The last record read is read again, and compared",
        "S3",
        "the log is cut and written again below the position",
        "reading goes on in the middle of other records: rows are lost",
        _deaf,
        scripted(scripts.log_written_again),
    ),
    Protection(
        "Files of an attempt that may be in a retained snapshot are never deleted",
        "I6",
        "a commit lands and its answer is lost; the table is rolled back, and forward again",
        "the table names files that are gone: it cannot be read",
        _deleting,
        scripted(scripts.rolled_back_and_forward),
    ),
    Protection(
        "Staged files are bound to the table's schema",
        "C1",
        "a column is renamed, and another one gets its name, between staging and committing",
        "rows end up in a column that they do not belong to",
        lambda: [patch.object(StagedFiles, "fit", lambda *_: True)],
        scripted(scripts.column_replaced_while_staged),
    ),
    Protection(
        "An expiry asserts the head that it was decided on",
        "M2",
        "the table is rolled back to a snapshot that is just being expired",
        "`main` names nothing any more: the table is empty",
        _unsent(AssertRefSnapshotId),
        scripted(scripts.rolled_back_while_expiring),
    ),
    Protection(
        "Expiry keeps the newest entry of every pipeline, and the chain that leads to it",
        "M2",
        "snapshots are expired below commits of other tools",
        "nothing proves the position any more, and the pipeline stops",
        lambda: [patch("lakeward.sinks.iceberg.expiry._proofs", lambda _: set())],
        scripted(scripts.expired_below_others),
    ),
    Protection(
        "A snapshot is never older than its parent",
        "C2f",
        "a worker's clock is behind",
        "time goes back along the history: time travel and retention go wrong",
        lambda: [patch.object(commit, "time_of_next", lambda metadata, now_ms: now_ms)],
        climate(workers=(3, 3), happens=happening(appended=2, rebalance=1)),
    ),
)
