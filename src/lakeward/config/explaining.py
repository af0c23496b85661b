"""From pydantic's errors to sentences for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lakeward.config.problems import KeyPath, Problem
from lakeward.config.sections import keys
from lakeward.config.suggestions import hint, nearest

_SENTENCES = {
    "missing": "is required",
    "string_type": "must be a text; put it in quotes",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a section: keys with values",
    "mapping_type": "must be a section: keys with values",
    "model_type": "must be a section: keys with values",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}
_BOUNDS = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}
_PREFIX = "Value error, "


def problems_of(error: ValidationError, root: type[BaseModel]) -> Iterator[Problem]:
    """One problem for each of pydantic's errors. Values are shown only where the known ones are few."""
    details = error.errors(include_url=False)
    misspelt = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            *parent, key = detail["loc"]
            known = _keys_at(root, tuple(parent))
            misspelt.add((*parent, nearest(str(key), known)))
            yield Problem(detail["loc"], f"unknown key{hint(str(key), known)}")
    around = {detail["loc"][:length] for detail in details for length in range(len(detail["loc"]))}
    for detail in details:
        kind, path = detail["type"], detail["loc"]
        # A misspelt key was reported just above; a list whose items are wrong counts as too short.
        if kind == "extra_forbidden" or (kind == "missing" and path in misspelt):
            continue
        if kind == "too_short" and path in around:
            continue
        yield Problem(path, _sentence(detail))


def _sentence(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return detail["msg"].removeprefix(_PREFIX)
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        given = detail["input"]
        if not isinstance(given, str):
            return f"must be one of {', '.join(known)}"
        return f'unknown value "{given}"{hint(given, known)}'
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]}"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters"
    return _SENTENCES.get(kind, detail["msg"])


def _keys_at(root: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that the section at ``path`` knows."""
    at: Any = root
    for part in path:
        section = section_in(at)
        if section is not None and part in keys(section):
            at = section.model_fields[keys(section)[str(part)]].annotation
    section = section_in(at)
    return list(keys(section)) if section else []


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a setting of this type holds, alone or several of them; None for anything else."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    inner = get_args(annotation)
    if isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation), Mapping):
        inner = inner[1:]
    return next((found for found in map(section_in, inner) if found), None)
