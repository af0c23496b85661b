"""The parts of a full run: what each needs is started here, and its figures become one JSON document."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from servers.connect_sink import ConnectSink
from servers.iceberg_rest import IcebergRest
from servers.kafka import Kafka, KafkaOptions
from servers.minio import Minio
from servers.releases import NotInstalledError
from servers.schema_registry import SchemaRegistry

from benchmarks.ageing import Ageing, ageing
from benchmarks.freshness import freshness
from benchmarks.measuring import Feed, Run, baseline, lakeward
from benchmarks.peers import Peer, Worker
from benchmarks.poison import RATES, Damage, print_poison
from benchmarks.poison import figures as poison_figures
from benchmarks.report import medians, origin, print_runs
from benchmarks.steady import starting, steady
from benchmarks.table import figures
from benchmarks.topics import KEPT, Registry, fill
from benchmarks.writer import PARTITIONS, Stream
from lakeward.testing.registry import EmbeddedRegistry

PARTS = ("throughput", "throughput-s3", "peers", "starting", "steady", "freshness", "poison", "ageing", "ageing-s3")
_WARM_MESSAGES = 3000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything. ``messages`` by encoding; ``plain``: the most that the baseline is given."""

    messages: Mapping[str, int]
    plain: int = 1_000_000
    repeat: int = 3
    poison: int = 1_000_000
    starts: int = 5
    steady_s: float = 60.0
    fresh_s: float = 60.0
    commits: int = 10_000
    s3_commits: int = 10_000
    rows_a_commit: int = 250
    peer_warm: int = 1_000_000


FULL = Sizes({"avro": 10_000_000, "json": 10_000_000})
QUICK = Sizes({"avro": 3000, "json": 3000}, 3000, 1, 2000, 1, 1.0, 2.0, 30, 20, 20, 1000)


