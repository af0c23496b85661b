"""How the Java servers are started: small heaps, a quick compiler, and an archive of loaded classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from servers import tools

ARCHIVE = "classes.jsa"


@dataclass(frozen=True, slots=True)
class Jvm:
    """The settings of one Java process.

    `archive` is the file of class data that a start maps instead of parsing jars (a third of the start time); where it
    does not match the Java at hand, Java ignores it. `full_jit` compiles for long runs instead of for a quick start.
    """

    archive: Path
    heap: str = "384m"
    full_jit: bool = False
    write_archive: bool = False

    def command(self, directory: Path, *rest: str) -> list[str]:
        """Java, the options, ``rest``; files that Java unpacks for itself go below ``directory``."""
        temporary = directory / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        command = [tools.java(), "-Xms64m", f"-Xmx{self.heap}", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
        command += ["-Djava.awt.headless=true", f"-Djava.io.tmpdir={temporary}"]
        if not self.full_jit:
            command.append("-XX:TieredStopAtLevel=1")
        if self.write_archive:
            command.append(f"-XX:ArchiveClassesAtExit={self.archive}")
        elif self.archive.exists():
            command += [f"-XX:SharedArchiveFile={self.archive}", "-Xshare:auto"]
        return [*command, *rest]
