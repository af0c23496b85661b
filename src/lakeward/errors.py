"""Every error that lakeward raises on purpose, and what is to be done about each.

::

    LakewardError                 what happened, to what, and the way out
    ├── ConfigurationError        the file or a flag is wrong                  fatal      exit 2
    ├── UnreachableError          a server does not answer; ask again later    retry      exit 3
    ├── OperatorError             a person must decide; nothing was guessed    operator   exit 4
    │   ├── PositionError         the source no longer holds what comes next
    │   ├── LedgerError           the table's own record cannot be proved
    │   ├── TableChangedError     dropped, recreated or altered under us
    │   └── SchemaMismatchError   the data does not fit the table
    │       └── UnfitRowsError    nor can the table be changed to take it
    ├── RejectedRecordError       one record cannot be decoded or stored       dead-letter  exit 1
    ├── PermissionDeniedError     a server refuses us                          fatal      exit 3
    ├── StorageError              files cannot be written (disk full, quota)   retry      exit 3
    └── UndecidedError            a commit was sent and its outcome is unknown; safe to exit  exit 3
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Directive(StrEnum):
    """What the loop does with an error: each class carries exactly one."""

    RETRY = "retry"
    DEAD_LETTER = "dead-letter"
    OPERATOR = "operator"
    FATAL = "fatal"


class LakewardError(Exception):
    """The root. ``what`` says what happened to which thing; ``way_out`` says what a person can do about it."""

    directive: ClassVar[Directive] = Directive.FATAL
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, way_out: str = "") -> None:
        super().__init__(f"{what}\n  {way_out}" if way_out else what)
        self.what = what
        self.way_out = way_out


class ConfigurationError(LakewardError):
    """The configuration file or a flag is wrong; nothing was started."""

    exit_code = 2


class UnreachableError(LakewardError):
    """A server does not answer, or answers that it cannot serve now. Asking again later is safe."""

    directive = Directive.RETRY
    exit_code = 3


class PermissionDeniedError(LakewardError):
    """A server answers, and refuses these credentials or this action."""

    exit_code = 3


class StorageError(LakewardError):
    """Data files cannot be written: disk full, quota, missing bucket. Nothing was committed."""

    directive = Directive.RETRY
    exit_code = 3


class OperatorError(LakewardError):
    """What is known does not prove what to do next. The table is stopped until a person decides."""

    directive = Directive.OPERATOR
    exit_code = 4


class PositionError(OperatorError):
    """The source no longer holds, or never held, what the table says comes next (PROTOCOL S3)."""


class LedgerError(OperatorError):
    """The table's record of positions is missing, unreadable or unproven (PROTOCOL I8, F2, F3)."""


class TableChangedError(OperatorError):
    """The table was dropped, recreated or replaced under a running writer (PROTOCOL B4, C2b)."""


class SchemaMismatchError(OperatorError):
    """The data has a column or a type that the table does not have, and may not be changed to fit."""


class UnfitRowsError(SchemaMismatchError):
    """Rows have a schema that a table cannot take, even by changing itself as far as it may."""


class RejectedRecordError(LakewardError):
    """One record cannot be decoded or does not fit. Names its place; never its value."""

    directive = Directive.DEAD_LETTER


class UndecidedError(LakewardError):
    """A commit was sent, its outcome is unknown and there is no time left to look (PROTOCOL C8).

    Leaving is safe: the next start asks the table.
    """

    directive = Directive.RETRY
    exit_code = 3
