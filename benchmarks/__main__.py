"""``python -m benchmarks``: real Kafka, trades as Avro and JSON, lakeward and the plain baseline in turn."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from servers.kafka import Kafka, KafkaOptions

from benchmarks.measuring import Feed, Run, baseline, lakeward
from benchmarks.poison import figures, print_poison
from benchmarks.report import compare, document, print_runs, save
from benchmarks.topics import FORMATS, fill
from lakeward.testing.registry import EmbeddedRegistry

PARTITIONS = 6


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save, or compare two saved results."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="messages in each topic")
    parser.add_argument("--formats", default=",".join(FORMATS), help="avro, json or both")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the median is reported")
    parser.add_argument(
        "--out", type=Path, help="where the JSON goes; default: benchmarks/results/<time>-<commit>.json"
    )
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="print two results side by side")
    chosen = parser.parse_args(arguments)
    if chosen.compare:
        before, after = (json.loads(path.read_text()) for path in chosen.compare)
        print("\n".join(compare(before, after)))
        return
    with tempfile.TemporaryDirectory(prefix="lakeward-bench-") as name:
        runs = measure(Path(name), chosen.messages, chosen.formats.split(","), chosen.repeat)
    print_runs(runs)
    poison = {name: figures(name, chosen.messages) for name in chosen.formats.split(",")}
    print_poison(poison)
    print(f"\nsaved: {save(document(runs, chosen.messages) | {'poison': poison}, chosen.out)}")


def measure(folder: Path, messages: int, formats: Sequence[str], repeat: int) -> list[Run]:
    """Fill one topic a format on a broker of our own, then run both writers ``repeat`` times on each."""
    runs: list[Run] = []
    kafka = Kafka(folder / "kafka", KafkaOptions(full_jit=True))
    with kafka, EmbeddedRegistry() as registry:
        for name in formats:
            topic = kafka.create_topic(f"market.trades.{name}", PARTITIONS)
            empty = kafka.create_topic(f"market.trades.{name}.empty", PARTITIONS)
            fill(kafka.bootstrap_servers, topic, name, messages, registry)
            feed = Feed(kafka.bootstrap_servers, registry.url, topic, empty, name, messages)
            # Compiled decoders are kept on disk: the first run of an installation fills that cache, and is not counted.
            lakeward(folder, feed)
            for number in range(repeat):
                runs.append(lakeward(folder, feed))
                runs.append(baseline(folder, feed))
                print(f"{name} {number + 1} of {repeat}:  {runs[-2].line()}  |  baseline {runs[-1].line()}", flush=True)
    return runs


if __name__ == "__main__":
    main()
