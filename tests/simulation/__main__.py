"""Plays seeds again: ``python -m tests.simulation SEED…`` (or FIRST-LAST), and counts what happened.

Of a single seed it tells everything, line by line, with the simulated time and who it was.
``python -m tests.simulation protections`` prints the table in docs/guarantee.md.
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter

from tests.simulation.history import play
from tests.simulation.protections import as_table


def main(arguments: list[str]) -> int:
    if arguments == ["protections"]:
        print(as_table(), end="")  # noqa: T201
        return 0
    failed = []
    happened: Counter[str] = Counter()
    tell = len(arguments) == 1 and arguments[0].isdigit()
    for argument in arguments:
        first, _, last = argument.partition("-")
        for seed in range(int(first), int(last or first) + 1):
            try:
                happened += play(seed, tell=tell).world.happened
            except Exception:  # noqa: BLE001 -- all of them are wanted
                traceback.print_exc()
                failed.append(seed)
    for what, count in sorted(happened.items()):
        print(f"{count:8} {what}")  # noqa: T201
    print(f"failed: {failed or 'none'}")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
