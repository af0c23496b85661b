from __future__ import annotations

import random

import pytest

from lakeward.admission import SchemaChanges
from lakeward.assembly import Assembly
from lakeward.clock import SystemClock
from lakeward.config import from_mapping
from lakeward.errors import ConfigurationError


def document(tmp_path, **table):
    return {
        "name": "p",
        "source": {"kafka": {"bootstrap_servers": "h:1"}},
        "decode": "json",
        "sink": {"iceberg": {"warehouse": str(tmp_path)}},
        "tables": [{"topics": ["t"], "table": "a.b", **table}],
    }


@pytest.mark.parametrize(("given", "chosen"), [({}, "evolve"), *(({"schema_changes": p}, p) for p in SchemaChanges)])
def test_the_policy_reaches_the_table_and_the_loop(tmp_path, given, chosen):
    config = from_mapping(document(tmp_path, **given))
    config.require_available()
    (lane,) = Assembly(config, SystemClock(), random.Random(1)).lanes_for("t")
    assert lane.settings.schema_changes is SchemaChanges(chosen)
    assert lane.target.settings.schema_changes is SchemaChanges(chosen)


def test_the_dead_letter_table_may_always_change(tmp_path):
    config = from_mapping(document(tmp_path, schema_changes="stop"))
    (lane,) = Assembly(config, SystemClock(), random.Random(1)).lanes_for("t")
    assert lane.letterbox.target.settings.schema_changes is SchemaChanges.EVOLVE


def test_another_policy_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ConfigurationError, match=r"tables\[0\]\.schema_changes.*evolve.*dead-letter.*stop"):
        from_mapping(document(tmp_path, schema_changes="merge"))
