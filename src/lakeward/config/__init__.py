"""The configuration: models, loading, and what this version can run.

Nothing in here asks a server or reads the environment; variables come in by argument.
"""

from __future__ import annotations

from lakeward.config.loading import from_mapping, load, load_text
from lakeward.config.models import Config
from lakeward.config.secrecy import Secret, reveal
from lakeward.config.sinks import CATALOG_NAME

__all__ = ["CATALOG_NAME", "Config", "Secret", "from_mapping", "load", "load_text", "reveal"]
