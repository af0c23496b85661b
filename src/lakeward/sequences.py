"""Holes, duplicates and regressions in a business sequence that counts up by one for each key. Pure.

A sequence belongs to one partition and one key (and, with ``daily``, one day: the UTC day of the records' own
timestamps), because only within a partition is there an order. The *last* number of a sequence is the last by offset,
not the highest (PROTOCOL M4): after a regression the count goes on from the lower number. The first record of a
sequence that was never seen is neither a hole nor a regression: nobody can say what came before.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakeward.errors import ConfigurationError, OperatorError
from lakeward.gaps import GapCounts
from lakeward.positions import Partition
from lakeward.records import Trace

FORMAT = 1
DAY_MS = 86_400_000
MOST_SEQUENCES = 1_000_000
"""What is remembered of one partition; more than that, and ``gaps.key`` does not name sequences."""
_TOLD = 10
"""So many findings of one batch are told one by one; all are counted."""
_DENSE = 1 << 24
"""Composite codes below this are made dense through a bitmap rather than by sorting."""
_SMALL = 1 << 40

Ints = NDArray[np.int64]
Last = dict[str, int]
"""The last number of each key; a key is a JSON list of texts."""
State = dict[int, Last]
"""By day since the epoch; always day 0 where the sequence never starts again."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``key``: columns that name a sequence; ``sequence``: the column that counts; ``daily``: it starts every day."""

    key: tuple[str, ...]
    sequence: str
    daily: bool = False


class Finding(NamedTuple):
    """One break of a sequence: its record has number ``after`` where the one before had ``before``."""

    kind: str
    """``gap``, ``duplicate`` or ``regression``."""
    key: str
    partition: Partition
    offset: int
    before: int
    after: int

    def __str__(self) -> str:
        """For people."""
        key = "/".join("null" if text is None else text for text in json.loads(self.key))
        return f"{key} {self.kind} {self.before} -> {self.after}, {self.partition}, offset {self.offset}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a batch adds: counts, the first findings by offset, and the state of each partition that had rows."""

    counts: GapCounts
    findings: Sequence[Finding]
    states: Mapping[Partition, State]


def check(rule: Rule, parts: Sequence[pa.Table], traces: Sequence[Trace], states: Mapping[Partition, State]) -> Checked:
    """Follow the sequences through ``parts``, whose rows ``traces`` place; ``states`` say where they stood before.

    Rows without a number are passed over. Rows may come in any order between partitions and parts; offsets order them.

    Raises:
        ConfigurationError: the rows lack a column of ``rule``, or it cannot be a number or a key.
        OperatorError: there are more sequences than can be remembered.
    """
    rows = _Rows.of(rule, parts, traces)
    if not len(rows.number):
        return Checked(GapCounts(), (), {})
    group, first = rows.groups()
    order = np.argsort(group.astype(np.uint16 if len(first) <= 1 << 16 else np.int64), kind="stable")
    offset, sorted_group = rows.offset[order], group[order]
    same = sorted_group[1:] == sorted_group[:-1]
    if (same & (offset[1:] < offset[:-1])).any():  # parts of several schemas lie side by side
        order = np.lexsort((rows.offset, group))
        offset, sorted_group = rows.offset[order], group[order]
    number = rows.number[order]
    heads = np.flatnonzero(np.concatenate([[True], ~same]))
    tails = np.concatenate([heads[1:], [len(number)]]) - 1

    names = [rows.name(int(row)) for row in first]
    known = np.zeros(len(first), bool)
    before_first = np.zeros(len(first), np.int64)
    for i, (partition, day, key) in enumerate(names):
        last = states.get(partition, {}).get(day, {}).get(key)
        if last is not None:
            known[i], before_first[i] = True, last
    before = np.empty_like(number)
    before[1:] = number[:-1]
    before[heads] = np.where(known, before_first, number[heads] - 1)  # what was never seen follows on

    gap = (number > before) & (number - 1 != before)
    again, back = number == before, number < before
    if not known.all():
        fresh = heads[~known]
        gap[fresh] = again[fresh] = back[fresh] = False
    counts = GapCounts(
        gaps=int(gap.sum()),
        missing=_total((number[gap].view(np.uint64) - before[gap].view(np.uint64)) - np.uint64(1)),
        duplicates=int(again.sum()),
        regressions=int(back.sum()),
    )
    findings: list[Finding] = []
    for kind, found in (("gap", gap), ("duplicate", again), ("regression", back)):
        at = np.flatnonzero(found)
        for i in at[np.argsort(offset[at], kind="stable")[:_TOLD]]:
            partition, _, key = names[int(sorted_group[i])]
            findings.append(Finding(kind, key, partition, int(offset[i]), int(before[i]), int(number[i])))
    return Checked(counts, findings, _after(rule, names, number[tails], states))


def dump(rule: Rule, states: Mapping[Partition, State]) -> bytes:
    """The states as a file's content; the same states are the same bytes."""
    document = {
        "format": FORMAT,
        "rule": [list(rule.key), rule.sequence, rule.daily],
        "states": [
            [*partition, [[day, dict(sorted(last.items()))] for day, last in sorted(state.items())]]
            for partition, state in sorted(states.items())
        ],
    }
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)


