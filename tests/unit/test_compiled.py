"""Compiled functions work also where their code cannot be kept."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core.caching import CacheImpl

from lakeward.compiled import compiled, read_only


def test_a_function_is_compiled_where_no_folder_takes_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])

    def twice(number: int) -> int:
        return number * 2

    assert compiled(twice)(21) == 42


def test_arrays_look_alike_wherever_they_come_from() -> None:
    writable, strided = np.arange(6), np.arange(12)[::2]
    for one in (writable, strided, np.frombuffer(bytes(48), np.int64)):
        seen = read_only(one)
        assert seen.flags.c_contiguous
        assert not seen.flags.writeable
    assert writable.flags.writeable
