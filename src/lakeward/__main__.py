"""``python -m lakeward``: the same as the command ``lakeward``."""

from __future__ import annotations

from lakeward.cli import main

if __name__ == "__main__":
    main(prog_name="lakeward")
