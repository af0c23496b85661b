"""What a comparison with the source means, in sentences."""

from __future__ import annotations

from dataclasses import dataclass, field

from lakeward.positions import Partition
from lakeward.records import Decoded, RawBatch
from lakeward.verification.audit import Seen
from lakeward.verification.bench import Difference, Held
from lakeward.verification.commits import Kind
from lakeward.verification.mirror import MirrorDifference
from lakeward.verification.spans import Coverage
from lakeward.verification.verdict import SHOWN, Findings, listed, plural

UNKNOWN_SCHEMA = "unknown-schema-id"


@dataclass(slots=True)
class Tally:
    """What was read of the source. ``rejects``: by code, how many, and the places of the first.

    ``letters`` are dead letters; they are not decoded.
    """

    decoder: str
    records: int = 0
    skipped: int = 0
    rows: int = 0
    letters: int = 0
    rejects: dict[str, tuple[int, list[tuple[Partition, int]]]] = field(default_factory=dict)

    @property
    def unknown_schemas(self) -> int:
        """How many records nobody can decode any more, though they were rows once."""
        return self.rejects.get(UNKNOWN_SCHEMA, (0, []))[0]

    def set_aside(self, letters: int) -> None:
        """Add records that are dead letters."""
        self.records += letters
        self.letters += letters

    def count(self, raw: RawBatch, decoded: Decoded) -> None:
        """Add a batch."""
        self.records += len(raw)
        self.skipped += len(decoded.skipped)
        for reject in decoded.rejects:
            count, places = self.rejects.setdefault(reject.code, (0, []))
            if len(places) < SHOWN:
                places.append((Partition(raw.topic, int(raw.partition[reject.index])), int(raw.offset[reject.index])))
            self.rejects[reject.code] = (count + 1, places)


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison: the table's rows, what differs, what was read. ``keyed``: rows name their record."""

    held: Held
    difference: Difference
    tally: Tally
    coverage: Coverage
    keyed: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """Rows that are wrong, and ``unknown``: those that have no record in Kafka, which nothing can be said of."""

    missing: int
    extra: int
    changed: int
    unknown: int


def report(compared: Compared, seen: Seen, findings: Findings) -> None:
    """Add what the comparison found."""
    tally, difference = compared.tally, compared.difference
    judged = _by_key(compared, seen, findings) if compared.keyed else _by_value(compared, seen)
    told = f"; {plural(tally.letters, 'dead letter')} left out" if tally.letters else ""
    findings.say(
        "source",
        f"{tally.rows:,} compared: {judged.missing:,} missing, {judged.extra:,} extra, {judged.changed:,} changed "
        f"(decoded by {tally.decoder}){told}",
        compared=tally.rows,
        missing=judged.missing,
        extra=judged.extra,
        changed=judged.changed,
        not_in_source=judged.unknown,
        letters=tally.letters,
        records=tally.records,
        decoder=tally.decoder,
    )
    removed = seen.commits.others_removed
    places = [f"{partition} offset {offset:,}" for partition, offset in difference.places]
    where = f": {listed(places, max(difference.missing, len(places)))}" if places else ""
    if judged.missing:
        blame = f"; other programs' commits removed {removed:,}" if removed else ""
        findings.problems.append(f"{_rows(judged.missing)} of the stream not in the table{blame}{where}")
    if judged.changed:
        columns = f" in {listed(difference.columns)}" if difference.columns else ""
        findings.problems.append(f"{_rows(judged.changed)} changed{columns}{'' if judged.missing else where}")
    if judged.extra:
        findings.problems.append(f"{_rows(judged.extra)} in the table that the stream did not say, or not so often")
    _unreadable(tally, findings)
    _not_checked(judged.unknown, compared, seen, findings)


