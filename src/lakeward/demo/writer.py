"""The writer of the demo: ``lakeward run`` as a process of its own, so that it can be killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lakeward.errors import LakewardError

STOP_S = 60.0
"""How long a writer may take to commit what it holds and leave."""


class WriterProcess:
    """One running ``lakeward run FILE``. What it logs is added to ``log``."""

    def __init__(self, file: Path, log: Path) -> None:
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own file
                [sys.executable, "-P", "-m", "lakeward", "run", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def require_alive(self) -> None:
        """Do nothing while it runs.

        Raises:
            LakewardError: it ended by itself.
        """
        code = self._process.poll()
        if code is not None:
            raise LakewardError(f"the writer {self.pid} ended with exit code {code}", self._reason())

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone. Does nothing where it has ended."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM: it commits what it holds and leaves.

        Raises:
            LakewardError: it fails, or does not leave.
        """
        self._process.terminate()
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise LakewardError(f"the writer {self.pid} did not stop in {STOP_S:g} s", self._reason()) from None
        if code != 0:
            raise LakewardError(f"the writer {self.pid} stopped with exit code {code}", self._reason())

    def _reason(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (f"It said: {errors[-1]}. " if errors else "") + f"Its log is {self._log}."
