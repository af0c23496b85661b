"""Values of single rows, read from where they lie: only the columns and the row groups that are needed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from lakeward.sinks.iceberg.matching import FIELD_ID, Former, by_id, match
from lakeward.sinks.iceberg.reading import as_stored
from lakeward.sinks.iceberg.schema import conform

_READERS = 4
"""Files read at once: a store's answers are waited for side by side."""


@dataclass(frozen=True, slots=True)
class OldRows:
    """Rows in ``files`` (Parquet) of ``table``, as ``schema`` has their columns."""

    table: Table
    schema: Schema
    former: Former
    files: Sequence[DataFile]

    def read(self, columns: Sequence[str], numbers: NDArray[np.int64], positions: NDArray[np.int64]) -> pa.Table:
        """The ``columns`` of the rows at ``positions`` of the files that ``numbers`` tell, in that order.

        Raises:
            Exception: a file cannot be read.
        """
        chosen = Schema(*(self.schema.find_field(name).model_copy(update={"required": False}) for name in columns))
        order = np.lexsort((positions, numbers))
        jobs = [(file, positions[order][numbers[order] == number], chosen) for number, file in enumerate(self.files)]
        with ThreadPoolExecutor(_READERS, "old rows") as pool:
            parts = list(pool.map(lambda job: self._of_file(*job), jobs))
        none = conform(pa.table({}), chosen)
        if not parts:
            return none
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        # Files of others may ask for 64-bit offsets; the rows of one batch can do without.
        return pa.concat_tables([part.cast(none.schema) for part in parts]).take(pa.array(back))

    def _of_file(self, file: DataFile, positions: NDArray[np.int64], chosen: Schema) -> pa.Table:
        with self.table.io.new_input(file.file_path).open() as stream:
            parquet = pq.ParquetFile(stream)
            counts = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
            starts = np.concatenate(([0], np.cumsum(counts)))
            group_of = np.searchsorted(starts, positions, side="right") - 1
            groups = np.unique(group_of)
            columns = _columns(parquet, chosen, self.former)
            if not columns:  # it was written before they were added
                return conform(pa.table({"": pa.nulls(len(positions))}), chosen)
            rows = parquet.read_row_groups(groups.tolist(), columns=columns)
            # Where each of the groups that were read begins among the rows that were read.
            begins = np.concatenate(([0], np.cumsum(np.asarray(counts)[groups])))[:-1]
            at = positions - starts[group_of] + begins[np.searchsorted(groups, group_of)]
            return as_stored(rows.take(pa.array(at)), chosen, self.former)


def _columns(parquet: pq.ParquetFile, chosen: Schema, former: Former) -> list[str]:
    """The columns of a file that are wanted: by field id, by name where it has no ids."""
    given = list(parquet.schema_arrow)
    if any(FIELD_ID in (one.metadata or {}) for one in given):
        places = by_id(given, chosen.fields, "")
        return [given[at].name for at in places if at is not None]
    meant = match([one.name for one in given], chosen.fields, former, several=True)
    return [one.name for one, at in zip(given, meant, strict=True) if at is not None]
