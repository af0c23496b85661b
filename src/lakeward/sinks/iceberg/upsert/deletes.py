"""Position-delete files: each says of one data file which of its rows are no more, all of them so far.

What Java readers ask for is met to the letter: the reserved field ids, the data file's partition and spec, bounds that
hold its whole path (so that a planner knows it concerns no other file), and no sort order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table

from lakeward.sinks.iceberg.matching import FIELD_ID
from lakeward.sinks.iceberg.staging import partition_key

PATH_ID, POSITION_ID = 2147483546, 2147483545
_SCHEMA = pa.schema(
    [
        pa.field(
            "file_path", pa.dictionary(pa.int32(), pa.string()), nullable=False, metadata={FIELD_ID: str(PATH_ID)}
        ),
        pa.field("pos", pa.int64(), nullable=False, metadata={FIELD_ID: str(POSITION_ID)}),
    ]
)
_OPTIONS = {
    "compression": "none",  # gaps packed into as few bits as they need leave nothing to compress
    "use_dictionary": ["file_path"],
    "column_encoding": {"pos": "DELTA_BINARY_PACKED"},
    # Readers take `file_path` for the text that it is, not for the dictionary that we happened to hold.
    "store_schema": False,
}
_WRITERS = 8
"""Files written at once: they are small, and a store's answers are waited for side by side."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Rows of ``file`` that are no more: ``positions`` int64[n], ascending, all of them, earlier ones too."""

    file: DataFile
    positions: NDArray[np.int64]


def write_deletes(table: Table, gone: Sequence[Gone], name: str) -> list[DataFile]:
    """Write one delete file for each of ``gone``, in their order; the files' names begin with ``name``.

    What was written is left where one fails: it is nobody's, and its names are not used again.
    """
    writers = min(_WRITERS, len(gone))

    def write(first: int) -> list[DataFile]:
        return [_write(table, gone[at], f"{name}-{at:05d}") for at in range(first, len(gone), writers)]

    if writers <= 1:
        return write(0) if writers else []
    with ThreadPoolExecutor(writers, "deletes") as pool:
        written = list(pool.map(write, range(writers)))
    return [written[at % writers][at // writers] for at in range(len(gone))]


def path_of(table: Table, file: DataFile, name: str) -> str:
    """Where the delete file ``name`` of ``file`` lies: beside the data of its partition."""
    metadata = table.metadata
    spec = metadata.specs()[file.spec_id]
    key = partition_key(spec, metadata.schema(), file.partition) if spec.fields else None
    return table.location_provider().new_data_location(f"{name}-deletes.parquet", key)


def concerns(file: DataFile) -> str | None:
    """The only data file that ``file`` deletes rows of; None where it is of another kind, or may concern several."""
    if file.content != DataFileContent.POSITION_DELETES:
        return None
    lower, upper = ((bounds or {}).get(PATH_ID) for bounds in (file.lower_bounds, file.upper_bounds))
    return lower.decode() if lower is not None and lower == upper else None


def read_positions(io: FileIO, file: DataFile) -> dict[str, NDArray[np.int64]]:
    """The deleted positions by data file, as a delete file (Parquet) has them."""
    with io.new_input(file.file_path).open() as stream:
        rows = pq.ParquetFile(stream, read_dictionary=["file_path"]).read(["file_path", "pos"])
    paths = rows["file_path"].combine_chunks()
    paths = paths if isinstance(paths, pa.DictionaryArray) else paths.chunk(0)
    positions: NDArray[np.int64] = rows["pos"].combine_chunks().to_numpy()
    codes: NDArray[np.int32] = paths.indices.to_numpy()
    names = paths.dictionary.to_pylist()
    if len(names) == 1:
        return {names[0]: positions}
    return {text: positions[codes == code] for code, text in enumerate(names)}


def _write(table: Table, gone: Gone, name: str) -> DataFile:
    path = path_of(table, gone.file, name)
    content = _parquet(gone)
    with table.io.new_output(path).create(overwrite=True) as stream:
        stream.write(content)
    text, rows = gone.file.file_path.encode(), len(gone.positions)
    file = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=gone.file.partition,
        record_count=rows,
        file_size_in_bytes=len(content),
        value_counts={PATH_ID: rows, POSITION_ID: rows},
        null_value_counts={PATH_ID: 0, POSITION_ID: 0},
        lower_bounds={PATH_ID: text, POSITION_ID: struct.pack("<q", gone.positions[0])},
        upper_bounds={PATH_ID: text, POSITION_ID: struct.pack("<q", gone.positions[-1])},
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
    )
    file.spec_id = gone.file.spec_id
    return file


def _parquet(gone: Gone) -> bytes:
    indices = pa.array(np.zeros(len(gone.positions), np.int32))
    paths = pa.DictionaryArray.from_arrays(indices, pa.array([gone.file.file_path]))
    rows = pa.table([paths, pa.array(gone.positions)], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=max(1, len(rows)), **_OPTIONS)
    content: bytes = sink.getvalue().to_pybytes()
    return content
