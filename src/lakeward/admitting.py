"""Which decoded rows a table can take: decided once a schema, before anything of it is in a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakeward.admission import Admission, Outlook, Required, SchemaChanges, null_rows
from lakeward.changes import Effect
from lakeward.errors import SchemaMismatchError
from lakeward.metadata_columns import type_of
from lakeward.records import Decoded, DecodedPart, Reject
from lakeward.stages import Target

INCOMPATIBLE = "schema-incompatible"
CHANGE = "schema-change"
NULL = "null-in-required"
MOST_VERDICTS = 1024
"""So many schemas are remembered at most."""
_WAY_OUT = (
    "Everything before it is committed or will be read again. Change the table or the records, or write "
    "`schema_changes: evolve` (or `dead-letter`); start again."
)


class Admitting:
    """Used by the loop's thread alone. ``columns``: the metadata columns that rows get besides their own.

    What is admitted and not yet in the table is remembered, so that rows of one batch never contradict one another.
    Should the table change meanwhile, the commit finds out, and refuses (PROTOCOL C5).
    """

    def __init__(self, target: Target, policy: SchemaChanges, columns: Mapping[str, str]) -> None:
        self._target = target
        self._policy = policy
        self._columns = columns
        self._outlook: Outlook | None = None
        self._verdicts: dict[bytes, Admission] = {}
        self._pending: list[pa.Schema] = []

    def admit(self, decoded: Decoded) -> Decoded:
        """``decoded``, less the rows that do not fit; they become rejects.

        Raises:
            SchemaMismatchError: the policy is to stop at a change; says which.
        """
        verdicts = [self._verdict(part.rows.schema) for part in decoded.parts]
        if not any(self._matters(verdict) for verdict in verdicts):
            return decoded
        parts: list[DecodedPart] = []
        rejects = list(decoded.rejects)
        for part, verdict in zip(decoded.parts, verdicts, strict=True):
            unfit = self._unfit(verdict)
            if unfit is not None:
                rejects += [Reject(int(index), *unfit, part.schema_id) for index in part.index]
            else:
                parts += self._without_nulls(part, verdict, rejects)
        return replace(decoded, parts=parts, rejects=sorted(rejects, key=lambda reject: reject.index))

    def forget(self) -> None:
        """What was admitted is dropped, and will be read again."""
        self._pending.clear()
        self._verdicts.clear()

    def _verdict(self, schema: pa.Schema) -> Admission:
        outlook = self._target.outlook
        if outlook is not self._outlook:
            self._outlook = outlook
            self._verdicts.clear()
            before, self._pending = self._pending, []
            for one in before:
                self._await(one, outlook.admit(one, self._pending))
        key = schema.serialize().to_pybytes()
        found = self._verdicts.get(key)
        if found is None:
            if len(self._verdicts) == MOST_VERDICTS:
                self._verdicts.clear()
            found = self._ask(outlook, schema)
            self._verdicts[key] = found
        return found

    def _ask(self, outlook: Outlook, schema: pa.Schema) -> Admission:
        clash = [name for name in schema.names if name in self._columns]
        if clash:
            found = Admission(
                misfit=f'the records have a column "{clash[0]}", and metadata_columns gives that name to another'
            )
        else:
            whole = pa.schema([*schema, *(pa.field(name, type_of(kind)) for name, kind in self._columns.items())])
            found = outlook.admit(whole, self._pending)
            if self._unfit(found) is None:
                self._await(whole, found)
        if self._policy is SchemaChanges.STOP and (unfit := self._unfit(found)) is not None:
            raise SchemaMismatchError(f"records do not fit {self._target.name}: {unfit[1]}", _WAY_OUT)
        return found

    def _await(self, schema: pa.Schema, found: Admission) -> None:
        if found.misfit is None and (found.changes or found.creates):
            self._pending.append(schema)

    def _unfit(self, found: Admission) -> tuple[str, str] | None:
        """Code and reason where rows of that schema are not taken at all."""
        if found.misfit is not None:
            return INCOMPATIBLE, found.misfit
        if found.changes and not found.creates and self._policy is not SchemaChanges.EVOLVE:
            return CHANGE, f"the table would have to change: {'; '.join(found.changes)}"
        return None

    def _matters(self, found: Admission) -> bool:
        return self._unfit(found) is not None or any(map(self._binds, found.required))

    def _binds(self, required: Required) -> bool:
        return not (required.relaxable and self._policy is SchemaChanges.EVOLVE)

    def _without_nulls(self, part: DecodedPart, found: Admission, rejects: list[Reject]) -> list[DecodedPart]:
        """The rows of ``part`` that fill what the table requires; the others are added to ``rejects``."""
        fits: NDArray[np.bool_] = np.ones(len(part.index), np.bool_)
        for required in filter(self._binds, found.required):
            if required.path[0] in self._columns:
                continue
            missing = null_rows(part.rows, required.path) & fits & _told(part, required.path[0])
            if not missing.any():
                continue
            reason = f'the table requires "{".".join(required.path)}", and it is null'
            if self._policy is SchemaChanges.STOP:
                raise SchemaMismatchError(f"records do not fit {self._target.name}: {reason}", _WAY_OUT)
            rejects += [Reject(int(index), NULL, reason, part.schema_id) for index in part.index[missing]]
            fits &= ~missing
        if fits.all():
            return [part]
        kept = np.flatnonzero(fits)
        return [part.select(kept)] if len(kept) else []


def _told(part: DecodedPart, column: str) -> NDArray[np.bool_]:
    """Which rows say what ``column`` holds: not those of deletions, nor those that leave it as it was."""
    if part.changes is None:
        return np.ones(len(part.index), np.bool_)
    told: NDArray[np.bool_] = part.changes.effect == Effect.UPSERT
    left_out = part.changes.absent.get(column)
    return told if left_out is None else told & ~left_out
