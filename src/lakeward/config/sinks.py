"""Settings of the sinks, and the catalog that an Iceberg sink stands on."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field

from lakeward.config.scalars import Flag, Interval, Options, Place
from lakeward.config.secrecy import reveal
from lakeward.config.sections import Section

CATALOG_NAME = "lakeward"
"""The name under which catalogs are opened; SQL catalogs keep it beside each table."""
CATALOG_TYPES = ("rest", "sql", "glue", "hive", "dynamodb", "bigquery")
_DEFAULT_WAREHOUSE = "./warehouse"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://?")
_SQLITE_FILE = re.compile(r"(?P<scheme>sqlite(?:\+\w+)?:///)(?P<path>[^/?][^?]*)(?P<rest>.*)")


class Iceberg(Section):
    """Apache Iceberg tables."""

    catalog: Options | None = Field(
        default=None,
        description="Handed to PyIceberg as it is: `type` (`rest`, `sql`, `glue`, `hive`, …), `uri`, `warehouse`, "
        "`s3.endpoint`, `credential`, …. Default: SQLite inside the warehouse folder.",
    )
    warehouse: Place | None = Field(
        default=None,
        description="Where tables are stored: a local folder, or a URL when there is a catalog. Default without a "
        "catalog: `./warehouse`.",
    )

    compaction: Flag = Field(
        default=True,
        description="Merge small files beside the stream. `lakeward maintain` does it at any time.",
    )

    def catalog_properties(self, folder: Path) -> dict[str, Any]:
        """What ``pyiceberg.catalog.load_catalog`` takes, secrets revealed; relative paths start at ``folder``."""
        if self.catalog is None:
            warehouse = local_folder(self.warehouse or _DEFAULT_WAREHOUSE, folder)
            return {"type": "sql", "uri": f"sqlite:///{warehouse / 'catalog.db'}", "warehouse": str(warehouse)}
        properties = reveal(self.catalog)
        if self.warehouse is not None:
            properties["warehouse"] = self.warehouse
        sqlite = _SQLITE_FILE.fullmatch(str(properties.get("uri", "")))
        if sqlite and not sqlite["path"].startswith(":memory:"):
            properties["uri"] = f"{sqlite['scheme']}{local_folder(sqlite['path'], folder)}{sqlite['rest']}"
        if properties.get("type") == "sql" and "warehouse" in properties and not is_url(properties["warehouse"]):
            properties["warehouse"] = str(local_folder(properties["warehouse"], folder))
        return properties


class Delta(Section):
    """Delta Lake tables."""

    location: Place = Field(description="Where tables are stored; the table's name is a folder below it.")
    schema_cache_ttl: Interval = Field(
        default=timedelta(seconds=300), description="How long a table's schema is believed before it is read again."
    )
    storage_options: Options = Field(default={}, description="Handed to delta-rs as it is.")


class Sink(Section):
    """Where rows go: exactly one of these."""

    iceberg: Iceberg | None = Field(default=None, description="Apache Iceberg tables.")
    delta: Delta | None = Field(default=None, description="Delta Lake tables.")


def is_url(place: str) -> bool:
    """Whether ``place`` has a scheme, such as ``s3://bucket``; otherwise it is a path."""
    return _SCHEME.match(place) is not None


def local_folder(place: str, folder: Path) -> Path:
    """An absolute path for ``place``, a path or a ``file:`` URL; relative ones start at ``folder``."""
    return folder.absolute() / Path(re.sub(r"^file:(?://)?", "", place)).expanduser()
