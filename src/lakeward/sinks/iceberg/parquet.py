"""Sorted rows as Parquet files of bounded size, with what Iceberg wants to know about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io import OutputFile, OutputStream
from pyiceberg.io.pyarrow import (
    DataFileStatistics,
    MetricModeTypes,
    MetricsMode,
    StatisticsCollector,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.schema import Schema
from pyiceberg.table import TableProperties
from pyiceberg.table.sorting import NullOrder, SortDirection, SortOrder
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import BinaryType, BooleanType, StringType, UUIDType
from pyiceberg.utils.properties import property_as_bool, property_as_int

from lakeward.errors import ConfigurationError
from lakeward.sinks.iceberg.matching import FIELD_ID

DEFAULT_TARGET_BYTES = 128 * 1024 * 1024
_SAMPLES, _SAMPLE_ROWS = 16, 512
_REPETITIVE = 0.5
"""A dictionary is tried where a sample has at most this share of distinct values: trying costs more than it saves."""
_COUNTS = MetricsMode(MetricModeTypes.COUNTS)


@dataclass(frozen=True, slots=True)
class FilePlan:
    """How the files of one batch are written.

    ``options`` go to the Parquet writer. ``group_rows`` bounds a row group; a file is closed at the first row group
    that takes it to ``target_bytes``. ``collectors`` and ``field_ids`` say what Iceberg keeps of which column.
    """

    options: Mapping[str, Any]
    group_rows: int
    target_bytes: int
    collectors: Mapping[int, StatisticsCollector]
    field_ids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Written:
    """A complete file: where, how many bytes, and the statistics of its columns."""

    location: str
    size: int
    statistics: Mapping[str, Any]


def plan_files(rows: pa.Table, schema: Schema, properties: Mapping[str, str], sorting: SortOrder) -> FilePlan:
    """Decide once for all files of ``rows`` (conformed to ``schema``), from the table's properties and a sample.

    Raises:
        ConfigurationError: a table property has a value that cannot be read.
    """
    settings = dict(properties)
    try:
        target = _number(settings, TableProperties.WRITE_TARGET_FILE_SIZE_BYTES, DEFAULT_TARGET_BYTES)
        group_bytes = min(target, _number(settings, TableProperties.PARQUET_ROW_GROUP_SIZE_BYTES, DEFAULT_TARGET_BYTES))
        group_limit = _number(
            settings, TableProperties.PARQUET_ROW_GROUP_LIMIT, TableProperties.PARQUET_ROW_GROUP_LIMIT_DEFAULT
        )
        group_rows = max(1, min(group_limit, group_bytes * len(rows) // max(1, rows.nbytes)))
        collectors = compute_statistics_plan(schema, settings)
        options = _options(settings)
    except ValueError as error:
        raise ConfigurationError(f"a property of the table is wrong: {error}", "Set it again, or remove it.") from error
    field_ids = parquet_path_to_id_mapping(schema)
    # Java readers order uuids differently from Parquet and would skip files that hold what they look for.
    uuids = {number for number, collector in collectors.items() if isinstance(collector.iceberg_type, UUIDType)}
    options["write_statistics"] = [path for path, number in field_ids.items() if number not in uuids] if uuids else True
    options["use_dictionary"] = _repetitive(rows, collectors, field_ids)
    options["sorting_columns"] = _sorting_columns(sorting, list(field_ids.values())) or None
    options["bloom_filter_options"] = _bloom_filters(settings, collectors, field_ids, min(len(rows), group_rows))
    return FilePlan(
        options=options,
        group_rows=group_rows,
        target_bytes=target,
        collectors={n: replace(c, mode=_COUNTS) if n in uuids else c for n, c in collectors.items()},
        field_ids=field_ids,
    )


def write_files(plan: FilePlan, rows: pa.Table, outputs: Iterator[OutputFile]) -> Iterator[Written]:
    """Write all of ``rows`` in order to as many of ``outputs`` as it takes; each is complete when it is yielded."""
    start = 0
    while start < len(rows):
        output = next(outputs)
        sink = output.create(overwrite=True)
        try:
            start, size, metadata = _write_file(plan, rows, start, sink)
        except BaseException:
            with suppress(Exception):  # closing a broken stream fails as writing did
                sink.close()
            raise
        sink.close()
        yield Written(output.location, size, _statistics(plan, metadata))


def _write_file(plan: FilePlan, rows: pa.Table, start: int, sink: OutputStream) -> tuple[int, int, pq.FileMetaData]:
    counted = cast("pa.NativeFile", sink)  # every stream that a FileIO makes can tell how far it is
    writer = pq.ParquetWriter(sink, rows.schema, **plan.options)
    try:
        while start < len(rows):
            writer.write_table(rows.slice(start, plan.group_rows), row_group_size=plan.group_rows)
            start += plan.group_rows
            if counted.tell() >= plan.target_bytes:
                break
    except BaseException:
        with suppress(Exception):
            writer.close()
        raise
    writer.close()
    return start, counted.tell(), writer.writer.metadata


def _options(settings: dict[str, str]) -> dict[str, Any]:
    names = TableProperties
    codec = settings.get(names.PARQUET_COMPRESSION, names.PARQUET_COMPRESSION_DEFAULT).lower()
    level = property_as_int(settings, names.PARQUET_COMPRESSION_LEVEL, names.PARQUET_COMPRESSION_LEVEL_DEFAULT)
    return {
        "compression": "none" if codec == "uncompressed" else codec,
        "compression_level": level,
        "data_page_size": _number(settings, names.PARQUET_PAGE_SIZE_BYTES, names.PARQUET_PAGE_SIZE_BYTES_DEFAULT),
        "max_rows_per_page": _number(settings, names.PARQUET_PAGE_ROW_LIMIT, names.PARQUET_PAGE_ROW_LIMIT_DEFAULT),
        "dictionary_pagesize_limit": _number(
            settings, names.PARQUET_DICT_SIZE_BYTES, names.PARQUET_DICT_SIZE_BYTES_DEFAULT
        ),
        "store_decimal_as_integer": True,
        "write_page_index": True,
        # Readers shall see Parquet's types alone, not which Arrow type we happened to hold.
        "store_schema": False,
    }


def _number(settings: dict[str, str], name: str, default: int) -> int:
    number = property_as_int(settings, name, default)
    if number is None or number <= 0:
        raise ValueError(f"{name} is {number}, and must be above 0")
    return number


def _repetitive(
    rows: pa.Table, collectors: Mapping[int, StatisticsCollector], field_ids: Mapping[str, int]
) -> list[str]:
    """The Parquet paths of the columns that a dictionary makes smaller."""
    step = max(_SAMPLE_ROWS, len(rows) // _SAMPLES)
    sample = pa.concat_tables([rows.slice(start, _SAMPLE_ROWS) for start in range(0, len(rows), step)])
    top = {field.metadata[FIELD_ID]: field.name for field in rows.schema}
    chosen = []
    for path, number in field_ids.items():
        kind = collectors[number].iceberg_type
        name = top.get(str(number).encode())
        if isinstance(kind, (BooleanType, UUIDType)):
            continue
        if name is None:  # inside a struct, list or map: texts repeat more often than not
            pays = isinstance(kind, (StringType, BinaryType))
        else:
            pays = pc.count_distinct(sample[name], mode="all").as_py() <= _REPETITIVE * len(sample)
        if pays:
            chosen.append(path)
    return chosen


def _sorting_columns(sorting: SortOrder, leaves: list[int]) -> list[pq.SortingColumn]:
    """The sort order as Parquet can say it: up to the first field that sorts by something else than a column."""
    columns = []
    for field in sorting.fields:
        if not isinstance(field.transform, IdentityTransform) or field.source_id not in leaves:
            break
        columns.append(
            pq.SortingColumn(
                leaves.index(field.source_id),
                field.direction == SortDirection.DESC,
                field.null_order == NullOrder.NULLS_FIRST,
            )
        )
    return columns


def _bloom_filters(
    settings: dict[str, str],
    collectors: Mapping[int, StatisticsCollector],
    field_ids: Mapping[str, int],
    rows: int,
) -> dict[str, dict[str, Any]] | None:
    prefix = TableProperties.PARQUET_BLOOM_FILTER_COLUMN_ENABLED_PREFIX
    wanted = {
        path: {"ndv": max(1, rows)}
        for path, number in field_ids.items()
        if property_as_bool(settings, f"{prefix}.{collectors[number].column_name}", default=False)
    }
    return wanted or None


def _statistics(plan: FilePlan, metadata: pq.FileMetaData) -> dict[str, Any]:
    """PyIceberg's statistics; columns whose bounds Python cannot hold (a year 10,000) keep only their counts."""
    try:
        return _collect(plan, metadata, plan.collectors)
    except (ValueError, OverflowError):
        counts = {number: replace(collector, mode=_COUNTS) for number, collector in plan.collectors.items()}
        fitting = dict(counts)
        for number, collector in plan.collectors.items():
            with suppress(ValueError, OverflowError):
                _collect(plan, metadata, {**counts, number: collector})
                fitting[number] = collector
        return _collect(plan, metadata, fitting)


def _collect(
    plan: FilePlan, metadata: pq.FileMetaData, collectors: Mapping[int, StatisticsCollector]
) -> dict[str, Any]:
    found: DataFileStatistics = data_file_statistics_from_parquet_metadata(
        metadata, dict(collectors), dict(plan.field_ids)
    )
    return found.to_serialized_dict()
