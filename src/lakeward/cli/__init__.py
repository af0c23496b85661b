"""The command line: a table of commands, each in a file of its own that is imported only when it is called."""

from __future__ import annotations

import importlib

import click

from lakeward.cli.output import print_error, wants_json
from lakeward.errors import LakewardError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("lakeward.cli.demo", "Stream market data into a local table, kill the writer, verify: no servers needed."),
    "init": ("lakeward.cli.init", "Write a commented configuration to start from."),
    "check": ("lakeward.cli.check", "Check the configuration, then every server it names."),
    "run": ("lakeward.cli.run", "Run the pipeline until it is stopped."),
    "consume": ("lakeward.cli.consume", "Stream one topic into a table, without a configuration file."),
    "status": ("lakeward.cli.status", "Show rows, positions, lag and the last commit of each table."),
    "history": ("lakeward.cli.history", "Show a table's commits: who, when, from where to where, how much."),
    "rollback": ("lakeward.cli.rollback", "Take a table back to an older snapshot, and its stream with it."),
    "maintain": ("lakeward.cli.maintain", "Merge small files, expire snapshots, find orphan files."),
    "seek": ("lakeward.cli.seek", "Move the positions from which a table continues."),
    "dead-letters": ("lakeward.cli.dead_letters", "List, show and bring back the records that could not be written."),
    "query": ("lakeward.cli.query", "Read the tables with SQL."),
    "verify": ("lakeward.cli.verify", "Audit that the tables hold exactly what the stream said."),
}
"""Name of each command: the module that holds it as ``command``, and its line in the help."""


class LazyGroup(click.Group):
    """Shows help without importing a command, and turns our errors into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from lakeward.config.suggestions import hint  # noqa: PLC0415 - only this error needs it

            ctx.fail(f'no command "{args[0]}"{hint(args[0], COMMANDS)}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; its error decides the exit code."""
        try:
            return super().invoke(ctx)
        except LakewardError as error:
            print_error(error, as_json=wants_json(ctx))
            ctx.exit(error.exit_code)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 fine, 1 something is wrong, 2 usage or configuration, 3 a server is unreachable, "
    "4 a person must decide.",
)
@click.version_option(package_name="lakeward", prog_name="lakeward", message="%(prog)s %(version)s")
def main() -> None:
    """Streams into lakehouse tables, exactly once."""