def report_mirror(difference: MirrorDifference, tally: Tally, coverage: Coverage, findings: Findings) -> None:
    """Add what the comparison of a mirror with its stream found."""
    told = f"; {plural(tally.letters, 'dead letter')} left out" if tally.letters else ""
    unknown = difference.untold if coverage.gone else 0
    extra = difference.extra + difference.untold - unknown
    findings.say(
        "source",
        f"{plural(difference.keys, 'key')} compared, {plural(tally.rows, 'change')}: {difference.missing:,} missing, "
        f"{extra:,} extra, {difference.changed:,} changed (decoded by {tally.decoder}){told}",
        compared=difference.keys,
        changes=tally.rows,
        missing=difference.missing,
        extra=extra,
        changed=difference.changed,
        not_in_source=unknown,
        letters=tally.letters,
        records=tally.records,
        decoder=tally.decoder,
    )
    if difference.missing:
        findings.problems.append(f"{_rows(difference.missing)} of the stream not in the table")
    if difference.changed:
        columns = f" in {listed(difference.columns)}" if difference.columns else ""
        findings.problems.append(f"{_rows(difference.changed)} not as the stream left them{columns}")
    if extra:
        findings.problems.append(f"{_rows(extra)} in the table that the stream deleted, or never told of")
    _unreadable(tally, findings)
    if unknown:
        findings.not_checked.append(f"{plural(unknown, 'row')} whose changes are {coverage.gone[0]}")
    if difference.wandering:
        findings.not_checked.append(f"{plural(difference.wandering, 'key')} with changes in several partitions")


def _rows(count: int) -> str:
    return f"{plural(count, 'row')} {'is' if count == 1 else 'are'}"


def _by_value(compared: Compared, seen: Seen) -> Judgement:
    """Rows do not name their record: as many may be extra as have lost theirs, or never had one."""
    difference = compared.difference
    lost = max(0, seen.entry.account.rows - compared.tally.rows) if compared.coverage.gone else 0
    allowed = lost + seen.commits.others_added + compared.tally.unknown_schemas
    surplus = max(0, difference.extra - allowed)
    changed = min(difference.missing, surplus)
    # A row of the stream that is there twice is no other program's row, whoever appended it.
    twins = max(0, difference.copies - seen.commits.change(Kind.LIBRARY)) if not compared.coverage.gone else 0
    extra = max(surplus - changed, twins - changed)
    return Judgement(difference.missing - changed, extra, changed, difference.extra - changed - extra)


def _by_key(compared: Compared, seen: Seen, findings: Findings) -> Judgement:
    """Rows name their record: each is judged by itself."""
    held, difference, others = compared.held, compared.difference, seen.commits.others_added
    if held.beyond:
        findings.problems.append(f"{_rows(held.beyond)} at or above the table's own position")
    if held.strange > others:
        findings.problems.append(f"{_rows(held.strange)} of no partition of the stream; other commits added {others:,}")
    recordless = difference.extra - difference.copies
    excusable = recordless if compared.coverage.gone else min(recordless, compared.tally.unknown_schemas)
    extra = difference.extra - difference.changed - excusable
    before = held.total - held.inside - held.beyond - held.strange
    return Judgement(
        difference.missing - difference.changed, extra, difference.changed, before + held.strange + excusable
    )


def _unreadable(tally: Tally, findings: Findings) -> None:
    for code, (count, places) in sorted(tally.rejects.items()):
        where = listed((f"{partition} offset {offset:,}" for partition, offset in places), count)
        if code == UNKNOWN_SCHEMA:
            findings.not_checked.append(f"{plural(count, 'record')} whose schema the registry no longer has: {where}")
        else:
            findings.problems.append(
                f"{plural(count, 'record')} below the positions cannot be decoded [{code}]: {where}"
            )


def _not_checked(unknown: int, compared: Compared, seen: Seen, findings: Findings) -> None:
    """Say of which rows nothing is known."""
    change = seen.commits.change
    others = [
        (min(unknown, max(0, change(Kind.LIBRARY))), "of library appends"),
        (min(unknown, max(0, change(Kind.PIPELINE))), "of other pipelines"),
        (min(unknown, max(0, seen.commits.others_added - change(Kind.LIBRARY, Kind.PIPELINE))), "of other programs"),
    ]
    gone = unknown - sum(count for count, _ in others)
    findings.not_checked += [f"{plural(count, 'row')} {whose}" for count, whose in others if count]
    if gone > 0:
        findings.not_checked.append(f"{gone:,} {compared.coverage.gone[0] if compared.coverage.gone else 'unreadable'}")
