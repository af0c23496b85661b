"""What tests of the command line stand on; the real servers' tests use it too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.rig import CommandLine


@pytest.fixture(scope="session")
def shared_command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    line = CommandLine(tmp_path_factory.mktemp("commands"))
    yield line
    line.close()


@pytest.fixture
def command_line(shared_command_line: CommandLine) -> Iterator[CommandLine]:
    """Starts commands; what still runs when the test ends is killed."""
    yield shared_command_line
    shared_command_line.end_all()
