"""From a file, a text or a mapping to a checked configuration, or to all of its mistakes at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lakeward.config.consistency import inconsistencies
from lakeward.config.document import read
from lakeward.config.explaining import problems_of
from lakeward.config.models import Config
from lakeward.config.problems import KeyPath, Origin, Problem
from lakeward.errors import ConfigurationError


def load(path: Path | str, env: Mapping[str, str]) -> Config:
    """Read the file at ``path``, replacing ``${VARIABLE}`` by what ``env`` holds.

    Reads nothing else and asks no server. Settings that this version cannot run are accepted here; see
    `Config.require_available`.

    Raises:
        ConfigurationError: the file cannot be read, or has mistakes: one line each, sorted by line,
            ``file:line: key.path: what is wrong``.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        write = "`lakeward init`" if path == Path("lakeward.yaml") else f"`lakeward init {path}`"
        raise ConfigurationError(
            f"there is no {path} here", f"{write} writes one to start from; or name another file."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text", "Save it as UTF-8.") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    return load_text(text, str(path), env, path.absolute().parent)


def load_text(text: str, name: str, env: Mapping[str, str], folder: Path) -> Config:
    """As `load`, for a text; ``name`` stands for the file in errors, relative paths start at ``folder``.

    Raises:
        ConfigurationError: as `load`.
    """
    document = read(text, env)
    origin = Origin(name, folder, document.lines)
    if document.data is None and document.problems:
        raise origin.failure(document.problems)
    return _build(document.data, origin, document.problems, document.unset)


def from_mapping(data: Mapping[str, Any], folder: Path | None = None) -> Config:
    """Build a configuration from plain data: the same keys and checks as in a file, but no variables.

    Args:
        data: what the file would hold, as dicts, lists and scalars.
        folder: where relative paths start; the current folder if None.

    Raises:
        ConfigurationError: the mistakes, one line each.
    """
    return _build(data, Origin(folder=folder or Path()), (), ())


def _build(data: Any, origin: Origin, problems: Iterable[Problem], unset: Iterable[KeyPath]) -> Config:
    found = list(problems)
    without = {path[:length] for path in unset for length in range(1, len(path) + 1)}
    config = None
    try:
        config = Config.model_validate(data, context=origin)
    except ValidationError as error:
        found += (problem for problem in problems_of(error, Config) if problem.path not in without)
    if isinstance(data, Mapping):
        found += (problem for problem in inconsistencies(data) if problem.path not in without)
    if found or config is None:
        # Not "from error": pydantic's own text shows values.
        raise origin.failure(found) from None
    return config
