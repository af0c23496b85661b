"""A server as a child process: started, watched until ready, paused, killed, and never left behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import psutil
import requests

from servers.releases import ServerError

# The kernel kills a child when the *thread* that started it ends. One thread that lives as long as this process starts
# them all, so that they live exactly as long as we do, even when we are killed, and callers may start from any thread.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-starter")
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_PORTS = range(15_000, 32_000)  # below the ports that clients get, so that none of them takes a stopped server's port
_LOG_TAIL = 30
_handed_out: set[int] = set()


def free_port() -> int:
    """A loopback port, never the same twice, on which nothing listens and no client will be put."""
    for port in random.sample(_PORTS, 200):
        if port not in _handed_out and is_free(port):
            _handed_out.add(port)
            return port
    raise ServerError("no free port found on 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(url: str) -> bool:
    """Whether ``url`` answers with status 200 now."""
    try:
        return bool(requests.get(url, timeout=2).status_code == requests.codes.ok)
    except requests.RequestException:
        return False


class Server(ABC):
    """One server on 127.0.0.1 with its data and log in a folder of its own; a context manager that starts and stops.

    Not thread-safe. A stopped or killed server starts again on the same port with the same data.
    """

    name: str
    start_within: float = 60.0
    """Seconds until `start` gives up; servers are ready in one to three on an idle machine."""
    stop_signal: signal.Signals = signal.SIGTERM

    def __init__(self, directory: Path, port: int | None = None) -> None:
        """Choose a port (a free one unless given); nothing is started yet and ``directory`` need not exist."""
        self.directory = directory
        self.port = port if port is not None else free_port()
        self._process: psutil.Popen | None = None
        self._log_start = 0

    @property
    def log(self) -> Path:
        """The file that holds what the server printed, over all its starts."""
        return self.directory / f"{self.name}.log"

    @property
    def running(self) -> bool:
        """Whether the process is alive (a paused one is)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            ServerError: the server is not running.
        """
        return int(self._alive().pid)

    def start(self) -> Self:
        """Start and wait until the server serves.

        Raises:
            ServerError: the port is taken, the server died or was not ready in time; then the message holds the end of
                its log, and nothing keeps running.
        """
        if self.running:
            raise ServerError(f"{self.name} is running already, as process {self.pid}")
        if not is_free(self.port):  # whoever listens there would look like our server
            raise ServerError(f"{self.name} cannot have port {self.port}: another process listens there")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._prepare()
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = _STARTER.submit(self._spawn).result()
        try:
            self._wait_for(self._is_ready, "ready")
            self._after_start()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, within: float = 20.0) -> None:
        """Ask to end and wait ``within`` seconds, then kill; does nothing when the server is not running."""
        if not self.running:
            return
        process = self._alive()
        process.send_signal(self.stop_signal)
        process.send_signal(signal.SIGCONT)  # a paused process takes its signals only then
        try:
            process.wait(within)
        except psutil.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, children included; returns when they are gone. Does nothing when the server is not running."""
        if not self.running:
            return
        tree = self._tree()
        for process in tree:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(tree, timeout=10)

    def restart(self) -> Self:
        """Start again on the same port and data; a running server is stopped first."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        for process in self._tree():
            _signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        for process in self._tree():
            _signal(process, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The program and its arguments."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether clients can be served now."""

    def _environment(self) -> Mapping[str, str]:
        """Variables that the program needs beyond ours."""
        return {}

    def _prepare(self) -> None:
        """Write what the program needs before its start."""
        return

    def _after_start(self) -> None:
        """Settings that can only be made on the running server."""
        return

    def _logged(self, text: str) -> bool:
        """Whether the server printed ``text`` since this start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return text.encode() in log.read()

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.start_within
        while not condition():
            if not self.running:
                raise ServerError(f"{self.name} died before it was {what}; the end of {self.log}:\n{self._tail()}")
            if time.monotonic() > deadline:
                bound = f"within {self.start_within:.0f} s"
                raise ServerError(f"{self.name} was not {what} {bound}; the end of {self.log}:\n{self._tail()}")
            time.sleep(0.05)

    def _spawn(self) -> psutil.Popen:
        with self.log.open("ab") as log:
            return psutil.Popen(
                [*_DIES_WITH_US, *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **self._environment()},
                process_group=0,  # Ctrl-C on the terminal reaches us alone; we end the servers in order
            )

    def _alive(self) -> psutil.Popen:
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self.name} is not running")
        return self._process

    def _tree(self) -> list[psutil.Process]:
        process = self._alive()
        return [process, *process.children(recursive=True)]

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:])


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # it ended by itself in between
