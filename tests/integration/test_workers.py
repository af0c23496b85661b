"""Several workers on one table and a real broker: exact while they are killed and stopped for longer than a session."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from servers.kafka import Kafka

from lakeward.testing.generators import Market, avro_payloads, homes_of, keys_of
from lakeward.testing.producing import produce, producer_of
from lakeward.testing.registry import EmbeddedRegistry
from lakeward.testing.waiting import joined

SCHEMA = Path(__file__).parents[2] / "examples" / "market_data" / "schemas" / "trade.avsc"
LAKEWARD = [sys.executable, "-m", "lakeward"]
WORKERS = 3


def written(folder: Path, servers: str, registry: str, topic: str) -> Path:
    config = {
        "name": "workers",
        "source": {
            "kafka": {
                "bootstrap_servers": servers,
                "group_id": topic,
                "properties": {"session.timeout.ms": 2000, "heartbeat.interval.ms": 300},
            }
        },
        "schema_registry": {"url": registry},
        "decode": "avro",
        "sink": {"iceberg": {"warehouse": str(folder / "warehouse")}},
        "flush": {"interval": "200ms"},
        "tables": [
            {
                "topics": [topic],
                "table": "md.trades",
                "metadata_columns": {"_partition": "partition", "_offset": "offset"},
            }
        ],
    }
    file = folder / "lakeward.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@contextmanager
def producing(servers: str, topic: str, schema_id: int) -> Iterator[list[int]]:
    """Keeps sending while the context lasts; the list holds how many were sent."""
    sent, stop = [0], threading.Event()

    def send() -> None:
        market, producer = Market(seed=5), producer_of(servers)
        while not stop.is_set():
            trades = market.trades(500)
            produce(producer, topic, avro_payloads(trades, schema_id), keys_of(trades), homes_of(trades, 6))
            sent[0] += 500
            stop.wait(0.02)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        joined(thread, "the sender", 120)


def workers_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def commits(log: Path) -> int:
    return log.read_text().count('"event": "committed"')


def test_three_workers_are_exact_while_they_are_killed_and_stopped_for_longer_than_their_session(
    kafka: Kafka, fresh_topic: str, tmp_path: Path
) -> None:
    topic = kafka.create_topic(fresh_topic, 6)
    seed = random.randrange(1 << 30)
    print("seed", seed)  # noqa: T201 - to replay a failure
    chance = random.Random(seed)
    with EmbeddedRegistry() as registry:
        schema_id = registry.register(f"{topic}-value", SCHEMA.read_text())
        file = written(tmp_path, kafka.bootstrap_servers, registry.url, topic)
        log = tmp_path / "log"
        with log.open("wb") as out:
            parent = subprocess.Popen([*LAKEWARD, "run", str(file), "--workers", str(WORKERS)], stderr=out)
        try:
            with producing(kafka.bootstrap_servers, topic, schema_id) as sent:
                for number in range(4):
                    before = commits(log)
                    deadline = time.monotonic() + 60
                    while commits(log) < before + 4 or len(workers_of(parent.pid)) < WORKERS:
                        assert parent.poll() is None, log.read_text()[-2000:]
                        assert time.monotonic() < deadline, log.read_text()[-2000:]
                        threading.Event().wait(0.05)
                    victim = chance.choice(workers_of(parent.pid))
                    if number % 4 == 3:  # a zombie: it wakes up after its partitions have moved
                        os.kill(victim, signal.SIGSTOP)
                        threading.Event().wait(3.0)
                        os.kill(victim, signal.SIGCONT)
                    else:
                        os.kill(victim, signal.SIGKILL)
        finally:
            parent.terminate()
            assert parent.wait(60) == 0
        last = subprocess.run([*LAKEWARD, "run", str(file), "--until-caught-up"], capture_output=True, check=False)
        assert last.returncode == 0, last.stderr.decode()[-2000:]
    told = subprocess.run([*LAKEWARD, "verify", str(file), "--json"], capture_output=True, check=False)
    assert told.returncode == 0, told.stdout
    assert json.loads(told.stdout)["tables"][0]["passed"]
    query = "SELECT count(*), count(DISTINCT (_partition, _offset)) FROM md.trades"
    answer = subprocess.run([*LAKEWARD, "query", str(file), query, "--json"], capture_output=True, check=True)
    assert list(json.loads(answer.stdout)[0].values()) == [sent[0], sent[0]]
    highest = "SELECT sum(m) FROM (SELECT max(_offset) + 1 AS m FROM md.trades GROUP BY _partition)"
    answer = subprocess.run([*LAKEWARD, "query", str(file), highest, "--json"], capture_output=True, check=True)
    assert [int(value) for value in json.loads(answer.stdout)[0].values()] == [sent[0]]
