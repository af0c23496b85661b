"""What other programs do to a table."""

from __future__ import annotations

import pyarrow as pa
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Summary


def rewrite(table: Table, rows: pa.Table) -> None:
    """Compact as Spark does: ``rows`` in the place of all data files. Delete files stay that concern none any more."""
    with table.transaction() as transaction, transaction.update_snapshot().overwrite() as update:
        summary = update._summary
        update._summary = lambda given: Summary(Operation.REPLACE, **summary(given).additional_properties)
        for task in table.scan().plan_files():
            update.delete_data_file(task.file)
        for file in _dataframe_to_data_files(table.metadata, rows, table.io):
            update.append_data_file(file)
