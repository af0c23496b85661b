"""The command line: install, start, stop, status."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from servers.installing import MODULES, OPTIONAL, install, releases
from servers.releases import HOME, ServerError


def main() -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args()
    if unknown := set(getattr(arguments, "name", ())) - {*MODULES, *OPTIONAL}:
        parser.error(f"no server is called {', '.join(sorted(unknown))}; there are {', '.join([*MODULES, *OPTIONAL])}")
    try:
        if arguments.command == "install":
            install(arguments.name, arguments.home)
        elif arguments.command == "status":
            return _status(arguments.home)
        else:
            from servers import session  # noqa: PLC0415 - a second `install` stays quick

            if arguments.command == "stop":
                print(session.stop(arguments.home))
            else:
                session.start(arguments.home, {name: getattr(arguments, _option(name)) for name in MODULES})
    except ServerError as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; running it again continues", file=sys.stderr)
        return 130
    return 0


def _status(home: Path) -> int:
    from servers import session  # noqa: PLC0415 - a second `install` stays quick

    missing = 0
    for release in releases():
        there = release.is_installed(home)
        missing += not there
        print(f"{release.name:16} {release.version:36} {'installed' if there else 'missing'}")
    print(session.describe(home))
    return 1 if missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m servers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    installing = commands.add_parser("install", help="fetch what is missing; does nothing when all is there")
    installing.add_argument(
        "name", nargs="*", help=f"only these (default: {', '.join(MODULES)}); also {', '.join(OPTIONAL)}"
    )
    starting = commands.add_parser("start", help="run all servers until Ctrl-C and print their addresses")
    for name in MODULES:
        starting.add_argument(f"--{name}-port", type=int, help="default: a free one")
    commands.add_parser("stop", help="end what `start` runs")
    commands.add_parser("status", help="what is installed and what runs")
    for command in commands.choices.values():
        command.add_argument("--home", type=Path, default=HOME, help="where the servers live (default: .servers)")
    return parser


def _option(name: str) -> str:
    return f"{name}-port".replace("-", "_")


if __name__ == "__main__":
    sys.exit(main())
