"""The hash table below the index of keys: a dict says what it must say, however it is split, grown and spilled."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lakeward.keys import Hashes
from lakeward.sinks.iceberg.upsert.index_bulk import Bulk
from lakeward.sinks.iceberg.upsert.index_table import MOST_ORDINALS, SEGMENTS, KeyTable

Pair = tuple[int, int]


def some(count: int, chance: np.random.Generator, *, crowded: bool = False) -> Hashes:
    """Distinct hashes. ``crowded``: of one segment, most of them wanting its last slots, and differing in few bits."""
    if not crowded:
        return chance.integers(0, 2**64, (count, 2), np.uint64)
    tags = np.arange(count, dtype=np.uint64)
    words = np.uint64(2**64 - 1) - tags // np.uint64(5)
    return np.stack((np.uint64(7 << 56) | tags % np.uint64(5), words), axis=1)


def pairs(hashes: Hashes) -> list[Pair]:
    return [(int(a), int(b)) for a, b in hashes]


class Model:
    """A table beside the dict that it stands for."""

    def __init__(self, limit: int, folder: Path | None, room: int = 1 << 16) -> None:
        self.table = KeyTable(limit, folder)
        self.dead = np.zeros(room // 8, np.uint8)
        self.leads: dict[Pair, int] = {}

    def is_dead(self, ordinal: int) -> bool:
        return bool(self.dead[ordinal // 8] >> (ordinal % 8) & 1)

    def kill(self, ordinals: list[int]) -> None:
        for ordinal in ordinals:
            self.dead[ordinal // 8] |= 1 << (ordinal % 8)

    def put(self, hashes: Hashes, ordinals: NDArray[np.int64]) -> None:
        refused = 0
        for pair, ordinal in zip(pairs(hashes), ordinals.tolist(), strict=True):
            held = self.leads.get(pair)
            if self.is_dead(ordinal):
                continue
            if held is not None and held != ordinal and not self.is_dead(held):
                refused += 1
            else:
                self.leads[pair] = ordinal
        assert self.table.put(hashes, ordinals, self.dead) == refused

    def check(self, hashes: Hashes) -> None:
        want = [self.leads.get(pair, -1) for pair in pairs(hashes)]
        want = [-1 if ordinal < 0 or self.is_dead(ordinal) else ordinal for ordinal in want]
        assert self.table.find(hashes, self.dead).tolist() == want


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("limit", [1 << 30, 40_000, 0])
def test_it_says_what_a_dict_says(tmp_path: Path, limit: int, *, crowded: bool) -> None:
    chance = np.random.default_rng(limit + crowded)
    keys = some(3000, chance, crowded=crowded)
    model = Model(limit, tmp_path)
    following = 0
    for _ in range(25):
        chosen = keys[chance.integers(0, len(keys), int(chance.integers(1, 400)))]
        model.kill([model.leads[pair] for pair in pairs(chosen) if pair in model.leads and chance.random() < 0.8])
        model.put(chosen, np.arange(following, following + len(chosen)))
        following += len(chosen)
        model.kill(chance.integers(0, following, 20).tolist())
        model.check(keys)
        model.check(some(100, chance))
    if limit == 0:
        assert model.table.in_memory == 0
    assert bool(model.table.in_files) == (model.table.in_memory + model.table.in_files > limit)
    assert model.table.in_memory <= limit


def test_a_segment_without_a_free_slot_at_its_end_goes_on_at_its_beginning() -> None:
    model = Model(1 << 30, None)
    keys = some(20, np.random.default_rng(1), crowded=True)
    model.put(keys, np.arange(20))
    model.check(keys)


def test_a_row_is_its_keys_however_often_it_is_said() -> None:
    model = Model(1 << 30, None)
    keys = some(500, np.random.default_rng(2))
    for _ in range(3):
        model.put(keys, np.arange(500))
    model.check(keys)


def test_hashes_that_differ_in_one_bit_are_different_keys() -> None:
    for bit in (0, 27, 64, 95, 96, 127, 56, 63):  # all bits that an entry, or its segment, is told by
        one = np.array([[5, 9]], np.uint64)
        other = one.copy()
        other[0, bit // 64] ^= np.uint64(1 << bit % 64)
        model = Model(1 << 30, None)
        model.put(one, np.array([3]))
        model.check(other)
        model.put(other, np.array([4]))
        model.check(np.concatenate((one, other)))


def test_ordinals_may_be_large(tmp_path: Path) -> None:
    with (tmp_path / "bits").open("wb+") as file:
        file.truncate(MOST_ORDINALS // 8 + 1)  # a hole: it takes no room
        dead = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)
    table, keys = KeyTable(1 << 30, None), some(10, np.random.default_rng(3))
    largest = np.arange(MOST_ORDINALS - 10, MOST_ORDINALS)
    assert table.put(keys, largest, dead) == 0
    assert table.find(keys, dead).tolist() == largest.tolist()


def test_room_that_was_reserved_is_not_grown() -> None:
    table, dead, rows = KeyTable(1 << 30, None), np.zeros(200_000, np.uint8), 1_000_000
    table.reserve(rows, dead)
    room = table.in_memory
    table.put(some(rows, np.random.default_rng(4)), np.arange(rows), dead)
    assert table.in_memory == room < rows * 24


def test_stale_entries_are_dropped_when_there_is_no_room_left() -> None:
    model = Model(1 << 30, None, room=1 << 20)
    chance = np.random.default_rng(5)
    for start in range(0, 200_000, 10_000):  # ten thousand keys at a time, others each time
        model.kill(range(max(0, start - 10_000), start))
        model.leads = {}
        model.put(some(10_000, chance), np.arange(start, start + 10_000))
    assert model.table.in_memory < 10_000 * 16 * 8


@pytest.mark.parametrize("limit", [100_000, 0])
def test_keys_that_are_sorted_on_disk_first_are_put_in_as_any_others(tmp_path: Path, limit: int) -> None:
    chance = np.random.default_rng(limit)
    keys = some(9000, chance)
    model = Model(1 << 30, None)
    model.kill(chance.integers(0, 12_000, 3000).tolist())
    table, twice = KeyTable(limit, tmp_path), 0
    with Bulk(table, tmp_path) as bulk:
        for start, first in ((0, 0), (3000, 4000), (5000, 8000)):
            chosen, rows = keys[start : start + 4000], np.arange(first, first + 4000)
            bulk.add(chosen, rows)
            living = len(model.leads)
            refused = len(rows) - sum(map(model.is_dead, rows.tolist()))
            model.leads |= {
                pair: row
                for pair, row in zip(pairs(chosen), rows.tolist(), strict=True)
                if pair not in model.leads and not model.is_dead(row)
            }
            twice += refused - (len(model.leads) - living)
        assert bulk.settle(model.dead) == twice > 0
    model.table = table
    model.check(keys)
    assert table.in_memory <= limit
    assert list(tmp_path.iterdir()) == []
    model.put(some(500, chance), np.arange(20_000, 20_500))


def test_rows_are_renumbered(tmp_path: Path) -> None:
    for limit in (1 << 30, 0):
        model = Model(limit, tmp_path)
        keys = some(3000, np.random.default_rng(6))
        model.put(keys, np.arange(8, 3008))
        model.kill([*range(1000, 2000)])
        model.table.renumber(model.dead, np.array([0, 2000]), np.array([80, 1080]))
        model.leads = {
            pair: ordinal + 80 if ordinal < 1000 else ordinal - 920
            for pair, ordinal in model.leads.items()
            if not model.is_dead(ordinal)
        }
        model.dead[:] = 0
        model.check(keys)


def test_files_have_no_name_and_go_with_the_table(tmp_path: Path) -> None:
    table, dead = KeyTable(0, tmp_path), np.zeros(1000, np.uint8)
    table.put(some(8000, np.random.default_rng(7)), np.arange(8000), dead)
    assert table.in_files > 8000 * 16
    assert list(tmp_path.iterdir()) == []
    maps = Path("/proc/self/maps").read_text()
    assert maps.count(f"{tmp_path}/") == SEGMENTS
    table.clear()
    assert f"{tmp_path}/" not in Path("/proc/self/maps").read_text()


def test_a_full_disk_is_an_error_that_can_be_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    table, dead = KeyTable(0, tmp_path), np.zeros(1000, np.uint8)
    keys = some(100, np.random.default_rng(8))
    table.put(keys, np.arange(100), dead)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        table.put(some(8000, np.random.default_rng(9)), np.arange(8000), dead)
