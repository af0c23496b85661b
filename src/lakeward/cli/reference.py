"""Renders the page of all commands from their own help.

``python -m lakeward.cli.reference > docs/commands.md``
"""

from __future__ import annotations

import sys

import click

from lakeward.cli import COMMANDS, main

_WIDTH = 100
_OPENING = """\
# Commands

<!-- Made by `python -m lakeward.cli.reference`; edit the texts in src/lakeward/cli. -->

FILE is `lakeward.yaml` in the current folder where it is left out. Every command takes `--json`. Exit codes: 0 fine, 1
something is wrong, 2 usage or configuration, 3 a server is unreachable, 4 a person must decide;
[operating.md](operating.md) says what to do about each.
"""


def render() -> str:
    """The whole page, Markdown."""
    parts = [_OPENING]
    root = click.Context(main, info_name="lakeward", help_option_names=["-h", "--help"])
    for name in COMMANDS:
        command = main.get_command(root, name)
        if command is not None:
            parts.append(_section(command, root, name, "##"))
    return "".join(parts)


def _section(command: click.Command, parent: click.Context, name: str, heading: str) -> str:
    context = click.Context(command, parent, name, terminal_width=_WIDTH, max_content_width=_WIDTH)
    inner = command.commands.items() if isinstance(command, click.Group) else ()
    text = f"\n{heading} `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n"
    return text + "".join(_section(sub, context, name, heading + "#") for name, sub in inner)


if __name__ == "__main__":
    sys.stdout.write(render())