def load(rule: Rule, content: bytes) -> dict[Partition, State] | None:
    """Read `dump` back; None where it was made by another rule or cannot be read."""
    try:
        document = json.loads(zlib.decompress(content))
        if document["format"] != FORMAT or document["rule"] != [list(rule.key), rule.sequence, rule.daily]:
            return None
        return {
            Partition(topic, number): {int(day): dict(last) for day, last in days}
            for topic, number, days in document["states"]
        }
    except (zlib.error, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that have a number, as columns: which sequence each belongs to, in codes."""

    partitions: Sequence[Partition]
    partition: Ints
    day: Ints
    keys: Sequence[Ints]
    texts: Sequence[Sequence[str | None]]
    offset: Ints
    number: Ints

    @staticmethod
    def of(rule: Rule, parts: Sequence[pa.Table], traces: Sequence[Trace]) -> _Rows:
        number = _column(parts, rule.sequence)
        if not pa.types.is_integer(number.type):
            raise ConfigurationError(
                f"gaps.sequence names column {rule.sequence}, which is {number.type}",
                "Name a column of whole numbers.",
            )
        valid = np.asarray(pc.is_valid(number))
        partitions: list[Partition] = []
        codes: list[Ints] = []
        for trace in traces:
            held = np.bincount(trace.partition) > 0
            codes.append((np.cumsum(held) - 1)[trace.partition] + len(partitions))
            partitions += [Partition(trace.topic, int(number)) for number in np.flatnonzero(held)]
        distinct = {p: i for i, p in enumerate(dict.fromkeys(partitions))}
        folded = np.asarray([distinct[p] for p in partitions], np.int64)
        partition = folded[np.concatenate(codes)] if codes else np.empty(0, np.int64)
        timestamp = np.concatenate([trace.timestamp for trace in traces]) if traces else np.empty(0, np.int64)
        encoded = [_encoded(name, _column(parts, name)) for name in rule.key]
        offset = np.concatenate([trace.offset for trace in traces]) if traces else np.empty(0, np.int64)
        return _Rows(
            partitions=list(distinct),
            partition=partition[valid],
            day=(timestamp // DAY_MS if rule.daily else np.zeros(len(timestamp), np.int64))[valid],
            keys=[code[valid] for code, _ in encoded],
            texts=[texts for _, texts in encoded],
            offset=offset[valid],
            number=np.asarray(number.drop_null().cast(pa.int64())),
        )

    def groups(self) -> tuple[Ints, Ints]:
        """The sequence of each row as a dense code, and a row of each sequence."""
        first_day = int(self.day.min())
        days = (self.day - first_day, int(self.day.max()) - first_day + 1)
        group, size = self.partition, len(self.partitions)
        for codes, count in [days, *zip(self.keys, map(len, self.texts), strict=True)]:
            if count == 1:
                continue
            group = group * count + codes
            size *= count
            if size > _DENSE:  # before the next factor: a product of three columns could pass 64 bits
                group = np.unique(group, return_inverse=True)[1].astype(np.int64)
                size = int(group.max()) + 1
        present = np.zeros(size, bool)
        present[group] = True
        group = (np.cumsum(present) - 1)[group]
        first = np.empty(int(present.sum()), np.int64)
        first[group] = np.arange(len(group))
        return group, first

    def name(self, row: int) -> tuple[Partition, int, str]:
        """Partition, day and key of the sequence that ``row`` belongs to."""
        key = [texts[int(codes[row])] for codes, texts in zip(self.keys, self.texts, strict=True)]
        return self.partitions[int(self.partition[row])], int(self.day[row]), json.dumps(key, ensure_ascii=False)


def _column(parts: Sequence[pa.Table], name: str) -> pa.ChunkedArray:
    held = [part.column(name) if name in part.column_names else None for part in parts]
    types = [column.type for column in held if column is not None]
    if not types:
        columns = ", ".join(parts[0].column_names) if parts else ""
        raise ConfigurationError(f"gaps names column {name}, which the rows do not have", f"They have: {columns}.")
    # Parts of an older schema may be narrower, or lack it.
    wanted = pa.int64() if all(pa.types.is_integer(t) for t in types) else pa.string()
    if len(set(types)) == 1 and not pa.types.is_integer(types[0]):
        wanted = types[0]
    chunks: list[pa.Array] = []
    for part, column in zip(parts, held, strict=True):
        chunks += [pa.nulls(len(part), wanted)] if column is None else column.cast(wanted).chunks
    return pa.chunked_array(chunks, wanted)


def _encoded(name: str, column: pa.ChunkedArray) -> tuple[Ints, list[str | None]]:
    """A code for each row, and the text of each code."""
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
        raise ConfigurationError(
            f"gaps.key names column {name}, which is {column.type}", "Name columns that hold texts, numbers or dates."
        )
    whole = column.combine_chunks()
    array = whole if isinstance(whole, pa.DictionaryArray) else whole.dictionary_encode()
    texts: list[str | None] = [*array.dictionary.cast(pa.string()).to_pylist(), None]
    codes = np.asarray(array.indices.fill_null(len(texts) - 1), np.int64)
    return codes, texts


def _total(missing: NDArray[np.uint64]) -> int:
    if len(missing) and int(missing.max()) > _SMALL:  # a sum of such could pass 64 bits
        return sum(int(count) for count in missing)
    return int(missing.sum())


def _after(
    rule: Rule, names: Iterable[tuple[Partition, int, str]], last: Ints, states: Mapping[Partition, State]
) -> dict[Partition, State]:
    after: dict[Partition, State] = {}
    for (partition, day, key), number in zip(names, last.tolist(), strict=True):
        if partition not in after:
            after[partition] = {d: dict(held) for d, held in states.get(partition, {}).items()}
        after[partition].setdefault(day, {})[key] = number
    for partition, state in after.items():
        if rule.daily:  # a late record still finds yesterday
            newest = max(state)
            after[partition] = {day: held for day, held in state.items() if day >= newest - 1}
        if sum(map(len, after[partition].values())) > MOST_SEQUENCES:
            raise OperatorError(
                f"gaps: {partition} has more than {MOST_SEQUENCES:,} sequences by {', '.join(rule.key)}",
                "Name columns in gaps.key that identify few sequences, or remove gaps from this table.",
            )
    return after
