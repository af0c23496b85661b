"""Many more random histories of tables whose keys are followed than the default run has time for."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.property.test_key_index import tell

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("seed", range(100, 250))
def test_an_index_that_follows_is_one_built_from_nothing(seed: int, tmp_path: Path) -> None:
    tell(seed, tmp_path, steps=50)
