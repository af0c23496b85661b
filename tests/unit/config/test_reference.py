from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from lakeward.config import Config
from lakeward.config.explaining import section_in
from lakeward.config.features import LIMITS
from lakeward.config.reference import render
from lakeward.config.sections import keys

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def every_field(section: type[BaseModel], path=()):
    for name, field in section.model_fields.items():
        here = (*path, field.alias or name)
        yield here, field
        inner = section_in(field.annotation)
        if inner is not None:
            yield from every_field(inner, here)


def test_the_page_of_settings_is_up_to_date():
    assert PAGE.read_text() == render(), "run `python -m lakeward.config.reference > docs/configuration.md`"


def test_every_setting_is_described():
    assert [path for path, field in every_field(Config) if not field.description] == []


def test_every_limit_names_a_setting():
    known = {path for path, _ in every_field(Config)}
    assert [limit.path for limit in LIMITS if tuple(part for part in limit.path if part != "*") not in known] == []


def test_keys_are_listed_as_they_are_written():
    assert keys(section_in(Config.model_fields["decode"].annotation)) == {
        "avro": "avro",
        "json": "json_",
        "debezium": "debezium",
        "bytes": "bytes_",
        "string": "string",
    }
