"""Whatever is committed between two looks, an index that follows says what one that was built from nothing says."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table
from pyiceberg.transforms import BucketTransform, IdentityTransform
from tests.property.row_deltas import (
    ORDERS,
    alive,
    check,
    commit,
    delete_files,
    deleting,
    row_delta,
    set_head,
)

from lakeward.sinks.iceberg.upsert.index import KeyIndex

KEYS = 120


class History:
    """One table, an index that follows our own commits and looks now and then, and a rival's."""

    def __init__(self, table: Table, chance: random.Random, folder: Path) -> None:
        self.table, self.chance = table, chance
        self.index = KeyIndex(("id",), chance.choice([1 << 30, 20_000, 0]), folder)
        self.rivals = KeyIndex(("id",))
        self.wrong: set[int | None] = set()
        """Snapshots in which a key is there twice."""
        self.steps: list[Callable[[], object]] = [
            self.ours,
            self.ours,
            self.ours,
            self.theirs,
            self.foreign_deletes,
            self.foreign_copies,
            self.rewrite,
            self.undelete,
            self.go_back,
            self.another_spec,
            self.expire,
        ]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.chance.choice(self.steps)()
            if self.chance.random() < 0.5:
                self.index.advance(self.table)
                check(self.index, self.table, others=range(KEYS))
        fresh = KeyIndex(("id",))
        for index in (self.index, fresh):
            index.advance(self.table)
            check(index, self.table, others=range(KEYS))

    def ours(self) -> None:
        commit(self.index, self.table, self._some(25), self._some(0), self.chance.randrange(2))
        check(self.index, self.table, others=range(KEYS))

    def theirs(self) -> None:
        commit(self.rivals, self.table, self._some(10), self._some(0))

    def foreign_deletes(self) -> None:
        held, _ = alive(self.table, (2,))
        places = self.chance.sample(sorted(held.values()), min(len(held), 6))
        files = {task.file.file_path: task.file for task in self.table.scan().plan_files()}
        by_place: dict[object, dict[str, list[int]]] = {}
        for path, position in places:
            file = files[path]
            by_place.setdefault((file.spec_id, repr(file.partition)), {}).setdefault(path, []).append(position)
        told = self.chance.random() < 0.5
        row_delta(
            self.table, [], [deleting(self.table, one, files[next(iter(one))], told=told) for one in by_place.values()]
        )

    def foreign_copies(self) -> None:
        low = self.chance.randrange(KEYS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there may be none
            self.table.delete(f"id >= {low} and id < {low + 15}")

    def rewrite(self) -> None:
        if alive(self.table, (2,))[0]:
            self.table.overwrite(self.table.scan().to_arrow())

    def undelete(self) -> None:
        """Rows whose key is there again would be there twice: only a newest commit's can be brought back."""
        snapshot = self.table.current_snapshot()
        files = delete_files(self.table)
        if snapshot is None or not files:
            return
        path = self.chance.choice(files).file_path
        row_delta(self.table, dropped=[path])
        try:
            alive(self.table, (2,))
        except AssertionError:
            self.wrong.add(self.table.metadata.current_snapshot_id)
            set_head(self.table, snapshot.snapshot_id)

    def go_back(self) -> None:
        snapshots = [one.snapshot_id for one in self.table.metadata.snapshots if one.snapshot_id not in self.wrong]
        if snapshots:
            set_head(self.table, self.chance.choice(snapshots[-6:]))

    def another_spec(self) -> None:
        with self.table.update_spec() as change:
            if self.table.spec().is_unpartitioned():
                if self.chance.random() < 0.5:
                    change.add_field("part", IdentityTransform(), "part")
                else:
                    change.add_field("id", BucketTransform(2), "bucket")
            else:
                change.remove_field(self.table.spec().fields[0].name)

    def expire(self) -> None:
        head = self.table.metadata.current_snapshot_id
        old = [one.snapshot_id for one in self.table.metadata.snapshots if one.snapshot_id != head]
        for snapshot in old[: len(old) // 2]:
            self.table.maintenance.expire_snapshots().by_id(snapshot).commit()
        self.table.refresh()

    def _some(self, least: int) -> list[int]:
        return self.chance.sample(range(KEYS), least + self.chance.randrange(15))


def tell(seed: int, folder: Path, steps: int) -> None:
    catalog = SqlCatalog("test", uri=f"sqlite:///{folder}/catalog.db", warehouse=str(folder))
    catalog.create_namespace("shop")
    table = catalog.create_table("shop.orders", ORDERS, properties={"format-version": "2"})
    History(table, random.Random(seed), folder).run(steps)
    catalog.close()


@pytest.mark.parametrize("seed", range(4))
def test_an_index_that_follows_is_one_built_from_nothing(seed: int, tmp_path: Path) -> None:
    tell(seed, tmp_path, steps=20)
