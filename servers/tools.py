"""The tools that fetch and run the servers: Java, Maven, Go and the system's package manager."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from servers.releases import ServerError

DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
OLDEST_JAVA = (17,)
OLDEST_GO = (1, 24)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run to the end and return what it printed on both streams.

    Raises:
        ServerError: it failed; the message ends with the tail of what it printed.
    """
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise ServerError(f"`{' '.join(command[:4])} …` failed with exit code {done.returncode}:\n{tail}")
    return done.stdout


@functools.cache
def java() -> str:
    """The Java program, 17 or later; installed if it is missing and we may."""
    return _new_enough(_tool("java", "openjdk-17-jre-headless"), "-version", OLDEST_JAVA)


def apt_install(package: str) -> None:
    """Install one Debian package.

    Raises:
        ServerError: this is not root on a Debian system, or the installation failed.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServerError(
            f"{package} is missing: install it (on Debian: `sudo apt-get install {package}`) and run again"
        )
    print(f"  installing the Debian package {package}", flush=True)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], quiet)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], quiet)


def copy_dependencies(pom: Path, target: Path) -> None:
    """Put every jar that ``pom`` needs at run time into ``target``."""
    goal = f"{DEPENDENCY_PLUGIN}:copy-dependencies"
    _maven("-f", str(pom), goal, f"-DoutputDirectory={target}", "-DincludeScope=runtime")


def unpack_artifact(artifact: str, target: Path) -> None:
    """Fetch ``group:name:version:tar.gz:classifier`` and unpack it into ``target``."""
    _maven(f"{DEPENDENCY_PLUGIN}:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={target}")
    for archive in target.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        archive.unlink()


def pip_download(requirements: Path, target: Path) -> None:
    """Put the packages that ``requirements`` lists with their hashes into ``target``; they are not installed."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--no-deps", "--require-hashes", "--dest", str(target), "--requirement", str(requirements)])


def go_install(module: str, target: Path) -> None:
    """Build the program of ``module@version`` into ``target``."""
    go = _new_enough(_tool("go", "golang"), "version", OLDEST_GO)
    run([go, "install", module], {"GOBIN": str(target), "CGO_ENABLED": "0"})


def _maven(*arguments: str) -> None:
    java()
    run([_tool("mvn", "maven"), "-q", "-B", "-U", *arguments])  # -U: Maven would remember a look-up that failed once


def _tool(name: str, package: str) -> str:
    if shutil.which(name) is None:
        apt_install(package)
    path = shutil.which(name)
    if path is None:
        raise ServerError(f"{name} is not on the PATH although {package} is installed")
    return path


def _new_enough(path: str, ask: str, oldest: tuple[int, ...]) -> str:
    found = re.search(r"\d+(\.\d+)*", run([path, ask]))
    if found is None or tuple(map(int, found.group().split("."))) < oldest:
        wanted = ".".join(map(str, oldest))
        raise ServerError(f"{path} is too old: put version {wanted} or later first on the PATH and run again")
    return path
