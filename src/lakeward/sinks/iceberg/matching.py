"""Which field of some rows is which field of a table: by name, or by the ids in a data file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa
from pyiceberg.types import NestedField

from lakeward.errors import SchemaMismatchError, UnfitRowsError

FIELD_ID = b"PARQUET:field_id"

Former = Mapping[int, tuple[str, ...]]
"""Names that fields had before, by field id; what a field is called now is no former name of its neighbours."""

Places = Callable[[Sequence[pa.Field], Sequence[NestedField], str], list[int | None]]
"""For each of a table's fields, which of the given ones holds it, or None; the text says which struct, for errors."""


def match(
    names: Sequence[str], fields: Sequence[NestedField], former: Former, where: str = "", *, several: bool = False
) -> list[int | None]:
    """For each of ``names``, which of ``fields`` it means; None where it means none.

    Current names come first; a name that a field had before counts where no other of ``names`` is that field's
    current one, and where only one field had it. ``several`` names may then mean one field.

    Raises:
        UnfitRowsError: two of them mean one field. ``where`` is the struct, for the error.
    """
    current = {field.name: at for at, field in enumerate(fields)}
    had = Counter(name for field in fields for name in former.get(field.field_id, ()))
    before = {
        name: at
        for at, field in enumerate(fields)
        for name in former.get(field.field_id, ())
        if had[name] == 1 and name not in current
    }
    exact = {current[name] for name in names if name in current}
    meant: dict[int, str] = {}
    found: list[int | None] = []
    for name in names:
        at = current.get(name)
        if at is None and (at := before.get(name)) is not None and at in exact:
            at = None
        if at is not None and meant.setdefault(at, name) != name and not several:
            place = f' of "{where}"' if where else ""
            raise UnfitRowsError(
                f'the records have "{meant[at]}" and "{name}", both of them names that "{fields[at].name}"{place} had',
                "Write one of the two, or give one of them another name.",
            )
        found.append(at)
    return found


def by_name(former: Former) -> Places:
    """Fields by what they are called, or were called before.

    It raises SchemaMismatchError where a field is given that is none of them, or a name twice.
    """
    return partial(_places_by_name, former)


def by_id(given: Sequence[pa.Field], fields: Sequence[NestedField], path: str) -> list[int | None]:
    """Fields by the ids that a data file has for them, whatever they are called there; others are passed over."""
    del path
    holder = {int((one.metadata or {}).get(FIELD_ID, -1)): at for at, one in enumerate(given)}
    return [holder.get(field.field_id) for field in fields]


def _places_by_name(
    former: Former, given: Sequence[pa.Field], fields: Sequence[NestedField], path: str
) -> list[int | None]:
    """For each of ``fields``, which of ``given`` holds it; None where none does.

    Raises:
        SchemaMismatchError: a field is given that is none of ``fields``, or a name twice.
    """
    names = [one.name for one in given]
    if (twice := repeated(names)) is not None:
        where = f' in "{path}"' if path else ""
        raise SchemaMismatchError(
            f'two columns are named "{twice}"{where}', "Rename one of them where the records are made."
        )
    found = match(names, fields, former, path)
    extra = [one for one, at in zip(given, found, strict=True) if at is None and not pa.types.is_null(one.type)]
    if extra:
        listed = ", ".join(f'"{path}.{one.name}"' if path else f'"{one.name}"' for one in extra)
        known = ", ".join(field.name for field in fields)
        where = f'struct "{path}"' if path else "table"
        raise SchemaMismatchError(
            f"the records have {listed}, which the {where} does not have (it has {known})",
            "Add the column to the table (as optional), or leave it out of the records.",
        )
    holder = {at: i for i, at in enumerate(found) if at is not None}
    return [holder.get(at) for at in range(len(fields))]


def repeated(names: Sequence[str]) -> str | None:
    """The first name that is there twice."""
    return next((name for name, times in Counter(names).items() if times > 1), None)
