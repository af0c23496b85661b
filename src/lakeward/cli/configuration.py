"""The FILE that most commands take."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lakeward.config import Config

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_FILE = "lakeward.yaml"


def file_argument(command: F) -> F:
    """Give a command FILE, ``lakeward.yaml`` where it is left out; it arrives as ``file``, a `Path`."""
    return click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_FILE, metavar="[FILE]")(command)


def read(file: Path) -> Config:
    """The configuration in ``file``, with the variables of this process; only what this version can run.

    Raises:
        ConfigurationError: the file is missing, has mistakes, or asks for what is not available.
    """
    from lakeward.config import load  # noqa: PLC0415 - the help does without

    config = load(file, os.environ)
    config.require_available()
    return config
