"""Partition values, row order and file contents for any rows, against oracles that work row by row."""

from __future__ import annotations

import functools
import math
import struct
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, NullOrder, SortDirection, SortField, SortOrder
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    VoidTransform,
    YearTransform,
)
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    IntegerType,
    LongType,
    PrimitiveType,
    StringType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

from lakeward.sinks.iceberg.evolution import iceberg_schema
from lakeward.sinks.iceberg.parquet import plan_files, write_files
from lakeward.sinks.iceberg.partitioning import split
from lakeward.sinks.iceberg.schema import conform

DAYS = st.integers(-719162, 2932896)
"""Year 1 to 9999, as days since 1970."""
MICROS = st.one_of(
    st.builds(lambda day, rest: day * 86_400_000_000 + rest, DAYS, st.integers(0, 86_399_999_999)),
    st.builds(lambda day, rest: day * 86_400_000_000 + rest, DAYS, st.sampled_from([0, 1, 86_399_999_999])),
    st.sampled_from([-1, 0, 1, -3_600_000_001, -3_600_000_000]),
)
LONGS = st.integers(-(2**63) + 2**20, 2**63 - 1)
"""Below this, truncating leaves 64 bits; there all implementations wrap and the row-wise oracle does not."""


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**precision - 1
    return st.integers(-most, most).map(lambda n: Decimal((int(n < 0), tuple(map(int, str(abs(n)))), -scale)))


Kind = tuple[PrimitiveType, pa.DataType, pa.DataType | None, st.SearchStrategy[Any]]
KINDS: list[Kind] = [
    (BooleanType(), pa.bool_(), None, st.booleans()),
    (IntegerType(), pa.int32(), None, st.integers(-(2**31) + 2**20, 2**31 - 1)),
    (LongType(), pa.int64(), None, LONGS),
    (DoubleType(), pa.float64(), None, st.floats(allow_nan=False)),
    (DateType(), pa.date32(), pa.int32(), DAYS),
    (TimeType(), pa.time64("us"), pa.int64(), st.integers(0, 86_399_999_999)),
    (TimestampType(), pa.timestamp("us"), pa.int64(), MICROS),
    (TimestamptzType(), pa.timestamp("us", "UTC"), pa.int64(), MICROS),
    (DecimalType(9, 2), pa.decimal128(9, 2), None, decimals(9, 2)),
    (DecimalType(18, 6), pa.decimal128(18, 6), None, decimals(18, 6)),
    (DecimalType(37, 10), pa.decimal128(37, 10), None, decimals(37, 10)),
    (StringType(), pa.string(), None, st.text(max_size=6)),
    (StringType(), pa.large_string(), None, st.text(max_size=6)),
    (BinaryType(), pa.binary(), None, st.binary(max_size=6)),
    (BinaryType(), pa.large_binary(), None, st.binary(max_size=6)),
    (FixedType(3), pa.binary(3), None, st.binary(min_size=3, max_size=3)),
    (UUIDType(), pa.uuid(), pa.binary(16), st.binary(min_size=16, max_size=16)),
]
TRANSFORMS: list[Transform[Any, Any]] = [
    IdentityTransform(),
    VoidTransform(),
    YearTransform(),
    MonthTransform(),
    DayTransform(),
    HourTransform(),
    BucketTransform(1),
    BucketTransform(16),
    BucketTransform(1_000_003),
    TruncateTransform(1),
    TruncateTransform(3),
    TruncateTransform(1000),
]


def array(kind: Kind, values: Sequence[Any]) -> pa.Array:
    _, arrow, storage, _ = kind
    if isinstance(arrow, pa.UuidType):
        return pa.ExtensionArray.from_storage(arrow, pa.array(values, storage))
    return pa.array(values, storage or arrow).view(arrow)


PAIRS = [(kind, transform) for kind in KINDS for transform in TRANSFORMS if transform.can_transform(kind[0])]


@pytest.mark.parametrize(("kind", "transform"), PAIRS, ids=[f"{transform} of {kind[1]}" for kind, transform in PAIRS])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_partition_values_are_those_of_the_row_wise_transform(kind, transform, data):
    values = [*data.draw(st.lists(kind[3], min_size=3, max_size=8)), None]
    start = data.draw(st.integers(0, 2))
    wanted = [transform.transform(kind[0])(value) for value in values[start:]]
    rows = pa.table({"x": array(kind, values).slice(start)})
    schema = iceberg_schema(rows.schema)
    groups = split(
        conform(rows, schema), schema, PartitionSpec(PartitionField(1, 1000, transform, "p")), UNSORTED_SORT_ORDER
    )
    found = [(repr(group.partition[0]), len(group.rows)) for group in groups]
    assert sorted(found) == sorted(Counter(map(repr, wanted)).items())


COLUMNS: dict[str, Kind] = {
    "n": (LongType(), pa.int64(), None, st.integers(-2, 2) | st.sampled_from([-(2**63), 2**63 - 1])),
    "f": (
        DoubleType(),
        pa.float64(),
        None,
        st.sampled_from([0.0, -0.0, 1.5, -1.5, math.inf, -math.inf, math.nan, 5e-324]),
    ),
    "d": (DecimalType(18, 6), pa.decimal128(18, 6), None, decimals(18, 6)),
    "h": (DecimalType(38, 6), pa.decimal128(38, 6), None, decimals(38, 6) | decimals(2, 6)),
    "s": (StringType(), pa.string(), None, st.sampled_from(["", "a", "ab", "b", "é", "😀", "\uffff"])),
    "b": (BooleanType(), pa.bool_(), None, st.booleans()),
    "t": (TimestamptzType(), pa.timestamp("us", "UTC"), pa.int64(), MICROS | st.integers(-3, 3)),
    "x": (FixedType(2), pa.binary(2), None, st.sampled_from([b"\0\0", b"\x7f\0", b"\x80\0", b"\xff\xff"])),
}
PARTITIONS: list[tuple[str, Transform[Any, Any]]] = [
    ("n", IdentityTransform()),
    ("s", IdentityTransform()),
    ("s", TruncateTransform(1)),
    ("n", BucketTransform(3)),
    ("t", HourTransform()),
    ("t", VoidTransform()),
    ("b", IdentityTransform()),
]


