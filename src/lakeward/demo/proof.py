"""The demo's proof: every row of the tables against every message that was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lakeward.demo.feed import COMPANIES, QUOTES, TRADES
from lakeward.engine import Engine
from lakeward.errors import OperatorError
from lakeward.sinks.iceberg.target import IcebergTarget
from lakeward.testing import oracle
from lakeward.verification import Verdict, verify

SUMMARY = f"""\
WITH spreads AS (SELECT symbol, avg(ask_price - bid_price) AS spread FROM {QUOTES.table} GROUP BY symbol)
SELECT symbol, any_value(company_name) AS company, count(*) AS trades, sum(volume)::BIGINT AS volume,
       (sum(price * volume) / sum(volume))::DECIMAL(18, 3) AS vwap,
       arg_min(price, sequence_number)::DECIMAL(18, 3) AS open,
       max(price)::DECIMAL(18, 3) AS high,
       min(price)::DECIMAL(18, 3) AS low,
       arg_max(price, sequence_number)::DECIMAL(18, 3) AS close,
       any_value(spread)::DECIMAL(18, 4) AS spread
FROM {TRADES.table} JOIN spreads USING (symbol) JOIN {COMPANIES.table} USING (company_id, symbol)
GROUP BY symbol ORDER BY sum(price * volume) DESC LIMIT 8
"""  # noqa: S608 - the tables' own names
"""The day of the eight symbols with the highest turnover."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One table against what was sent. A changed row is one ``missing`` and one ``extra``; ``columns`` that differ."""

    sent: int
    rows: int
    missing: int
    extra: int
    columns: Sequence[str]

    @property
    def exact(self) -> bool:
        """Whether the table holds each message once, and nothing else."""
        return not self.columns and self.missing == self.extra == 0


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found out about one table: its own audit, and the comparison with what was sent."""

    verdict: Verdict
    comparison: Comparison

    @property
    def passed(self) -> bool:
        """Whether both agree."""
        return self.verdict.passed and self.comparison.exact

    def document(self) -> dict[str, Any]:
        """As plain data."""
        compared = {**asdict(self.comparison), "exact": self.comparison.exact}
        return {"table": self.verdict.table, "verify": self.verdict.document(), "compared": compared}


def prove(target: IcebergTarget, sent: Path, properties: Mapping[str, Any]) -> Proof:
    """Audit a table, and compare each of its rows with what was sent, of which ``sent`` is a copy.

    Raises:
        LakewardError: the table or its files cannot be read.
    """
    table = target.load()
    if table is None:
        raise OperatorError(f"{target.name} does not exist", "Something removed it while the demo ran.")
    difference = oracle.compare(pq.read_table(sent), oracle.held(table, properties))
    comparison = Comparison(
        difference.sent, difference.held, difference.missing.num_rows, difference.extra.num_rows, difference.columns
    )
    return Proof(verify(target, Engine(properties)), comparison)


def summary(targets: Sequence[IcebergTarget], properties: Mapping[str, Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The column names and rows of `SUMMARY`.

    Raises:
        LakewardError: the tables cannot be read.
    """
    engine = Engine(properties)
    for target in targets:
        if (table := target.load()) is not None:
            engine.add(table)
    return engine.rows(SUMMARY)
