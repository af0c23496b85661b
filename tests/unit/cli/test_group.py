from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from lakeward.cli import COMMANDS, LazyGroup, main
from lakeward.cli.output import json_option
from lakeward.errors import OperatorError, UnreachableError

PRESENT = [name for name, (module, _) in COMMANDS.items() if importlib.util.find_spec(module)]


def run(*args):
    return CliRunner().invoke(main, args)


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in result.output] == []


def test_help_imports_no_command_and_nothing_heavy():
    code = (
        "import sys\nfrom lakeward.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('pydantic', 'yaml', 'pyarrow', 'numpy', 'numba', 'pyiceberg', 'duckdb', 'confluent_kafka', 'rich')"
        " or name.startswith('lakeward.cli.') and name != 'lakeward.cli.output'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", PRESENT)
def test_a_command_is_what_the_table_says(name):
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, click.Command)
    assert command.help


@pytest.mark.parametrize("name", PRESENT)
def test_every_command_takes_json(name):
    command = main.get_command(click.Context(main), name)
    for one in command.commands.values() if isinstance(command, click.Group) else [command]:
        assert "--json" in [option for parameter in one.params for option in parameter.opts], one.name


def test_an_unknown_command_gets_the_nearest_one():
    result = run("chekc")
    assert result.exit_code == 2
    assert 'no command "chekc"; did you mean "check"?' in result.output


def test_the_version_is_told():
    assert run("--version").output == f"lakeward {importlib.metadata.version('lakeward')}\n"


@pytest.mark.parametrize(
    ("error", "code"), [(UnreachableError("x is gone", "start it"), 3), (OperatorError("y changed", "decide"), 4)]
)
def test_an_error_decides_the_exit_code_and_says_the_way_out(error, code):
    @click.command
    @json_option
    def command(*, as_json):
        raise error

    group = LazyGroup("test")
    group.get_command = lambda *_: command
    text = CliRunner().invoke(group, ["check"])
    assert (text.exit_code, text.stdout, text.stderr) == (code, "", f"error: {error.what}\n  {error.way_out}\n")
    document = CliRunner().invoke(group, ["check", "--json"])
    assert (document.exit_code, document.stderr) == (code, "")
    assert json.loads(document.stdout)["error"] == {
        "kind": type(error).__name__,
        "what": error.what,
        "way_out": error.way_out,
        "exit_code": code,
    }
