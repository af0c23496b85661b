"""Apache Kafka: one broker that is its own controller (KRaft)."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from servers import tools
from servers.jvm import ARCHIVE, Jvm
from servers.process import Server, free_port
from servers.releases import HOME, Release, ServerError

_POM = Path(__file__).with_name("kafka-pom.xml")
_CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"
_FORMATTED = "formatted"
_CLOSE_S = 10.0
"""librdkafka was seen to wait for an answer for ever when it closes a consumer."""

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.partitions=1
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
group.consumer.heartbeat.interval.ms=200
group.consumer.min.heartbeat.interval.ms=200
group.consumer.min.session.timeout.ms=1500
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.threads=1
log.cleaner.backoff.ms=200
controller.quorum.election.timeout.ms=100
controller.quorum.fetch.timeout.ms=500
"""
# The controller forgets a killed broker only after its session; until then the restarted one may not serve (13 s).
_FORGET_QUICKLY = """\
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
"""


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """`crash_tests`: ready again 2 s after `kill`, not 13 s. `full_jit`: for benchmarks; starts slower, runs faster."""

    crash_tests: bool = False
    full_jit: bool = False


class Kafka(Server):
    """A Kafka broker; topics are never created by themselves, and groups may use sessions as short as 0.5 s."""

    name = "kafka"

    def __init__(
        self,
        directory: Path,
        options: KafkaOptions = KafkaOptions(),
        port: int | None = None,
        home: Path = HOME,
    ) -> None:
        """Data and log go into ``directory``, which may hold those of an earlier run.

        Raises:
            NotInstalledError: Kafka is not installed in ``home``.
        """
        super().__init__(directory, port)
        self._controller_port = free_port()
        self._options = options
        self._folder = RELEASE.require(home)
        heap = "1g" if options.full_jit else "512m"
        self._jvm = Jvm(self._folder / ARCHIVE, heap=heap, full_jit=options.full_jit)

    @property
    def bootstrap_servers(self) -> str:
        """Host and port for clients."""
        return f"127.0.0.1:{self.port}"

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Create a topic with one replica, wait until every partition has a leader, return its name.

        Raises:
            ServerError: the broker refused it (it exists already, the name or the configuration is bad).
        """
        admin = self.admin()
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        if name in admin.list_topics(timeout=15).topics:
            raise ServerError(f"topic {name} was not created: it exists already")
        try:
            admin.create_topics([topic], operation_timeout=10, request_timeout=15)[name].result(20)
        except KafkaException as failure:
            # The client repeats a request that a busy broker answers late, and is then told of its own topic.
            if failure.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ServerError(f"topic {name} was not created: {failure}") from failure
        except Exception as failure:
            raise ServerError(f"topic {name} was not created: {failure}") from failure
        self._wait_for(lambda: _led(admin, name, partitions), f"leading topic {name}")
        return name

    def admin(self) -> AdminClient:
        """A new admin client."""
        return AdminClient({"bootstrap.servers": self.bootstrap_servers})

    def _command(self) -> Sequence[str]:
        logging = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Dorg.slf4j.simpleLogger.showDateTime=true")
        return self._jvm.command(
            self.directory, *logging, "-cp", _classpath(self._folder), "kafka.Kafka", str(self._properties_file)
        )

    def _prepare(self) -> None:
        data = self.directory / "data"
        self._properties_file.write_text(self._properties(data), encoding="utf-8")
        if not data.exists():
            shutil.copytree(self._folder / _FORMATTED, data)

    def _is_ready(self) -> bool:
        return self._logged("Kafka Server started")

    @property
    def _properties_file(self) -> Path:
        return self.directory / "server.properties"

    def _properties(self, data: Path) -> str:
        text = _PROPERTIES.format(port=self.port, controller_port=self._controller_port, data=data)
        return text + (_FORGET_QUICKLY if self._options.crash_tests else "")


class _Rehearsal(Kafka):
    """The broker that `_install` runs once to write the archive of loaded classes."""

    def __init__(self, directory: Path, folder: Path) -> None:
        Server.__init__(self, directory)
        self._controller_port = free_port()
        self._options = KafkaOptions()
        self._folder = folder
        self._jvm = Jvm(folder / ARCHIVE, heap="512m", write_archive=True)

    def format(self) -> None:
        """Format an empty data folder to copy for every new broker; no port is stored in it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._properties_file.write_text(self._properties(self._folder / _FORMATTED), encoding="utf-8")
        java = replace(self._jvm, write_archive=False).command(self.directory, "-cp", _classpath(self._folder))
        arguments = ("format", "-t", _CLUSTER_ID, "-c", str(self._properties_file))
        tools.run([*java, "kafka.tools.StorageTool", *arguments])

    def use(self) -> Self:
        """Load the classes that clients need: a topic, a transaction, both group protocols."""
        self.create_topic("rehearsal", partitions=2)
        common = {"bootstrap.servers": self.bootstrap_servers, "log_level": 0}
        producer = Producer({**common, "transactional.id": "rehearsal"})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce("rehearsal", b"x")
        producer.commit_transaction(30)
        for protocol in ("classic", "consumer"):
            consumer = Consumer(
                {
                    **common,
                    "group.id": protocol,
                    "group.protocol": protocol,
                    "auto.offset.reset": "earliest",
                    "enable.auto.commit": False,
                }
            )
            consumer.subscribe(["rehearsal"])
            if consumer.poll(30) is not None:
                consumer.commit(asynchronous=False)
            closing = threading.Thread(target=consumer.close, daemon=True)
            closing.start()
            closing.join(_CLOSE_S)
        return self


def _led(admin: AdminClient, name: str, partitions: int) -> bool:
    topic = admin.list_topics(name, timeout=10).topics[name]
    return len(topic.partitions) == partitions and all(p.leader >= 0 for p in topic.partitions.values())


def _classpath(folder: Path) -> str:
    return f"{folder / 'jars'}/*"


def _install(folder: Path) -> None:
    tools.copy_dependencies(_POM, folder / "jars")
    with tempfile.TemporaryDirectory() as temporary:
        rehearsal = _Rehearsal(Path(temporary), folder)
        rehearsal.format()
        rehearsal.start()
        try:
            rehearsal.use()
        finally:
            rehearsal.stop(within=60)  # the archive is written on the way out


RELEASE = Release("kafka", "4.3.1", _install, (_POM,))
