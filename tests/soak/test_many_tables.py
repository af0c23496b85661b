"""Two hundred topics into two hundred tables in one process that is killed in the middle, again and again."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from tests.e2e.many import Shops
from tests.e2e.rig import CommandLine

from lakeward.testing.broker import EmbeddedBroker

NAMES = [f"s{number:03d}" for number in range(200)]
HOT, SLOW = NAMES[:5], NAMES[5:150]

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.mark.parametrize("seed", range(3))
def test_two_hundred_tables_are_exact_after_kills_while_a_few_are_busy(
    command_line: CommandLine, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    with EmbeddedBroker() as broker:
        shops = Shops(broker, command_line, tmp_path, interval="1s")
        shops.open(*NAMES)
        for name in NAMES:
            shops.sell(name, 20)
        for kill in range(6):
            killed = shops.site.start("run", env={"GROUP": f"group-{kill}"})
            killed.until_event("committed")
            deadline = time.monotonic() + chance.uniform(0.0, 8.0)
            while time.monotonic() < deadline:
                time.sleep(0.05)  # the embedded broker keeps no more than 5 MiB of a topic
                for name in HOT:
                    shops.sell(name, 100)
                for name in chance.sample(SLOW, 10):
                    shops.sell(name, 1)
            assert killed.kill().code == -9
        assert shops.site.start("run", "--until-caught-up").wait(300).code == 0
        shops.assert_exact()
        assert shops.site.start("verify").wait(300).code == 0
