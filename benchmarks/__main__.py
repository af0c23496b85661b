"""``python -m benchmarks``: every figure that lakeward is measured by, on real servers, in one run, as one JSON."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from benchmarks.parts import FULL, PARTS, QUICK, measure
from benchmarks.report import compare, save
from benchmarks.table import lines
from benchmarks.topics import FORMATS
from lakeward.cli.output import print_table

NEEDS_PEERS = "peers"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and save, or compare two saved results."""
    chosen = _parser().parse_args(arguments)
    if chosen.compare:
        before, after = (json.loads(path.read_text()) for path in chosen.compare)
        print("\n".join(compare(before, after)))
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sizes = QUICK if chosen.quick else FULL
    wanted = {name: chosen.messages or sizes.messages[name] for name in chosen.formats.split(",")}
    commits = (chosen.commits or sizes.commits, chosen.s3_commits or sizes.s3_commits)
    sizes = replace(sizes, messages=wanted, repeat=chosen.repeat or sizes.repeat)
    sizes = replace(sizes, commits=commits[0], s3_commits=commits[1])
    parts = [part for part in PARTS if part in chosen.only.split(",") and (chosen.peers or part != NEEDS_PEERS)]
    with tempfile.TemporaryDirectory(prefix="lakeward-bench-") as name:
        result = measure(Path(name), sizes, parts, lambda known: save(known, chosen.out))
    print()
    print_table(("FIGURE", "TO REACH", "MEASURED", ""), list(lines(result["figures"])))
    print(f"\nsaved: {save(result, chosen.out)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a little of everything, to see that it works")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, such as `throughput,freshness`")
    parser.add_argument("--peers", action="store_true", help="also beside the Iceberg sink for Kafka Connect")
    parser.add_argument("--formats", default=",".join(FORMATS), help="avro, json or both")
    parser.add_argument("--messages", type=int, help="messages in each topic; default: 10 million")
    parser.add_argument("--repeat", type=int, help="runs of each writer; the median is reported; default: 3")
    parser.add_argument("--commits", type=int, help="commits that age a table; default: 10,000")
    parser.add_argument("--s3-commits", type=int, help="the same on S3; default: 10,000")
    parser.add_argument(
        "--out", type=Path, help="where the JSON goes; default: benchmarks/results/<time>-<commit>.json"
    )
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="print two results side by side")
    return parser


if __name__ == "__main__":
    main()
