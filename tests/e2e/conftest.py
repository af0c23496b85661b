"""The command line against the embedded broker and registry: no servers needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.fixtures import command_line, shared_command_line

from lakeward.testing.broker import EmbeddedBroker
from lakeward.testing.registry import EmbeddedRegistry

__all__ = ["command_line", "shared_command_line"]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        yield running


@pytest.fixture
def registry() -> Iterator[EmbeddedRegistry]:
    with EmbeddedRegistry() as running:
        yield running
