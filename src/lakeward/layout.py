"""How a table's rows are laid out in files: the terms of `partition_by` and `sort_by`, parsed.

Vocabulary: the configuration checks these terms, the sinks apply them. Whether a column exists, and has a type that
its transform takes, is known only where the table is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

Transform = Literal["identity", "year", "month", "day", "hour", "bucket", "truncate"]

DELETED = "_cdc_deleted"
"""The column that tells which rows were deleted at their source, where they are kept."""

TRANSFORMS: tuple[Transform, ...] = get_args(Transform)
_WITH_ARGUMENT = {"bucket": "buckets", "truncate": "width"}
_SUFFIX = {"truncate": "trunc"}
_MAX_ARGUMENT = 2**31 - 1

_COLUMN = r"[^\W\d][\w$-]*(?:\.[^\W\d][\w$-]*)*"
_TERM = re.compile(
    rf"""\s* (?: (?P<transform>\w+) \s* \( (?P<inside>[^()]*) \) | (?P<column>{_COLUMN}) )
         (?: \s+ as \s+ (?P<name>{_COLUMN}) )? \s*""",
    re.VERBOSE | re.IGNORECASE,
)
_SORT = re.compile(
    rf"\s* (?P<column>{_COLUMN}) (?: \s+ (?P<direction>asc|desc) )? (?: \s+ nulls \s+ (?P<nulls>first|last) )? \s*",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PartitionTerm:
    """One partition field: ``transform`` of ``column``, stored as ``name``.

    ``argument`` is the number of buckets or the width of `truncate`; None for the others. ``column`` may be a dotted
    path into a struct.
    """

    transform: Transform
    argument: int | None
    column: str
    name: str

    def __str__(self) -> str:
        if self.transform == "identity":
            return self.column
        return f"{self.transform}({'' if self.argument is None else f'{self.argument}, '}{self.column})"


@dataclass(frozen=True, slots=True)
class SortTerm:
    """One sort column, ascending unless ``descending``; nulls before everything else where ``nulls_first``."""

    column: str
    descending: bool
    nulls_first: bool

    def __str__(self) -> str:
        direction = "desc" if self.descending else "asc"
        return f"{self.column} {direction} nulls {'first' if self.nulls_first else 'last'}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The partition fields and the sort order of one table; both may be empty.

    Raises:
        ValueError: two partition fields with one name, or a column that is sorted by twice.
    """

    partition_by: tuple[PartitionTerm, ...] = ()
    sort_by: tuple[SortTerm, ...] = ()

    def __post_init__(self) -> None:
        for name in _repeated(term.name for term in self.partition_by):
            raise ValueError(f'two partition fields are named "{name}"; name one of them with "as other_name"')
        for column in _repeated(term.column for term in self.sort_by):
            raise ValueError(f'"{column}" is sorted by twice')

    @staticmethod
    def parse(partition_by: Iterable[str], sort_by: Iterable[str]) -> Layout:
        """Parse both lists of terms.

        Raises:
            ValueError: as `parse_partition_term` and `parse_sort_term`, and as the class says.
        """
        return Layout(tuple(map(parse_partition_term, partition_by)), tuple(map(parse_sort_term, sort_by)))


def parse_partition_term(text: str) -> PartitionTerm:
    """Read ``column``, ``day(column)``, ``bucket(16, column)``, …, each with an optional ``as name``.

    The name defaults to what other engines call the field: ``column_day``, ``column_bucket``, ``column_trunc``, and
    the column itself for the identity.

    Raises:
        ValueError: the sentence says what is wrong with the term.
    """
    match = _TERM.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a partition term; write column, day(column) or bucket(16, column)')
    if match["column"] is not None:
        return PartitionTerm("identity", None, match["column"], match["name"] or match["column"])
    transform = match["transform"].lower()
    if transform not in TRANSFORMS:
        raise ValueError(f'"{transform}" is not a partition transform; there are {", ".join(TRANSFORMS)}')
    *numbers, column = (part.strip() for part in match["inside"].split(","))
    if not re.fullmatch(_COLUMN, column):
        raise ValueError(f'"{text}" does not end with the name of a column')
    argument = _argument(text, transform, numbers)
    if transform == "identity":
        return PartitionTerm("identity", None, column, match["name"] or column)
    name = match["name"] or f"{column}_{_SUFFIX.get(transform, transform)}"
    return PartitionTerm(cast("Transform", transform), argument, column, name)


def _argument(text: str, transform: str, numbers: list[str]) -> int | None:
    expected = _WITH_ARGUMENT.get(transform)
    if expected is None:
        if numbers:
            raise ValueError(f'"{text}": {transform} takes a column and nothing else')
        return None
    digits = numbers[0] if len(numbers) == 1 else ""
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) <= _MAX_ARGUMENT):
        raise ValueError(f'"{text}": write {transform}({expected}, column), {expected} a whole number above 0')
    return int(digits)


def parse_sort_term(text: str) -> SortTerm:
    """Read ``column``, ``column desc``, ``column asc nulls last``, ….

    Nulls come first when ascending and last when descending, unless the term says otherwise.

    Raises:
        ValueError: the sentence says what is wrong with the term.
    """
    match = _SORT.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a sort term; write column, column desc or column asc nulls last')
    descending = (match["direction"] or "asc").lower() == "desc"
    nulls = (match["nulls"] or ("last" if descending else "first")).lower()
    return SortTerm(match["column"], descending, nulls == "first")


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