def ordinal(name: str, value: Any) -> Any:
    if name == "f":
        bits = struct.unpack(">q", struct.pack(">d", math.nan if math.isnan(value) else value))[0]
        return bits if bits >= 0 else -(bits & (2**63 - 1)) - 1
    return value.encode() if name == "s" else value


def compare(terms: Sequence[tuple[str, bool, bool]], left: dict[str, Any], right: dict[str, Any]) -> int:
    for name, descending, nulls_first in terms:
        a, b = left[name], right[name]
        if a is None or b is None:
            if (a is None) != (b is None):
                return -1 if (a is None) == nulls_first else 1
            continue
        a, b = ordinal(name, a), ordinal(name, b)
        if a != b:
            return -1 if (a < b) != descending else 1
    return 0


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_rows_are_grouped_by_partition_and_sorted_inside(data):
    record = st.fixed_dictionaries({name: st.none() | kind[3] for name, kind in COLUMNS.items()})
    records = data.draw(st.lists(record, max_size=25))
    for number, row in enumerate(records):
        row["id"] = number
    by = data.draw(st.lists(st.sampled_from(PARTITIONS), max_size=3, unique_by=str))
    terms = data.draw(
        st.lists(
            st.tuples(st.sampled_from(list(COLUMNS)), st.booleans(), st.booleans()),
            max_size=4,
            unique_by=lambda t: t[0],
        )
    )
    columns = {name: array(kind, [row[name] for row in records]) for name, kind in COLUMNS.items()}
    whole = pa.table({**columns, "id": pa.array([row["id"] for row in records], pa.int64())})
    schema = iceberg_schema(whole.schema)
    at = data.draw(st.integers(0, len(records)))
    rows = pa.concat_tables([conform(part, schema) for part in (whole.slice(0, at), whole.slice(at))])

    ids = {field.name: field.field_id for field in schema.fields}
    spec = PartitionSpec(*(PartitionField(ids[c], 1000 + i, t, f"p{i}") for i, (c, t) in enumerate(by)))
    order = SortOrder(
        *(
            SortField(
                ids[name],
                IdentityTransform(),
                SortDirection.DESC if descending else SortDirection.ASC,
                NullOrder.NULLS_FIRST if nulls_first else NullOrder.NULLS_LAST,
            )
            for name, descending, nulls_first in terms
        )
    )
    wanted = defaultdict(list)
    for row in sorted(records, key=functools.cmp_to_key(functools.partial(compare, terms))):
        wanted[tuple(t.transform(COLUMNS[c][0])(row[c]) for c, t in by)].append(row["id"])
    groups = split(rows, schema, spec, order)
    found = {tuple(group.partition[i] for i in range(len(by))): group.rows["id"].to_pylist() for group in groups}
    assert found == wanted
    assert len(groups) == len(wanted)
    for group in groups:
        picked = whole.take(group.rows["id"].combine_chunks())
        assert repr(group.rows.to_pylist()) == repr(picked.to_pylist())


STORED = [kind for kind in KINDS if not isinstance(kind[0], UUIDType)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_written_is_what_two_readers_read(data):
    kinds = data.draw(st.lists(st.sampled_from(STORED), min_size=1, max_size=4))
    size = data.draw(st.integers(1, 30))
    values = [data.draw(st.lists(st.none() | kind[3], min_size=size, max_size=size)) for kind in kinds]
    source = pa.table(
        {f"c{i}": array(kind, column) for i, (kind, column) in enumerate(zip(kinds, values, strict=True))}
    )
    schema = iceberg_schema(source.schema)
    rows = conform(source, schema)
    limit = data.draw(st.integers(1, 20))
    plan = plan_files(rows, schema, {"write.parquet.row-group-limit": str(limit)}, UNSORTED_SORT_ORDER)
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as engine:
        path = str(Path(folder, "rows.parquet"))
        (written,) = write_files(plan, rows, iter([PyArrowFileIO().new_output(path)]))
        assert written.size == Path(path).stat().st_size
        theirs = pq.ParquetFile(path).read()
        micros = ", ".join(
            f"epoch_us(c{i}) as c{i}"
            for i, kind in enumerate(kinds)
            if isinstance(kind[0], (TimestampType, TimestamptzType))
        )
        replaced = f"* replace ({micros})" if micros else "*"
        order = "order by file_row_number"
        found = engine.execute(
            f"select {replaced} from read_parquet(?, file_row_number => true) {order}", [path]
        ).to_arrow_table()
    for i, (kind, column) in enumerate(zip(kinds, values, strict=True)):
        storage = kind[2] or kind[1]
        assert theirs[f"c{i}"].cast(kind[1]).combine_chunks().view(storage).to_pylist() == column
        duck = found[f"c{i}"].combine_chunks()
        if isinstance(kind[0], (DateType, TimeType)):
            duck = duck.view(storage)
        assert duck.to_pylist() == column
