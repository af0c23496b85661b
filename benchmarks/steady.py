"""What a writer takes that has little to do: memory and CPU at a steady rate, and how soon it is up."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measuring import as_installed
from benchmarks.topics import fill
from benchmarks.writer import Stream, Writer, sending, time_of

_SAMPLE_S = 0.2


@dataclass(frozen=True, slots=True)
class Steady:
    """Resident memory over ``seconds`` at ``rate`` records a second: its peak, and its median over the last third."""

    rate: int
    seconds: float
    peak_mib: float
    settled_mib: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Starting:
    """Medians, seconds from the start of the process.

    ``first_message_s``: until the first commit's batch begins to be staged, which is after its first message was
    taken and decoded; ``first_commit_s``: until that commit is proved. ``help_s``: all of `lakeward --help`.
    """

    repeat: int
    assigned_s: float
    first_message_s: float
    first_commit_s: float
    help_s: float


def steady(stream: Stream, rate: int, seconds: float) -> Steady:
    """Run a writer for ``seconds`` from its first commit on."""
    samples: list[float] = []
    with Writer(stream) as writer, sending(stream, rate):
        writer.until(lambda: bool(writer.events("committed")), "the first commit")
        began, used = time.monotonic(), writer.cpu_s
        while (passed := time.monotonic() - began) < seconds:
            samples.append(writer.resident_mib)
            time.sleep(_SAMPLE_S)
        cpu = (writer.cpu_s - used) / passed
    return Steady(rate, seconds, max(samples), statistics.median(samples[-max(1, len(samples) // 3) :]), cpu)


def starting(stream: Stream, repeat: int) -> Starting:
    """Start writers of new pipelines and tables on a topic that has records."""
    fill(stream.servers, stream.topic, "avro", 1000, stream.registry)
    assigned, taken, committed = [], [], []
    for number in range(repeat):
        with Writer(replace(stream, home=stream.home / str(number))) as writer:
            writer.until(lambda writer=writer: bool(writer.events("committed")), "the first commit")  # type: ignore[misc]
            first = writer.events("committed")[0]
            assigned.append(time_of(writer.events("assigned")[0]) - writer.began)
            committed.append(time_of(first) - writer.began)
            taken.append(committed[-1] - first["duration_ms"] / 1000)
    middle = statistics.median
    return Starting(repeat, middle(assigned), middle(taken), middle(committed), middle(_helps(repeat)))


def _helps(repeat: int) -> list[float]:
    command = [str(Path(sys.executable).with_name("lakeward")), "--help"]
    seconds = []
    for _ in range(repeat):
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=as_installed())
        seconds.append(time.monotonic() - began)
    return seconds
