"""A YAML text as plain data, with the line of every key and every variable replaced.

Scalars follow YAML 1.2: ``yes``, ``on`` and ``0123`` are texts, and a number can be turned back into what was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from lakeward.config.environment import expand
from lakeward.config.problems import KeyPath, Problem

_MAX_NODES = 100_000
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}
_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE, _FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


class WrittenFloat(float):
    """A number that remembers how it was written, for settings that are handed on as text."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """Make one from what was written."""
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Document:
    """``data``: mappings, lists and scalars. ``unset``: paths whose value is missing because a variable is."""

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unset: set[KeyPath] = field(default_factory=set)


def read(text: str, env: Mapping[str, str]) -> Document:
    """Parse ``text`` and replace variables by what ``env`` holds. Mistakes are collected, never raised."""
    document = Document()
    try:
        node = _compose(text)
        if node is None:
            document.problems.append(Problem((), "the file is empty; `lakeward init` writes one to start from", 1))
        else:
            document.data = _Builder(document, env).build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        document.problems.append(Problem((), f"this is not YAML: {what}", mark.line + 1 if mark else 1))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.problems.append(Problem((), f"this is not YAML: {error.reason}", line))
    except (_TooLargeError, RecursionError):
        document.problems.append(Problem((), "the file is nested too deeply or repeats itself too often", 1))
    return document


def flow(text: str) -> Any:
    """Read a variable's value as a YAML list or mapping; nothing in it is replaced again.

    Raises:
        ValueError: it is not one. The message does not show the value.
    """
    document = Document()
    try:
        node = _compose(text)
        data = None if node is None else _Builder(document, None).build(node, ())
    except (yaml.YAMLError, _TooLargeError, RecursionError):
        data = None
    if document.problems or not isinstance(data, list | dict):
        raise ValueError("is not a list or a section; in a variable write [a, b] or {a: 1}")
    return data


def plain(text: str) -> Any:
    """What an unquoted scalar stands for: None, a bool, a number or the text."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return WrittenFloat(text) if _FLOAT.fullmatch(text) else text


class _TooLargeError(Exception):
    """Aliases expand to more than any configuration needs."""


def _compose(text: str) -> Node | None:
    loader = yaml.BaseLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _Builder:
    """Turns nodes into data. ``env`` None: variables stay as they are."""

    def __init__(self, document: Document, env: Mapping[str, str] | None) -> None:
        self._document = document
        self._env = env
        self._nodes = 0

    def build(self, node: Node, path: KeyPath) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise _TooLargeError
        line = node.start_mark.line + 1
        self._document.lines.setdefault(path, line)
        if node.tag not in _TAGS:
            self._document.problems.append(Problem(path, f"the tag {node.tag} is not read here", line))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(cast("ScalarNode", node), path)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                self._document.problems.append(Problem(path, "a key must be a single word or text", line))
                continue
            inner = (*path, key.value)
            if key.value in data:
                first = self._document.lines[inner]
                message = f"this key is here twice, first in line {first}"
                self._document.problems.append(Problem(inner, message, line))
                continue
            self._document.lines[inner] = line
            data[key.value] = self.build(value, inner)
        return data

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        text: str = node.value
        if self._env is None or "${" not in text:
            return plain(text) if node.style is None else text
        expansion = expand(text, self._env)
        if expansion.problems:
            self._document.unset.add(path)
            self._document.problems += (Problem(path, message) for message in expansion.problems)
            return None
        return expansion.text
