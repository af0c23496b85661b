"""A process that has imported lakeward and forks a child for each command, so that starting one takes milliseconds.

It reads one JSON request a line from standard input, with the keys id, args, cwd, env, fsize, out and err. It answers
``{"id", "pid"}``, then ``{"id", "code"}`` when that child has ended; a negative code is the signal that ended it. It
ends with its input, and its children end with it. A child runs the command line's own `main`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import resource
import selectors
import signal
from pathlib import Path
from typing import Any

from lakeward.cli import main

PR_SET_PDEATHSIG = 1


def warm() -> None:
    """Import what a run needs; nothing here may start a thread, or a child would lack it."""
    for module in (
        "pyiceberg.catalog.rest",
        "pyiceberg.catalog.sql",
        "pyiceberg.io.fsspec",
        "pyiceberg.io.pyarrow",
        "sqlalchemy.dialects.sqlite",
        "lakeward.assembly",
        "lakeward.cli.consume",
        "lakeward.cli.run",
        "lakeward.cli.running",
        "lakeward.cli.status",
        "lakeward.cli.tables",
        "lakeward.config",
        "lakeward.observability.logging",
    ):
        importlib.import_module(module)


def serve() -> None:
    running: dict[int, int] = {}
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lines = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if wake in ready:
                os.read(wake, 4096)
            reap(running)
            if 0 in ready:
                got = os.read(0, 1 << 16)
                if not got:
                    return
                *whole, lines = (lines + got).split(b"\n")
                for line in whole:
                    request = json.loads(line)
                    pid = os.fork()
                    if pid == 0:
                        os.close(wake)
                        os.close(waker)
                        child(request)
                    running[pid] = request["id"]
                    say({"id": request["id"], "pid": pid})


def reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        say({"id": running.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def say(answer: dict[str, int]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def child(request: dict[str, Any]) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    for number, path, mode in ((0, os.devnull, "rb"), (1, request["out"], "wb"), (2, request["err"], "wb")):
        with Path(path).open(mode) as file:
            os.dup2(file.fileno(), number)
    if request["fsize"] is not None:  # for all that comes now; a test lifts it again
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["fsize"], resource.RLIM_INFINITY))
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # where it stands, for a test that waited in vain
    main(request["args"], prog_name="lakeward")


if __name__ == "__main__":
    warm()
    say({"id": 0, "pid": os.getpid()})
    serve()
