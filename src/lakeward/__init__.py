"""lakeward keeps lakehouse tables exactly equal to streams.

``open_table`` writes without a stream; the command ``lakeward`` runs pipelines. Importing this costs nothing: what
needs Arrow or Iceberg is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakeward.outcomes import CommitReceipt as CommitReceipt
    from lakeward.table import TableWriter as TableWriter
    from lakeward.table import open_table as open_table
    from lakeward.table import schema_from_avro as schema_from_avro

_PLACES = {
    "CommitReceipt": "lakeward.outcomes",
    "TableWriter": "lakeward.table",
    "open_table": "lakeward.table",
    "schema_from_avro": "lakeward.table",
}
__all__ = ["CommitReceipt", "TableWriter", "open_table", "schema_from_avro"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
