"""What the documentation says is there: links, commands and their options, settings, programs, tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from lakeward.cli import COMMANDS, main
from lakeward.cli.reference import render
from lakeward.config import load_text

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
BASE = {
    "name": "base",
    "source": {"kafka": {"bootstrap_servers": "localhost:9092"}},
    "schema_registry": {"url": "http://localhost:8081"},
    "decode": "avro",
    "sink": {"iceberg": {}},
    "tables": [{"topics": ["t"], "table": "n.t"}],
}
ENVIRONMENT = dict.fromkeys(["S3_ACCESS_KEY", "S3_SECRET_KEY", "KAFKA_USERNAME", "KAFKA_PASSWORD", "PASSWORD"], "x")

pages = pytest.mark.parametrize("page", PAGES, ids=IDS)


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
    return over


@pages
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not re.match(r"https?:|#", target)]
    assert [target for target in local if not (page.parent / target.partition("#")[0]).exists()] == []


@pages
def test_commands_and_their_options_exist(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if "lanned" not in line)  # a planned command is not there yet
    wrong = []
    for name, rest in re.findall(r"(?:`|\$ |^  )lakeward ([a-z][\w-]*)([^`\n]*)", text, re.MULTILINE):
        if name not in COMMANDS:
            wrong.append(f"lakeward {name}")
            continue
        command = main.get_command(click.Context(main), name)
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        params = [parameter for one in (command, *inner) for parameter in one.params]
        known = {option for parameter in params for option in parameter.opts} | {"--help"}
        wrong += [
            f"lakeward {name} {option}" for option in re.findall(r"(?<![\w-])--[a-z-]+", rest) if option not in known
        ]
    assert wrong == []


@pages
def test_configurations_are_valid(page):
    for block in blocks(page, "yaml"):
        document = yaml.safe_load(block)
        whole = document if {"name", "source", "sink", "tables"} <= document.keys() else merged(BASE, document)
        load_text(yaml.safe_dump(whole), f"{page.name}: {block.splitlines()[0]}", ENVIRONMENT, ROOT).require_available()


@pages
def test_programs_parse(page):
    for block in blocks(page, "python"):
        ast.parse(block)


@pages
def test_modules_that_are_run_exist(page):
    text = page.read_text(encoding="utf-8")
    modules = re.findall(r"python -m ((?:lakeward|servers|benchmarks)[\w.]*)", text)
    homes = [(ROOT / ("src" if name.startswith("lakeward") else ""), name.replace(".", "/")) for name in modules]
    assert [n for home, n in homes if not ((home / f"{n}.py").exists() or (home / n / "__main__.py").exists())] == []


@pages
def test_files_and_tests_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`((?:tests|examples|docs|servers)/[\w/.-]+)`", text)
    assert [file for file in files if not (ROOT / file).exists()] == []
    everything = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w{8,})`", text) if f"def {name}(" not in everything] == []


@pages
def test_make_targets_exist(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"(?:`|\$ )make ([a-z]+)", page.read_text(encoding="utf-8"))
    assert [name for name in named if name not in targets] == []


def test_the_first_screen_of_the_readme_has_the_two_commands_and_a_picture():
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:20])
    assert "$ make demo" in first
    assert "$ make test" in first
    assert "![" in first


def test_the_page_of_commands_is_up_to_date():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert page == render(), "run `python -m lakeward.cli.reference > docs/commands.md`"


def test_every_command_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"| `lakeward {name}` |" not in text] == []


def test_every_error_is_in_the_page_about_operating():
    from lakeward import errors  # noqa: PLC0415

    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    root = errors.LakewardError
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, root)]
    rows = dict(re.findall(r"^\| `(\w+Error)` \| (\d) \|", page, re.MULTILINE))
    assert rows == {kind.__name__: str(kind.exit_code) for kind in kinds if kind is not root}
