"""The repository's own rules: who may import whom, how long files are, which calls are not made."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "lakeward"
MODULES = sorted(PACKAGE.rglob("*.py"))
WRITTEN = sorted(
    file
    for folder in ("src", "tests", "servers", "benchmarks", "examples", "docs")
    for file in (ROOT / folder).rglob("*.py")
)
MOST_LINES = 500
MOST_LINES_OF_TESTS = 900
"""A suite may list the cases of one rule after the other."""

VOCABULARY = {
    "changes",
    "collapse",
    "compiled",
    "gaps",
    "keys",
    "admission",
    "errors",
    "clock",
    "positions",
    "records",
    "ledger",
    "letters",
    "moves",
    "outcomes",
    "layout",
    "stages",
}
LEAVES = {
    "column_selection",
    "sequence_watch",
    "sequences",
    "admitting",
    "joining",
    "keying",
    "lanes",
    "starts",
    "batching",
    "dead_letters",
    "routing",
    "retrying",
    "metadata_columns",
    "pipeline",
    "scheduling",
    "seeking",
    "watching",
}
STAGES = {"sources", "decoding", "sinks"}
READERS = {"engine", "verification"}
TOP = {"assembly", "table", "cli", "demo", "testing", "__init__", "__main__"}
OBSERVING = {"observability"}

MAY_IMPORT = {
    **dict.fromkeys(VOCABULARY, VOCABULARY),
    **dict.fromkeys(OBSERVING, VOCABULARY | OBSERVING),
    **dict.fromkeys(LEAVES, VOCABULARY | OBSERVING | LEAVES),
    "sources": VOCABULARY | {"sources"},
    "decoding": VOCABULARY | {"decoding", "retrying"},
    "sinks": VOCABULARY | {"sinks"},
    "config": VOCABULARY | {"config", "decoding"},  # the decoders know which types there are
    "engine": VOCABULARY | {"engine"},
    "verification": VOCABULARY | LEAVES | STAGES | READERS | {"assembly", "config", "decoders"},
    "decoders": VOCABULARY | LEAVES | STAGES | {"config"},
    "assembly": VOCABULARY | OBSERVING | LEAVES | STAGES | {"config", "decoders"},
    "table": VOCABULARY | STAGES | {"config", "assembly"},
    "testing": VOCABULARY | STAGES | LEAVES | {"engine", "testing", "config"},
    "demo": VOCABULARY | STAGES | READERS | {"assembly", "config", "demo", "testing"},
    "cli": VOCABULARY | OBSERVING | LEAVES | STAGES | READERS | TOP | {"config"},
    "__main__": {"cli"},
    "__init__": VOCABULARY | {"table"},
}
"""Part of the package (module or folder): the parts that it may import."""

HOMES = {
    "pyiceberg": ("sinks/", "engine.py", "assembly.py", "verification/", "testing/", "cli/probes.py"),
    "confluent_kafka": ("sources/", "testing/", "demo/", "cli/probes.py"),
    "duckdb": ("engine.py", "verification/", "testing/"),
    "rich": ("cli/",),
    "click": ("cli/",),
}
"""Library: where it may be imported."""

CALLS = {
    "time.time": ("clock.py",),
    "time.time_ns": ("clock.py",),
    "datetime.now": ("cli/", "testing/"),
    "datetime.utcnow": (),
    "os.environ": ("cli/", "testing/", "table.py", "decoding/code_cache.py"),
    "os.getenv": (),
    "print": ("testing/",),
    "time.sleep": (),
}
"""Call or attribute that a stage would hide an input or an effect with: where it may be."""


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    """What ``module`` imports, by dotted name; what only a type checker reads is left out."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "lakeward":
                yield from (f"lakeward.{alias.name}" for alias in node.names)
            else:
                yield node.module


def allowed(module: Path, homes: tuple[str, ...]) -> bool:
    return name_of(module).startswith(homes) if homes else False


def test_imports_point_one_way():
    parts = {part_of(module) for module in MODULES}
    assert parts - MAY_IMPORT.keys() == set(), "say in MAY_IMPORT what these may import"
    wrong = [
        f"{name_of(module)} imports {name}"
        for module in MODULES
        for name in imports(module)
        if name.startswith("lakeward.") and (target := name.split(".")[1]) in parts
        if target not in MAY_IMPORT[part_of(module)]
    ]
    assert wrong == []


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_named_only_where_it_belongs(library):
    assert [
        name_of(module)
        for module in MODULES
        if any(name.split(".")[0] == library for name in imports(module)) and not allowed(module, HOMES[library])
    ] == []


def test_files_are_short():
    sizes = {file.relative_to(ROOT).as_posix(): len(file.read_text("utf-8").splitlines()) for file in WRITTEN}
    most = {name: MOST_LINES_OF_TESTS if name.startswith("tests/") else MOST_LINES for name in sizes}
    assert {name: size for name, size in sizes.items() if size > most[name]} == {}


@pytest.mark.parametrize("call", CALLS)
def test_clocks_environments_and_the_terminal_come_in_by_argument(call):
    wrong = [
        f"{name_of(module)}:{node.lineno}"
        for module in MODULES
        if not allowed(module, CALLS[call])
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) == call
    ]
    assert wrong == []


def test_every_module_says_what_it_is_for():
    assert [name_of(m) for m in MODULES if not ast.get_docstring(ast.parse(m.read_text(encoding="utf-8")))] == []


def test_the_check_of_imports_sees_what_it_looks_for(tmp_path):
    module = tmp_path / "m.py"
    module.write_text(
        "from __future__ import annotations\nimport pyiceberg.table\nfrom lakeward import engine\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import duckdb\n"
    )
    assert set(imports(module)) == {"__future__", "pyiceberg.table", "lakeward.engine", "typing"}
