"""Compiled programs, kept between runs.

Numba keeps machine code next to the source file that it came from, so a generated program needs a file. What is run
is always the text in hand; the file only has to hold the same text. Without a usable folder, everything is compiled
in memory, once a process.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import structlog

from lakeward.decoding.native import compiled

Function = Callable[..., Any]
WarmUp = Callable[[Function], object]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

STAMP = 1_000_000_000
"""The time of change that every file gets: numba drops what it kept when the time changes, and the name already
tells the content."""


def default_folder() -> Path:
    """Where this platform keeps what can be made again, for this user."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lakeward" / "decoders"


class CodeCache:
    """Functions compiled from source text, one a text.

    Args:
        folder: where compiled code is kept, created for the user alone; None: only in memory. A folder that others
            can write to is not used, because what lies there is run.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._functions: dict[str, Function] = {}
        self._lock = threading.Lock()

    def function(self, source: str, *, depends: str, warm_up: WarmUp) -> Function:
        """The compiled ``decode`` that ``source`` defines.

        Args:
            source: Python for numba.
            depends: the text of whatever compiled code it calls; numba itself does not notice that this changes.
            warm_up: calls the function once with arguments of the final types, so that it is compiled, or loaded.
        """
        key = _key(source, depends)
        with self._lock:
            if key not in self._functions:
                self._functions[key] = self._kept(key, source, warm_up) or _compile(key, source, None, warm_up)
            return self._functions[key]

    def has(self, source: str, *, depends: str) -> bool:
        """Whether `function` has no need to compile this, as far as can be seen from outside."""
        key = _key(source, depends)
        kept = self.folder is not None and any((self.folder / "__pycache__").glob(f"avro_{key}.*.nbi"))
        return kept or key in self._functions

    def _kept(self, key: str, source: str, warm_up: WarmUp) -> Function | None:
        if self.folder is None:
            return None
        try:
            return _compile(key, source, _place(self.folder, f"avro_{key}.py", source), warm_up)
        except Exception as error:  # noqa: BLE001  a damaged file can fail in any way while it is unpickled
            log.warning("code_cache_unusable", folder=str(self.folder), reason=type(error).__name__)
            return None


def _key(source: str, depends: str) -> str:
    return hashlib.sha256(f"{version('numba')}\n{depends}\n{source}".encode()).hexdigest()[:32]


def _compile(key: str, source: str, path: Path | None, warm_up: WarmUp) -> Function:
    module = ModuleType(f"lakeward_program_{key}")
    module.__file__ = str(path) if path else f"<{module.__name__}>"
    sys.modules[module.__name__] = module  # numba finds a kept function's globals by this name
    exec(compile(source, module.__file__, "exec"), module.__dict__)  # noqa: S102  our own text, generated above
    function = cast("Function", compiled(module.__dict__["decode"], keep=path is not None))
    warm_up(function)
    return function


def _place(folder: Path, name: str, source: str) -> Path:
    """The file in ``folder`` that holds ``source``; written in one step, so that nobody reads half of it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix":
        status = folder.stat()
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
            raise PermissionError(f"{folder} can be written by others")
    path, content = folder / name, source.encode()
    if not (path.is_file() and path.read_bytes() == content and path.stat().st_mtime == STAMP):
        handle, draft = tempfile.mkstemp(dir=folder, prefix=".draft-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.utime(draft, (STAMP, STAMP))
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    return path
