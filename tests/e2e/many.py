"""Many topics with orders of their own, each into a table of its own name, and what was sent to each."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from tests.e2e.rig import CommandLine, Site, configuration

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.lake import rows_of
from lakeward.testing.producing import produce, producer_of

FIELDS = {"id": "long", "price": "decimal(18,6)", "shop": "string"}


class Shops:
    """The topics ``shop.NAME`` with one or two partitions feed the tables ``shops.NAME``."""

    def __init__(self, broker: EmbeddedBroker, commands: CommandLine, folder: Any, interval: str = "150ms") -> None:
        table = {"topic_pattern": r"shop\.(?P<name>\w+)", "table": "shops.{name}"}
        document = configuration(broker.bootstrap_servers, None, [table], interval=interval)
        document["source"]["kafka"]["group_id"] = "${GROUP:-shops}"  # killed members of a group would be waited for
        self.site = Site(folder, commands, {**document, "decode": {"json": {"fields": FIELDS}}})
        self.sent: dict[str, Counter[int]] = {}
        self._broker = broker
        self._producer = producer_of(broker.bootstrap_servers, {"linger.ms": 2, "log_level": 0})
        self._partitions: dict[str, int] = {}
        self._ids = itertools.count()

    def open(self, *names: str) -> None:
        """Make the topic of each shop."""
        for name in names:
            self._partitions[name] = 1 + len(self._partitions) % 2
            self.sent[name] = Counter()
            self._broker.create(f"shop.{name}", self._partitions[name])

    def sell(self, name: str, count: int) -> None:
        """Send ``count`` orders to the topic of one shop."""
        ids = list(itertools.islice(self._ids, count))
        values = [f'{{"id": {i}, "shop": "{name}", "price": "{i % 97}.25"}}'.encode() for i in ids]
        produce(self._producer, f"shop.{name}", values, homes=[i % self._partitions[name] for i in ids])
        self.sent[name].update(ids)

    def held(self, name: str) -> Counter[int]:
        """The ids in a shop's table, read by DuckDB; none where there is no table."""
        catalog = self.site.catalog()
        if not catalog.table_exists(f"shops.{name}"):
            return Counter()
        rows = rows_of(catalog.load_table(f"shops.{name}"))
        assert all(shop == name for _, _, shop in rows)
        return Counter({id_: count for (id_, _, _), count in rows.items()})

    def assert_exact(self) -> None:
        """Each table holds what was sent to its topic, and its ledger has no hole."""
        wrong = [name for name, sent in self.sent.items() if self.held(name) != sent]
        assert wrong == []
        assert {name: broken for name in self.sent if (broken := self.site.breaks(f"shops.{name}"))} == {}
