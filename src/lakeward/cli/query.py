"""``lakeward query``: SQL over the tables."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import click

from lakeward.cli.configuration import DEFAULT_FILE, read
from lakeward.cli.output import json_option, print_json, print_table
from lakeward.errors import ConfigurationError


@click.command(short_help="Read the tables with SQL.")
@click.argument("words", nargs=-1, required=True, metavar="[FILE] SQL")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@json_option
def command(words: tuple[str, ...], *, as_csv: bool, as_json: bool) -> None:
    """Run one SELECT over the tables of FILE (default: lakeward.yaml) and their dead letters. Tables go by their names.

    \b
    lakeward query "SELECT symbol, count(*) FROM market_data.trades GROUP BY symbol"
    """  # noqa: D301 - click's mark for lines to keep
    from lakeward.cli.tables import fed, quiet_assembly  # noqa: PLC0415 - the help does without
    from lakeward.engine import Engine  # noqa: PLC0415

    if len(words) > 2:
        raise ConfigurationError("more than a FILE and one SQL text were given", "Put the SQL in quotes.")
    file, sql = (DEFAULT_FILE, words[0]) if len(words) == 1 else words
    with quiet_assembly(read(Path(file))) as assembly:
        engine = Engine(assembly.config.catalog_properties())
        for settings, target in fed(assembly):
            for one in (target, assembly.letters(settings, target.name)):
                if (table := one.load()) is not None:
                    engine.add(table)
        columns, rows = engine.rows(sql)
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows(rows)
    else:
        print_table(columns, rows, thousands="")  # a number may be an id
