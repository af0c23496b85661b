"""The rules by which a table's columns follow those of the records. Pure: nothing is read or sent here.

A column is the same column by its field id, whatever it is called. Records name their columns: first the current
names count, then the names that a column had before, then the aliases that the records' own schema gives. Whatever
would change what a value says (narrowing, another scale, text to number) is never done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import pyarrow as pa
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.transforms import IdentityTransform, VoidTransform
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, PrimitiveType, StructType

from lakeward.admission import ALIASES, Admission, Path, Required
from lakeward.errors import SchemaMismatchError, UnfitRowsError
from lakeward.sinks.iceberg.matching import Former, match, repeated
from lakeward.sinks.iceberg.schema import fits, is_list, primitive_of, promoted

_DOC = b"doc"

LeavesNull = Callable[[Path], bool]


@dataclass(frozen=True, slots=True)
class Shape:
    """A table's columns. ``former``: field id to the names that it had before; ``last_id``: the last id ever given.

    ``specs`` are the partition specs, whose fields' names no column may take.
    """

    schema: Schema = field(default_factory=Schema)
    former: Former = field(default_factory=dict)
    last_id: int = 0
    specs: Sequence[PartitionSpec] = ()

    def admit(self, schema: pa.Schema, pending: Sequence[pa.Schema]) -> Admission:
        """See `Outlook.admit`."""
        before = reduce(_grown_if_fit, pending, self)
        creates = not before.schema.fields
        try:
            growth = grow(before, schema)
        except SchemaMismatchError as error:
            return Admission(misfit=error.what)
        return Admission(growth.changes, creates=creates, required=growth.required)


@dataclass(frozen=True, slots=True)
class Growth:
    """A shape that takes rows of some schema, and how it differs from the one before, in words.

    ``required``: what those rows may leave null, and the shape still requires.
    """

    shape: Shape
    changes: tuple[str, ...] = ()
    required: tuple[Required, ...] = ()


def iceberg_schema(arrow: pa.Schema) -> Schema:
    """The Iceberg schema of a new table for rows of ``arrow``; ids from 1, as a catalog would assign them.

    Nullability and ``doc`` field metadata are kept. Zoned timestamps of any zone become UTC instants.

    Raises:
        SchemaMismatchError: a type that no Iceberg v2 type holds without loss.
    """
    return assign_fresh_schema_ids(grow(Shape(), arrow).shape.schema)


def never(path: Path) -> bool:
    """No row leaves anything null."""
    del path
    return False


def grow(shape: Shape, records: pa.Schema, leaves_null: LeavesNull = never) -> Growth:
    """The shape that takes everything ``shape`` takes, and rows of ``records`` as well.

    Columns are added (optional), widened, renamed and made optional, never dropped. A shape without columns becomes
    that of a new table. ``leaves_null`` tells whether any row has a null at a path.

    Raises:
        UnfitRowsError: there is none; names the column and both types.
    """
    growing = _Growing(shape, leaves_null)
    fields = growing.struct(shape.schema.fields, list(records), ())
    if not fields:
        raise UnfitRowsError("the records have no column that holds a value", "Give them one, or leave them out.")
    schema = Schema(*fields, identifier_field_ids=shape.schema.identifier_field_ids)
    return Growth(
        replace(shape, schema=schema, former=growing.former, last_id=growing.last_id),
        tuple(growing.changes),
        tuple(growing.required),
    )


def _grown_if_fit(shape: Shape, records: pa.Schema) -> Shape:
    try:
        return grow(shape, records).shape
    except SchemaMismatchError:  # it fitted when it was admitted; the commit will find out
        return shape


class _Growing:
    """One call of `grow`."""

    def __init__(self, shape: Shape, leaves_null: LeavesNull) -> None:
        self.former: dict[int, tuple[str, ...]] = dict(shape.former)
        self.last_id = shape.last_id
        self.changes: list[str] = []
        self.required: list[Required] = []
        self._shape = shape
        self._new = not shape.schema.fields
        self._leaves_null = leaves_null

    def struct(self, fields: Sequence[NestedField], source: Sequence[pa.Field], path: Path) -> list[NestedField]:
        """The fields of a struct that takes what ``fields`` take, and ``source``."""
        refuse_duplicates([given.name for given in source], path)
        found = match([given.name for given in source], fields, self.former, ".".join(path))
        pairs = {fields[at].field_id: given for given, at in zip(source, found, strict=True) if at is not None}
        rest = [given for given, at in zip(source, found, strict=True) if at is None]
        rest = [given for given in rest if not self._rename(given, fields, source, pairs, path)]
        result, given_of = [], []
        for known in fields:
            given = pairs.get(known.field_id)
            result.append(self._absent(known, path) if given is None else self._present(known, given, path))
            given_of.append(given)
        for given in rest:
            if not pa.types.is_null(given.type):  # holds nothing
                result.append(self._added(given, path))
                given_of.append(given)
        self._remember(result, given_of, source)
        return result

    def _rename(
        self,
        given: pa.Field,
        fields: Sequence[NestedField],
        source: Sequence[pa.Field],
        pairs: dict[int, pa.Field],
        path: Path,
    ) -> bool:
        """Whether ``given`` is one of ``fields`` by another name, as its aliases say; then it is paired with it."""
        own = {other.name for other in source}
        aliases = [name for name in aliases_of(given) if name not in own]
        places = {at for at in match(aliases, fields, self.former, ".".join(path), several=True) if at is not None}
        free = [fields[at] for at in sorted(places) if fields[at].field_id not in pairs]
        if len(free) > 1:
            told = ", ".join(f'"{known.name}"' for known in free)
            self.changes.append(f'"{_text(path, given.name)}" is no rename: its aliases name {told}')
        if len(free) != 1:
            return False
        pairs[free[0].field_id] = given
        return True

    def _absent(self, known: NestedField, path: Path) -> NestedField:
        if not known.required:
            return known
        return self._optional(known, (*path, known.name), "the records do not have it")

    def _present(self, known: NestedField, given: pa.Field, path: Path) -> NestedField:
        inside = (*path, given.name)
        if given.name != known.name and given.name not in self.former.get(known.field_id, ()):
            self._claim_name(given.name, known.field_id, path)
            self.changes.append(f'"{_text(path, known.name)}" is renamed "{given.name}"')
            self.former[known.field_id] = (*self.former.get(known.field_id, ()), known.name)
            known = known.model_copy(update={"name": given.name})
        return self._within(known, given, inside)

    def _within(self, known: NestedField, given: pa.Field, path: Path) -> NestedField:
        """``known``, taking the type and the nulls of ``given``, which is at ``path`` in the records."""
        grown = self._type(known.field_type, given.type, path)
        if grown != known.field_type:
            known = known.model_copy(update={"field_type": grown})
        if known.required and (given.nullable or pa.types.is_null(given.type)):
            if pa.types.is_null(given.type) or self._leaves_null(path):
                return self._optional(known, path, "records leave it null")
            self.required.append(Required(path, known.field_id not in self._shape.schema.identifier_field_ids))
        return known

    def _optional(self, known: NestedField, path: Path, why: str) -> NestedField:
        if known.field_id in self._shape.schema.identifier_field_ids:
            raise UnfitRowsError(
                f'"{_text(path)}" is an identifier field of the table, and {why}',
                "Fill it in where the records are made, or take it out of the table's identifier fields.",
            )
        self.changes.append(f'"{_text(path)}" becomes optional')
        return known.model_copy(update={"required": False})

    def _type(self, kind: IcebergType, arrow: pa.DataType, path: Path) -> IcebergType:
        if pa.types.is_null(arrow):
            return kind
        if isinstance(kind, StructType) and pa.types.is_struct(arrow):
            fields = self.struct(kind.fields, children(arrow), path)
            return StructType(*fields)
        if isinstance(kind, ListType) and is_list(arrow):
            element = self._within(kind.element_field, arrow.value_field, (*path, "element"))
            return ListType(kind.element_id, element.field_type, element.required)
        if isinstance(kind, MapType) and pa.types.is_map(arrow):
            return self._map(kind, arrow, path)
        if isinstance(kind, PrimitiveType):
            if fits(arrow, kind):
                return kind
            wider = promoted(kind, arrow)
            if wider is not None:
                self.changes.append(f'"{_text(path)}" is widened from {kind} to {wider}')
                return wider
        raise _misfit(path, arrow, kind)

    def _map(self, kind: MapType, arrow: pa.MapType, path: Path) -> MapType:
        before = len(self.changes), self.last_id
        if self._type(kind.key_type, arrow.key_type, (*path, "key")) != kind.key_type or before != (
            len(self.changes),
            self.last_id,
        ):
            raise _misfit((*path, "key"), arrow.key_type, kind.key_type, "the keys of a map can not change")
        value = self._within(kind.value_field, arrow.item_field, (*path, "value"))
        return MapType(kind.key_id, kind.key_type, kind.value_id, value.field_type, value.required)

    def _added(self, given: pa.Field, path: Path) -> NestedField:
        number = self._next_id()
        self._claim_name(given.name, number, path)
        if not self._new:
            self.changes.append(f'"{_text(path, given.name)}" is added: {_told(given.type)}')
        return self._fresh_field(given, number, (*path, given.name))

    def _fresh_field(self, given: pa.Field, number: int, path: Path) -> NestedField:
        doc = (given.metadata or {}).get(_DOC)
        kind = self._fresh(given.type, path)
        required = self._requires(given)
        return NestedField(number, given.name, kind, required=required, doc=doc.decode() if doc else None)

    def _requires(self, given: pa.Field) -> bool:
        """Whether a new column, or anything in it, is required: never where older files lack it.

        Readers make up nulls for those, and some of them (PyIceberg) cannot where anything below is required.
        """
        return self._new and not given.nullable

    def _fresh(self, arrow: pa.DataType, path: Path) -> IcebergType:
        """The Iceberg type of a column that the table does not have yet."""
        if pa.types.is_struct(arrow):
            inner = children(arrow)
            refuse_duplicates([given.name for given in inner], path)
            inner = [given for given in inner if not pa.types.is_null(given.type)]
            fields = [self._fresh_field(given, self._next_id(), (*path, given.name)) for given in inner]
            self._remember(fields, inner, inner)
            if fields:
                return StructType(*fields)
        elif is_list(arrow):
            number, given = self._next_id(), arrow.value_field
            return ListType(number, self._fresh(given.type, (*path, "element")), self._requires(given))
        elif pa.types.is_map(arrow):
            key_id, value_id, item = self._next_id(), self._next_id(), arrow.item_field
            key = self._fresh(arrow.key_type, (*path, "key"))
            return MapType(key_id, key, value_id, self._fresh(item.type, (*path, "value")), self._requires(item))
        natural = primitive_of(arrow)
        if natural is None:
            raise UnfitRowsError(
                f'column "{_text(path)}" has the Arrow type {arrow}, which no Iceberg type holds without loss',
                "Cast the column to a type that Iceberg has, or leave it out.",
            )
        return natural

    def _next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def _claim_name(self, name: str, number: int, path: Path) -> None:
        """Refuse a name that a partition field has: other tools could not read the table any more."""
        if path:
            return
        for part in (part for spec in self._shape.specs for part in spec.fields):
            own = part.source_id == number and isinstance(part.transform, (IdentityTransform, VoidTransform))
            if part.name == name and not own:
                raise UnfitRowsError(
                    f'column "{name}" has the name of a partition field of the table ({part.transform} of another)',
                    "Rename the column where the records are made, or the partition field in the table.",
                )

    def _remember(
        self, fields: Sequence[NestedField], given: Iterable[pa.Field | None], source: Iterable[pa.Field]
    ) -> None:
        """Note the aliases of each field as names it had; what a field is called now is no former name of another."""
        taken = {known.name for known in fields} | {other.name for other in source}
        for known in fields:
            if known.field_id in self.former:
                kept = tuple(name for name in self.former[known.field_id] if name not in _current(fields))
                self.former[known.field_id] = kept
        claimed = {name for known in fields for name in self.former.get(known.field_id, ())}
        for known, one in zip(fields, given, strict=True):
            for alias in aliases_of(one) if one is not None else ():
                if alias not in taken and alias not in claimed:
                    self.former[known.field_id] = (*self.former.get(known.field_id, ()), alias)
                    claimed.add(alias)
        for known in fields:
            if not self.former.get(known.field_id, ("",)):
                del self.former[known.field_id]


def aliases_of(given: pa.Field) -> list[str]:
    """The names that a field of the records had before, as its schema says."""
    told = (given.metadata or {}).get(ALIASES)
    return list(json.loads(told)) if told else []


def refuse_duplicates(names: Sequence[str], path: Path) -> None:
    """Raise UnfitRowsError where a name is there twice."""
    twice = repeated(names)
    if twice is not None:
        where = f' in "{_text(path)}"' if path else ""
        raise UnfitRowsError(
            f'two columns are named "{twice}"{where}', "Rename one of them where the records are made."
        )


def _current(fields: Sequence[NestedField]) -> set[str]:
    return {known.name for known in fields}


def children(arrow: pa.DataType) -> list[pa.Field]:
    """The fields inside a type; none where there are none."""
    return [arrow.field(i) for i in range(arrow.num_fields)]


def _text(path: Path, *more: str) -> str:
    return ".".join((*path, *more))


def _told(arrow: pa.DataType) -> str:
    natural = primitive_of(arrow)
    if natural is not None:
        return str(natural)
    return "map" if pa.types.is_map(arrow) else "list" if is_list(arrow) else "struct"


def _misfit(path: Path, arrow: pa.DataType, kind: IcebergType, why: str = "the values would change") -> UnfitRowsError:
    shown = _told(arrow) if primitive_of(arrow) is not None or pa.types.is_nested(arrow) else str(arrow)
    stored = str(kind) if isinstance(kind, PrimitiveType) else type(kind).__name__.removesuffix("Type").lower()
    return UnfitRowsError(
        f'column "{_text(path)}" holds {shown}, the table stores {stored}: {why}',
        "Make the records fit the table, or change the type of the column in the table.",
    )
