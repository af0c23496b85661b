from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lakeward.decoding.code_cache import CodeCache, default_folder

SOURCE = "def decode(values):\n    values[0] = 41 + 1\n"


def warm_up(function: Any) -> None:
    function(np.zeros(1, np.int64))


def run(cache: CodeCache, source: str = SOURCE, depends: str = "") -> int:
    values = np.zeros(1, np.int64)
    cache.function(source, depends=depends, warm_up=warm_up)(values)
    return int(values[0])


def kept(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_compiled_code_is_found_again_by_the_next_process(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert run(CodeCache(folder)) == 42
    before = {p: p.stat().st_mtime_ns for p in kept(folder)}
    assert any(p.suffix == ".nbc" for p in before)
    assert run(CodeCache(folder)) == 42
    assert {p: p.stat().st_mtime_ns for p in kept(folder)} == before


def test_one_text_is_compiled_once_in_a_process() -> None:
    cache = CodeCache(None)
    first = cache.function(SOURCE, depends="", warm_up=warm_up)
    assert cache.function(SOURCE, depends="", warm_up=warm_up) is first
    assert cache.function(SOURCE, depends="changed", warm_up=warm_up) is not first


def test_a_file_that_holds_something_else_is_never_run(tmp_path: Path) -> None:
    assert run(CodeCache(tmp_path)) == 42
    (file,) = tmp_path.glob("*.py")
    file.write_text("raise SystemExit\n")
    assert run(CodeCache(tmp_path)) == 42
    assert file.read_text() == SOURCE


def test_damaged_machine_code_is_compiled_again(tmp_path: Path) -> None:
    assert run(CodeCache(tmp_path)) == 42
    for file in kept(tmp_path):
        if file.suffix in {".nbc", ".nbi"}:
            file.write_bytes(b"damaged")
    assert run(CodeCache(tmp_path)) == 42


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(CodeCache(tmp_path / "file" / "cache")) == 42


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert run(CodeCache(tmp_path)) == 42
    assert kept(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_the_folder_is_made_for_the_user_alone(tmp_path: Path) -> None:
    run(CodeCache(tmp_path / "cache"))
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_processes_that_start_together_share_a_folder(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from lakeward.decoding.code_cache import CodeCache\n"
        "cache = CodeCache(Path(sys.argv[1]))\n"
        "for k in range(3):\n"
        "    values = np.zeros(1, np.int64)\n"
        "    source = f'def decode(values):\\n    values[0] = 40 + {k}\\n'\n"
        "    cache.function(source, depends='', warm_up=lambda f: f(np.zeros(1, np.int64)))(values)\n"
        "    assert values[0] == 40 + k\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    try:
        assert [process.wait(120) for process in running] == [0, 0, 0]
    finally:
        for process in running:
            process.kill()
    assert [p for p in kept(tmp_path) if "draft" in p.name or ".tmp." in p.name] == []


def test_the_default_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lakeward" / "decoders"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "lakeward" / "decoders"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_folder() == Path.home() / "Library" / "Caches" / "lakeward" / "decoders"
