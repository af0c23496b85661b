"""The folder that the demo leaves: a configuration, a warehouse, what was sent, and what the writers logged."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lakeward.demo.feed import STREAMS, Stream
from lakeward.errors import ConfigurationError

_MARK = "# Made by `lakeward demo`."
_HEAD = (
    _MARK
    + """ Its broker and its registry ended with it; the tables stay.
name: market-data-demo
source:
  kafka:
    bootstrap_servers: "{brokers}"
    properties: {{session.timeout.ms: 2000, heartbeat.interval.ms: 500}}   # a real broker waits 6 s for a dead writer
schema_registry: {{url: "{registry}"}}
decode: avro
sink:
  iceberg: {{warehouse: ./warehouse}}     # no catalog named: SQLite inside the folder
flush: {{interval: 1s, rows: {rows}}}
tables:
"""
)
_TABLE = """\
  - topics: [{topic}]
    table: {table}
"""


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the demo works; ``path`` need not exist."""

    path: Path

    @property
    def configuration(self) -> Path:
        """The pipeline's file."""
        return self.path / "lakeward.yaml"

    @property
    def log(self) -> Path:
        """What the writers logged."""
        return self.path / "writer.log"

    @property
    def warehouse(self) -> Path:
        """The tables and their catalog."""
        return self.path / "warehouse"

    @property
    def sent(self) -> Path:
        """The copies of what was sent, one Parquet file a kind."""
        return self.path / "sent"

    def sent_file(self, stream: Stream) -> Path:
        """The copy of what was sent into one stream."""
        return self.sent / f"{stream.kind}.parquet"

    def prepare(self) -> None:
        """Make it empty. Only what an earlier demo left is removed.

        Raises:
            ConfigurationError: it holds something else, or cannot be written.
        """
        try:
            if self.path.exists() and not self._is_ours():
                raise ConfigurationError(
                    f"{self.path} is there and was not made by the demo", "Name another one with --folder."
                )
            for made in (self.warehouse, self.sent):
                shutil.rmtree(made, ignore_errors=True)
            for file in (self.log, self.configuration):
                file.unlink(missing_ok=True)
            self.sent.mkdir(parents=True)
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be written: {error.strerror}") from error

    def configure(self, brokers: str, registry: str, rows: int) -> None:
        """Write the configuration, with a commit every ``rows`` rows or every second."""
        head = _HEAD.format(brokers=brokers, registry=registry, rows=rows)
        tables = ""
        for stream in STREAMS:
            tables += _TABLE.format(topic=stream.topic, table=stream.table)
            tables += "".join(f"    {name}: {value}\n" for name, value in stream.settings.items())
        self.configuration.write_text(head + tables, encoding="utf-8")

    def data_files(self) -> int:
        """How many data files lie in the warehouse, whether a table knows them or not."""
        return sum(1 for file in self.warehouse.rglob("*.parquet") if not file.stem.endswith("-deletes"))

    def _is_ours(self) -> bool:
        if not self.path.is_dir():
            return False
        file = self.configuration
        return not any(self.path.iterdir()) or (file.is_file() and file.read_text("utf-8").startswith(_MARK))
