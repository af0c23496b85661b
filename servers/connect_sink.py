"""Kafka Connect with Apache Iceberg's sink: another way into the same tables, to measure beside.

Not installed unless asked for: `python -m servers install connect-sink`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import requests

from servers import tools
from servers.kafka import Kafka
from servers.process import Server, answers
from servers.releases import HOME, Release, ServerError

_POMS = {
    "worker": Path(__file__).with_name("connect-worker-pom.xml"),
    "plugins/iceberg": Path(__file__).with_name("connect-sink-pom.xml"),
    "plugins/avro": Path(__file__).with_name("connect-avro-pom.xml"),
}

_PROPERTIES = """\
bootstrap.servers={brokers}
group.id=connect
config.storage.topic=connect-config
offset.storage.topic=connect-offset
status.storage.topic=connect-status
config.storage.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
offset.storage.partitions=1
status.storage.partitions=1
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=false
offset.flush.interval.ms=1000
plugin.path={plugins}
plugin.discovery=hybrid_warn
listeners=http://127.0.0.1:{port}
rest.advertised.host.name=127.0.0.1
rest.advertised.port={port}
scheduled.rebalance.max.delay.ms=0
"""


class ConnectSink(Server):
    """One distributed Connect worker on ``kafka``, which must run; connectors come and go by `put` and `delete`."""

    name = "connect-sink"
    start_within = 120.0

    def __init__(self, directory: Path, kafka: Kafka, home: Path = HOME) -> None:
        """The log goes into ``directory``.

        Raises:
            NotInstalledError: the sink is not installed in ``home``.
        """
        super().__init__(directory)
        self._kafka = kafka
        self._folder = RELEASE.require(home)

    @property
    def url(self) -> str:
        """The worker's address, no trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    def put(self, connector: str, config: Mapping[str, str]) -> None:
        """Create a connector, or change it.

        Raises:
            ServerError: the worker refused it.
        """
        answer = requests.put(f"{self.url}/connectors/{connector}/config", json=dict(config), timeout=60)
        if not answer.ok:
            raise ServerError(
                f"connector {connector} was refused with status {answer.status_code}: {answer.text[:300]}"
            )

    def failure(self, connector: str) -> str | None:
        """The last lines of why a task of ``connector`` has failed; None where none has."""
        answer = requests.get(f"{self.url}/connectors/{connector}/status", timeout=30)
        tasks = answer.json().get("tasks", ()) if answer.ok else ()
        traces = [str(task.get("trace", "")) for task in tasks if task["state"] == "FAILED"]
        return traces[0][-2000:] if traces else None

    def delete(self, connector: str) -> None:
        """Remove a connector; the worker stays warm."""
        requests.delete(f"{self.url}/connectors/{connector}", timeout=60)

    def _command(self) -> Sequence[str]:
        logging = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Dorg.slf4j.simpleLogger.showDateTime=true")
        path = ("-cp", f"{self._folder / 'worker'}/*")
        main = ("org.apache.kafka.connect.cli.ConnectDistributed", str(self._properties_file))
        return [tools.java(), "-Xms2g", "-Xmx2g", "-XX:+UseG1GC", *logging, *path, *main]

    def _prepare(self) -> None:
        self._properties_file.write_text(
            _PROPERTIES.format(brokers=self._kafka.bootstrap_servers, plugins=self._folder / "plugins", port=self.port),
            encoding="utf-8",
        )

    def _is_ready(self) -> bool:
        return answers(f"{self.url}/connectors")

    @property
    def _properties_file(self) -> Path:
        return self.directory / "worker.properties"


def _install(folder: Path) -> None:
    for place, pom in _POMS.items():
        tools.copy_dependencies(pom, folder / place)


RELEASE = Release("connect-sink", "1.11.0", _install, tuple(_POMS.values()))
