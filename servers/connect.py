"""A Kafka Connect worker, whatever its plugins are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from servers.kafka import Kafka
from servers.process import Server, answers
from servers.releases import ServerError

WORKER_POM = Path(__file__).with_name("connect-worker-pom.xml")
AVRO_POM = Path(__file__).with_name("connect-avro-pom.xml")
WORKER = "worker"
"""The folder of the worker's jars in a release."""
PLUGINS = "plugins"
"""The folder with one folder for each plugin."""

_PROPERTIES = """\
bootstrap.servers={brokers}
group.id={name}
config.storage.topic={name}-config
offset.storage.topic={name}-offset
status.storage.topic={name}-status
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
plugin.discovery={discovery}
listeners=http://127.0.0.1:{port}
rest.advertised.host.name=127.0.0.1
rest.advertised.port={port}
scheduled.rebalance.max.delay.ms=0
"""


class ConnectWorker(Server):
    """One distributed worker on ``kafka``, which must run; connectors come and go by `put` and `delete`.

    Where connectors are lies in Kafka: a worker that is killed goes on from there when it is started again.
    """

    start_within = 120.0
    discovery = "hybrid_warn"
    """How plugins are found; `service_load` is seconds faster, where all declare themselves."""

    def __init__(
        self, directory: Path, kafka: Kafka, release: Path, java: Sequence[str], port: int | None = None
    ) -> None:
        """The log goes into ``directory``; ``release`` holds the jars, ``java`` is the program and its options."""
        super().__init__(directory, port)
        self._kafka = kafka
        self._release = release
        self._java = java

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
        traces = [str(task.get("trace", "")) for task in self._tasks(connector) if task["state"] == "FAILED"]
        return traces[0][-2000:] if traces else None

    def delete(self, connector: str) -> None:
        """Remove a connector; the worker stays warm."""
        requests.delete(f"{self.url}/connectors/{connector}", timeout=60)

    def _tasks(self, connector: str) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.url}/connectors/{connector}/status", timeout=30)
        tasks: list[dict[str, Any]] = answer.json().get("tasks", []) if answer.ok else []
        return tasks

    def _command(self) -> Sequence[str]:
        logging = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Dorg.slf4j.simpleLogger.showDateTime=true")
        path = ("-cp", f"{self._release / WORKER}/*")
        main = ("org.apache.kafka.connect.cli.ConnectDistributed", str(self._properties_file))
        return [*self._java, *logging, *path, *main]

    def _prepare(self) -> None:
        values = {"name": self.name, "port": self.port, "plugins": self._release / PLUGINS, "discovery": self.discovery}
        text = _PROPERTIES.format(brokers=self._kafka.bootstrap_servers, **values)
        self._properties_file.write_text(text, encoding="utf-8")

    def _is_ready(self) -> bool:
        return answers(f"{self.url}/connectors")

    @property
    def _properties_file(self) -> Path:
        return self.directory / "worker.properties"
