"""What PyIceberg computes anew for every Avro file and is the same each time: remembered, so that histories are cheap.

All of it are pure functions of schemas; what is written and read stays the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from pyiceberg.avro import file
from pyiceberg.avro.file import AvroFileHeader
from pyiceberg.manifest import ManifestWriter
from pyiceberg.table.metadata import TableMetadataV2

_kept: list[Any] = []
"""Objects whose identity is a key."""


def _by_identity(function: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Any, Any] = {}

    def remembered(*arguments: Any, **named: Any) -> Any:
        key = tuple(_key(value) for value in (*arguments, *named.values()))
        if key not in known:
            _kept.extend((*arguments, *named.values()))
            known[key] = function(*arguments, **named)
        return known[key]

    return remembered


def _key(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((number, id(kind)) for number, kind in sorted(value.items()))
    return value if isinstance(value, str | int) else id(value)


def _by_text(function: Callable[[AvroFileHeader], Any]) -> Callable[[AvroFileHeader], Any]:
    known: dict[str, Any] = {}

    def remembered(header: AvroFileHeader) -> Any:
        text = header.meta["avro.schema"]
        if text not in known:
            known[text] = function(header)
        return known[text]

    return remembered


def _by_version(function: Callable[[ManifestWriter, Any], Any]) -> Callable[[ManifestWriter, Any], Any]:
    known: dict[int, Any] = {}

    def remembered(writer: ManifestWriter, version: int) -> Any:
        if writer._spec.fields:
            return function(writer, version)
        if version not in known:
            known[version] = function(writer, version)
        return known[version]

    return remembered


_original = file.AvroSchemaConversion


def _convert(*arguments: Any, **named: Any) -> Any:
    return _original().iceberg_to_avro(*arguments, **named)


class _Conversion:
    """Stands in for the converter of schemas, which keeps no state."""

    iceberg_to_avro = staticmethod(_by_identity(_convert))
    avro_to_iceberg = staticmethod(lambda *a, **n: _original().avro_to_iceberg(*a, **n))


_remembered = {
    "construct_writer": _by_identity(file.construct_writer),
    "resolve_writer": _by_identity(file.resolve_writer),
    "construct_reader": _by_identity(file.construct_reader),
    "resolve_reader": _by_identity(file.resolve_reader),
    "AvroSchemaConversion": _Conversion,
}
_schema_of = _by_text(AvroFileHeader.get_schema)
_with_partition = _by_version(ManifestWriter._with_partition)


def savings() -> list[Any]:
    """The patches."""
    return [
        *(patch.object(file, name, value) for name, value in _remembered.items()),
        patch.object(AvroFileHeader, "get_schema", _schema_of),
        patch.object(ManifestWriter, "_with_partition", _with_partition),
        # Metadata is never changed in place, here or anywhere.
        patch.object(TableMetadataV2, "__deepcopy__", lambda self, memo=None: self.__copy__()),
    ]
