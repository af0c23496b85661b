"""``lakeward check``: the configuration first, then every server it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lakeward.cli.configuration import file_argument, read
from lakeward.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from lakeward.cli.probes import Finding
    from lakeward.config import Config


@click.command(short_help="Check the configuration, then every server it names.")
@file_argument
@click.option("--offline", is_flag=True, help="Look at the file alone, ask no server.")
@json_option
@click.pass_context
def command(ctx: click.Context, file: Path, *, offline: bool, as_json: bool) -> None:
    """Check FILE (default: lakeward.yaml), then every server it names, one line each. Writes nothing.

    Exit codes: 0 all is fine, 1 something is wrong, 2 the configuration is, 3 a server is unreachable.
    """
    config = read(file)
    findings: list[Finding] = []
    if not offline:
        from lakeward.cli.probes import look  # noqa: PLC0415 - the clients take a second to import

        findings = look(config)
    code = max((finding.state.exit_code for finding in findings), default=0)
    if as_json:
        print_json(
            {
                "file": str(file),
                "pipeline": config.name,
                "tables": [table.table for table in config.tables],
                "servers": [finding.document() for finding in findings],
                "exit_code": code,
            }
        )
    else:
        _print(file, config, findings)
    ctx.exit(code)


def _print(file: Path, config: Config, findings: list[Finding]) -> None:
    tables = f"{len(config.tables)} table{'s' if len(config.tables) > 1 else ''}"
    click.echo(f"{file}: fine, pipeline {config.name}, {tables}")
    if findings:
        rows = [
            (finding.kind, finding.name, finding.state.value, finding.latency, finding.detail) for finding in findings
        ]
        print_table(("SERVER", "NAME", "STATE", "MS", ""), rows)
