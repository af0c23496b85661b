"""Kafka Connect with Apache Iceberg's sink: another way into the same tables, to measure beside.

Not installed unless asked for: `python -m servers install connect-sink`.
"""

from __future__ import annotations

from pathlib import Path

from servers import tools
from servers.connect import AVRO_POM, PLUGINS, WORKER, WORKER_POM, ConnectWorker
from servers.kafka import Kafka
from servers.releases import HOME, Release

_POMS = {
    WORKER: WORKER_POM,
    f"{PLUGINS}/iceberg": Path(__file__).with_name("connect-sink-pom.xml"),
    f"{PLUGINS}/avro": AVRO_POM,
}


class ConnectSink(ConnectWorker):
    """One Connect worker on ``kafka``, which must run, warmed and sized for measuring."""

    name = "connect-sink"

    def __init__(self, directory: Path, kafka: Kafka, home: Path = HOME) -> None:
        """The log goes into ``directory``.

        Raises:
            NotInstalledError: the sink is not installed in ``home``.
        """
        java = [tools.java(), "-Xms2g", "-Xmx2g", "-XX:+UseG1GC"]
        super().__init__(directory, kafka, RELEASE.require(home), java)


def _install(folder: Path) -> None:
    for place, pom in _POMS.items():
        tools.copy_dependencies(pom, folder / place)


RELEASE = Release("connect-sink", "1.11.0", _install, tuple(_POMS.values()))
