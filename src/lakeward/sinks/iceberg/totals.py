"""What a snapshot's summary tells of rows, files and bytes. Rows that are deleted by position do not count."""

from __future__ import annotations

from collections.abc import Mapping

from pyiceberg.table.snapshots import (
    ADDED_DATA_FILES,
    ADDED_FILE_SIZE,
    ADDED_POSITION_DELETES,
    ADDED_RECORDS,
    DELETED_DATA_FILES,
    DELETED_RECORDS,
    REMOVED_FILE_SIZE,
    REMOVED_POSITION_DELETES,
    TOTAL_DATA_FILES,
    TOTAL_FILE_SIZE,
    TOTAL_POSITION_DELETES,
    TOTAL_RECORDS,
    Snapshot,
)

from lakeward.outcomes import Totals

Told = Mapping[str, str]
"""The properties of a snapshot's summary."""


def told_by(snapshot: Snapshot | None) -> Told:
    """What ``snapshot`` tells; nothing where there is none."""
    return snapshot.summary.additional_properties if snapshot is not None and snapshot.summary is not None else {}


def added(told: Told) -> Totals:
    """What a commit put into the table."""
    return Totals(_number(told, ADDED_RECORDS), _number(told, ADDED_DATA_FILES), _number(told, ADDED_FILE_SIZE))


def removed(told: Told) -> Totals:
    """What it took away: rows with their files, and rows by position."""
    by_position = _number(told, ADDED_POSITION_DELETES) - _number(told, REMOVED_POSITION_DELETES)
    return Totals(
        _number(told, DELETED_RECORDS) + by_position,
        _number(told, DELETED_DATA_FILES),
        _number(told, REMOVED_FILE_SIZE),
    )


def after(told: Told) -> Totals:
    """What the table holds then."""
    rows = _number(told, TOTAL_RECORDS) - _number(told, TOTAL_POSITION_DELETES)
    return Totals(rows, _number(told, TOTAL_DATA_FILES), _number(told, TOTAL_FILE_SIZE))


def before(told: Told) -> Totals:
    """What it held before."""
    now, came, went = after(told), added(told), removed(told)
    return Totals(
        now.rows - came.rows + went.rows, now.files - came.files + went.files, now.bytes - came.bytes + went.bytes
    )


def _number(told: Told, key: str) -> int:
    return int(told.get(key, 0))
