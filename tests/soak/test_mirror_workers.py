"""Three workers mirror one keyed topic on a real Kafka, while they are killed and stopped."""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time
from pathlib import Path

import pytest
from servers.kafka import Kafka
from tests.e2e.fixtures import command_line, shared_command_line
from tests.e2e.rig import CommandLine, Site, configuration
from tests.e2e.test_upserts import COMPANIES, KeyedTopic, mirrored

from lakeward.testing.waiting import joined

__all__ = ["command_line", "shared_command_line"]

MINUTES = float(os.environ.get("LAKEWARD_SOAK_MINUTES", "3"))
WORKERS, PARTITIONS, KEYS = 3, 6, 5_000

pytestmark = [pytest.mark.soak, pytest.mark.servers, pytest.mark.timeout(300 + MINUTES * 120)]


def test_a_mirror_is_exact_while_its_three_workers_are_killed_and_stopped(
    kafka: Kafka, fresh_topic: str, command_line: CommandLine, tmp_path: Path
) -> None:
    topic = kafka.create_topic(fresh_topic, PARTITIONS)
    seed = secrets.randbits(32)
    print("seed", seed)  # noqa: T201 - to replay a failure
    chance = random.Random(seed)
    companies = KeyedTopic(kafka.bootstrap_servers, topic, PARTITIONS, seed)
    document = configuration(kafka.bootstrap_servers, None, [{**COMPANIES, "topics": [topic]}], interval="300ms")
    document["source"]["kafka"]["group_id"] = topic
    site = Site(tmp_path, command_line, document)
    stop = threading.Event()

    def change() -> None:
        while not stop.wait(0.05):
            companies.change(200, KEYS)

    parent = site.start("run", "--workers", str(WORKERS))
    producing = threading.Thread(target=change, daemon=True)
    producing.start()
    kills = 0
    try:
        until = time.monotonic() + MINUTES * 60
        while time.monotonic() < until:
            before = len(parent.events("committed"))
            parent.until(lambda before=before: len(parent.events("committed")) >= before + 3, "commits", 120)
            children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            victim = int(chance.choice(children))
            if kills % 4 == 3:  # a zombie: it wakes up after its partitions have moved
                os.kill(victim, signal.SIGSTOP)
                time.sleep(2.0)
                os.kill(victim, signal.SIGCONT)
            else:
                os.kill(victim, signal.SIGKILL)
            kills += 1
            time.sleep(chance.uniform(0.0, 2.0))
    finally:
        stop.set()
        joined(producing, "the sender", 120)
        parent.signal(signal.SIGTERM)
        parent.wait(120)
    site.catch_up()
    assert mirrored(site) == companies.rows
    assert kills >= 5
    ended = site.run("verify", "--against-source")
    assert ended.code == 0, ended.out + ended.err
