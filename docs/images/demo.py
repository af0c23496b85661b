"""Takes the README's picture: what `lakeward demo` shows on a terminal, as SVG.

    python docs/images/demo.py

The demo really runs, on a terminal of its own; nothing in the picture is drawn by hand.
"""

# ruff: noqa: INP001, S603, T201 - a script that runs our own program
from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).with_suffix(".svg")
ROWS, COLUMNS = 60, 92
_MOVES = re.compile(r"(\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r|\n)")
_FONT_FROM_THE_NET = re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL)


def record() -> str:
    """Run the demo on a pseudo-terminal; return everything that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    program = Path(sys.executable).with_name("lakeward")
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    with tempfile.TemporaryDirectory() as folder:
        command = ["lakeward", "demo"]
        process = subprocess.Popen(
            command, executable=program, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment
        )
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            written += part
        if process.wait():
            sys.exit(f"the demo ended with exit code {process.returncode}:\n{written.decode()}")
    return written.decode()


def screen(written: str) -> list[str]:
    """The lines that are left on the terminal at the end, with their colours."""
    lines, at = [""], 0
    for part in _MOVES.split(written):
        if part == "\n":
            at += 1
            lines.extend([""] * (at + 1 - len(lines)))
        elif part == "\x1b[1A":
            at -= 1
        elif part == "\x1b[2K":
            lines[at] = ""
        elif not _MOVES.fullmatch(part):
            lines[at] += part
    return [line.rstrip() for line in lines]


def main() -> None:
    """Write the picture."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi("\x1b[2m$\x1b[0m lakeward demo"))
    for line in "\n".join(screen(record())).rstrip().splitlines():
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title="lakeward demo", unique_id="lakeward")
    PICTURE.write_text(_FONT_FROM_THE_NET.sub("", svg), encoding="utf-8")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