def measure(
    folder: Path, sizes: Sizes, parts: Sequence[str], keep: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """Measure ``parts``, one after the other; say what cannot be, because its server is not installed.

    ``keep`` is given what is known so far after each of them: what one part cannot do costs no other its figures.
    """
    result: dict[str, Any] = origin() | {"messages": dict(sizes.messages), "parts": list(parts)}
    for known in _measured(folder, sizes, set(parts)):
        result |= known
        result["machine"]["load_after"] = os.getloadavg()[0]
        result["figures"] = figures(result)
        keep(result)
    return result


def _measured(folder: Path, sizes: Sizes, parts: set[str]) -> Iterator[dict[str, Any]]:
    """What each part adds to the result."""
    if parts & {"throughput", "throughput-s3", "peers", "starting", "steady", "freshness", "poison"}:
        yield from _Streams(folder, sizes, parts).measured()
    if "poison" in parts:
        decoders = {name: poison_figures(name, sizes.poison) for name in sizes.messages}
        print_poison("DECODER", decoders)
        yield {"poison": decoders}
    aged: list[dict[str, Any]] = []
    for one in _aged(folder, sizes, parts):
        aged.append(asdict(one))
        yield {"ageing": list(aged)}


@dataclass(frozen=True, slots=True)
class _Streams:
    """The parts that need a broker: they share one, and the topics of trades in it."""

    folder: Path
    sizes: Sizes
    parts: set[str]

    def measured(self) -> Iterator[dict[str, Any]]:
        with ExitStack() as stack:
            kafka = stack.enter_context(Kafka(self.folder / "kafka", KafkaOptions(full_jit=True)))
            # The converter of the peer speaks to the real registry alone.
            real = "peers" in self.parts
            registry: Registry = stack.enter_context(
                SchemaRegistry(self.folder / "registry") if real else EmbeddedRegistry()
            )
            fed = {"throughput", "throughput-s3", "peers"}
            feeds = self._feeds(kafka, registry) if self.parts & fed else []
            runs = [run for feed in feeds for run in self._writers(feed)] if "throughput" in self.parts else []
            if "throughput-s3" in self.parts:
                runs += self._on_s3(feeds)
            if runs:
                print_runs(runs)
                yield {"medians": medians(runs), "runs": [asdict(run) for run in runs]}
            if isinstance(registry, SchemaRegistry):
                yield self._peers(kafka, registry, feeds)
            yield from self._lone(kafka, registry)
            if "poison" in self.parts:
                poisoned = {name: self._poisoned(name, kafka, registry) for name in self.sizes.messages}
                print_poison("WHOLE PIPELINE, START-UP TAKEN OFF", poisoned)
                yield {"poisoned": poisoned}

    def _poisoned(self, name: str, kafka: Kafka, registry: Registry) -> dict[str, float]:
        """Nanoseconds of CPU a message through the whole writer, by the share of bad ones, which become letters."""
        found: dict[str, float] = {}
        servers, messages = kafka.bootstrap_servers, self.sizes.poison
        empty = kafka.create_topic(f"poison.{name}.empty", PARTITIONS, KEPT)
        for rate in RATES:
            topic, damage = kafka.create_topic(f"poison.{name}.{rate:g}", PARTITIONS, KEPT), Damage(rate)
            fill(servers, topic, name, messages, registry, damage)
            feed = Feed(servers, registry.url, topic, empty, name, messages)
            if not found:
                lakeward(self.folder, feed)  # fills the cache of compiled decoders
            run = lakeward(self.folder, feed)
            if run.rows != messages - damage.bad:
                raise SystemExit(f"{topic}: {damage.bad} of {messages} were bad, {run.rows} became rows")
            found[f"{rate:g}"] = 1e9 * (run.cpu_s - run.startup_cpu_s) / messages
        return found

    def _feeds(self, kafka: Kafka, registry: Registry) -> list[Feed]:
        found = []
        for name, messages in self.sizes.messages.items():
            topics = [
                kafka.create_topic(f"market.trades.{name}{kind}", PARTITIONS, KEPT) for kind in ("", ".empty", ".warm")
            ]
            servers = kafka.bootstrap_servers
            print(f"filling {topics[0]} with {messages:,} messages", flush=True)
            fill(servers, topics[0], name, messages, registry)
            fill(servers, topics[2], name, _WARM_MESSAGES, registry)
            found.append(Feed(servers, registry.url, topics[0], topics[1], name, messages))
            # Compiled decoders are kept on disk: the first run of an installation fills that cache, and is not counted.
            lakeward(self.folder, replace(found[-1], topic=topics[2]))
        return found

    def _writers(self, feed: Feed) -> Iterator[Run]:
        plain = replace(feed, messages=min(feed.messages, self.sizes.plain))
        for number in range(self.sizes.repeat):
            ours, theirs = lakeward(self.folder, feed), baseline(self.folder, plain)
            print(f"{feed.encoding} {number + 1} of {self.sizes.repeat}:  {ours.line()}  |  baseline {theirs.line()}")
            yield ours
            yield theirs

    def _on_s3(self, feeds: Sequence[Feed]) -> Iterator[Run]:
        try:
            store = Minio(self.folder / "store")
            catalog = IcebergRest(self.folder / "catalog", store)
        except NotInstalledError as missing:
            print(f"throughput on S3: not measured; {missing}")
            return
        with store, catalog:
            for feed in feeds:
                for _ in range(self.sizes.repeat):
                    yield lakeward(self.folder, feed, catalog.pyiceberg_properties)

    def _peers(self, kafka: Kafka, registry: SchemaRegistry, feeds: Sequence[Feed]) -> dict[str, Any]:
        try:
            sink = ConnectSink(self.folder / "connect", kafka)
        except NotInstalledError:
            print("peers: not measured; `python -m servers install connect-sink` installs the Kafka Connect sink")
            return {}
        with sink:
            worker = Worker(sink, kafka, registry, self.folder)
            found: list[Peer] = []
            for feed in feeds:
                found.append(worker.measure(feed, self.sizes.peer_warm))
                print(f"{found[-1].name}, {feed.encoding}: {found[-1].line()}", flush=True)
        return {"peers": [asdict(peer) for peer in found]}

    def _lone(self, kafka: Kafka, registry: Registry) -> Iterator[dict[str, Any]]:
        """One writer, and few records."""

        def stream(name: str, interval: str) -> Stream:
            topic = kafka.create_topic(f"market.trades.{name}", PARTITIONS)
            return Stream(self.folder / name, kafka.bootstrap_servers, registry, topic, interval)

        measured: dict[str, Callable[[], Any]] = {
            "starting": lambda: starting(stream("starting", "1ms"), self.sizes.starts),
            "steady": lambda: steady(stream("steady", "250ms"), 1_000, self.sizes.steady_s),
            "freshness": lambda: freshness(stream("freshness", "250ms"), 5_000, self.sizes.fresh_s),
        }
        for name, action in measured.items():
            if name in self.parts:
                found = asdict(action())
                print(f"{name}: {found}", flush=True)
                yield {name: found}


def _aged(folder: Path, sizes: Sizes, parts: set[str]) -> Iterator[Ageing]:
    if "ageing" in parts:
        warehouse = folder / "aged"
        warehouse.mkdir()
        properties = {"type": "sql", "uri": f"sqlite:///{warehouse}/catalog.db", "warehouse": str(warehouse)}
        yield _told(ageing("disk", properties, sizes.commits, sizes.rows_a_commit))
    if "ageing-s3" in parts:
        try:
            store = Minio(folder / "s3")
            catalog = IcebergRest(folder / "rest", store)
        except NotInstalledError as missing:
            print(f"ageing on S3: not measured; {missing}")
            return
        with store, catalog:
            yield _told(ageing("s3", catalog.pyiceberg_properties, sizes.s3_commits, sizes.rows_a_commit))


def _told(aged: Ageing) -> Ageing:
    print(
        f"ageing on {aged.store}: {aged.early_ms:.1f} ms, {aged.late_ms:.1f} ms after {aged.commits} commits",
        flush=True,
    )
    return aged
