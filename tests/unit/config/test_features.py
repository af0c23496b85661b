from __future__ import annotations

from pathlib import Path

import pytest

from lakeward.config import from_mapping, load, load_text
from lakeward.config.features import LIMITS
from lakeward.errors import ConfigurationError

EXAMPLES = Path(__file__).parents[3] / "examples"


def refused(config):
    with pytest.raises(ConfigurationError) as caught:
        config.require_available()
    return caught.value.what.splitlines()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.yaml")), ids=lambda path: path.name)
def test_every_example_is_understood(path):
    assert load(path, {}).name


@pytest.mark.parametrize("example", ["clicks/embedded.yaml", "shop/debezium-postgres.yaml"])
def test_what_this_version_can_run_is_accepted(example):
    load(EXAMPLES / example, {}).require_available()


def test_what_it_cannot_run_is_refused_line_by_line():
    config = load_text((EXAMPLES / "market_data" / "market-data.yaml").read_text(), "m.yaml", {}, EXAMPLES)
    assert refused(config) == [
        "m.yaml:48: provision: is not available in this version",
        "m.yaml:60: checks: is not available in this version",
        "m.yaml:64: http: is not available in this version",
    ]


EVERYTHING = {
    "name": "p",
    "source": {"kafka": {"bootstrap_servers": "h:1"}},
    "decode": {"debezium": {"format": "json"}},
    "sink": {"iceberg": {}},
    "tables": [
        {
            "topics": ["t"],
            "table": "a.b",
            "mode": "overwrite",
            "decode": "debezium",
            "metadata_columns": {"a": "operation", "b": "offset"},
            "gaps": {"key": ["a"], "sequence": "b"},
        }
    ],
    "http": {},
    "provision": {},
    "checks": {},
}
OTHER = {
    "name": "p",
    "source": {"postgres_buffer": {"dsn": "postgresql://h/d", "table": "t"}},
    "sink": {"delta": {"location": "s3://b"}},
    "tables": [{"source_table": "a", "table": "a.b"}],
}


def test_each_limit_refuses_what_it_names_and_nothing_else():
    lines = refused(from_mapping(EVERYTHING)) + refused(from_mapping(OTHER))
    assert len(lines) == len(LIMITS)
    assert not any("metadata_columns.b" in line for line in lines)
