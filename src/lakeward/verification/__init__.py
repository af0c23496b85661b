"""The audit: does the table hold what its own ledger says that the stream said?"""

from __future__ import annotations

from lakeward.verification.audit import verify
from lakeward.verification.source import SourceComparison
from lakeward.verification.verdict import Verdict

__all__ = ["SourceComparison", "Verdict", "verify"]
