"""Renders the page of all settings from the models.

``python -m lakeward.config.reference > docs/configuration.md``
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lakeward.config.explaining import section_in
from lakeward.config.features import LIMITS
from lakeward.config.models import Config
from lakeward.config.units import format_interval

_OPENING = """\
# Configuration

<!-- Made by `python -m lakeward.config.reference`; edit the descriptions in src/lakeward/config. -->

One YAML file describes one pipeline: a source, a sink and the tables between them. `lakeward init` writes a file to
start from, `lakeward check --offline` finds every mistake in it, with line and nearest known key.

- **Variables.** `${NAME}` is the environment variable NAME, and an error where it is not set; `${NAME:-default}`
  falls back to the default where it is unset or empty; `$${` is a literal `${`. Variables are replaced inside values
  after the YAML was read, so that a value can never add a setting. Where a list or a section is expected, a variable
  that is the whole value is read as YAML: `partition_by: ${PARTITIONS:-[]}`. A setting whose variable is empty counts
  as not written.
- **Durations** are `250ms`, `5s`, `1m`, `2h`, `7d`; a bare number is seconds. **Sizes** are `4096`, `64KiB`,
  `128MiB`, `1GB`.
- **Paths** that are relative start at the folder of the file.
- **Secrets.** Whatever looks like one (passwords, tokens, keys, credentials in URLs) is masked in everything that is
  printed or logged.
- Settings marked **planned** are known and checked, and refused by this version: nothing is ignored silently.
"""


def render(root: type[BaseModel] = Config) -> str:
    """The whole page."""
    parts = [_OPENING]
    for path, section in _sections(root, ()):
        title = ".".join(path).replace(".*", "[]") if path else "The file"
        heading = f"`{title}`" if path else title
        planned = " **Planned.**" if _is_planned(path) else ""
        parts.append(f"## {heading}\n\n{_summary(section)}{planned}\n\n{_table(path, section)}\n")
    return "\n".join(parts)


def _sections(section: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    if section.model_fields:
        yield path, section
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        # A table's own decode and flush are described where the whole pipeline's are.
        if inner is not None and not (path and inner in _top_level()):
            here = (*path, field.alias or name)
            yield from _sections(inner, (*here, "*") if _holds_many(field.annotation) else here)


def _top_level() -> set[Any]:
    return {section_in(field.annotation) for field in Config.model_fields.values()}


def _holds_many(annotation: Any) -> bool:
    return any(
        isinstance(origin := get_origin(part), type) and issubclass(origin, tuple | Mapping)
        for part in (annotation, *get_args(annotation))
    )


def _summary(section: type[BaseModel]) -> str:
    return " ".join((section.__doc__ or "").split("\n\n")[0].split())


def _table(path: tuple[str, ...], section: type[BaseModel]) -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in section.model_fields.items():
        key = field.alias or name
        meaning = f"{field.description}{_choices(field)}{_planned((*path, key))}".replace("|", "\\|")
        lines.append(f"| `{key}` | {_default(field)} | {meaning} |")
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value in ((), {}) or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, timedelta):
        return f"`{format_interval(value)}`"
    return f"`{value}`"


def _choices(field: FieldInfo) -> str:
    """The values to choose from, unless the description has told them."""
    values = [f"`{value}`" for value in _literals(field.annotation)]
    told = all(value in (field.description or "") for value in values)
    return "" if told else f" One of {', '.join(values)}."


def _literals(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in _literals(part)] if get_origin(annotation) else []


def _is_planned(path: tuple[str, ...]) -> bool:
    return any(not limit.refused and limit.path == path[: len(limit.path)] for limit in LIMITS)


def _planned(path: tuple[str, ...]) -> str:
    marks = ""
    for limit in LIMITS:
        if limit.path == path and not limit.refused:
            marks += " **planned**"
        elif limit.path in (path, (*path, "*")):
            marks += f" **planned**: {', '.join(f'`{value}`' for value in limit.refused)}."
    return marks


if __name__ == "__main__":
    sys.stdout.write(render())
