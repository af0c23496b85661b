from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from lakeward.cli import main
from lakeward.config import load


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return CliRunner().invoke(main, args)


ALL = ["kafka-avro", "kafka-json", "debezium-postgres", "debezium-mongodb"]


@pytest.mark.parametrize("source", ALL)
def test_what_init_writes_passes_the_check(source, folder):
    assert run("init", "--from", source, "--to", "iceberg").exit_code == 0
    result = run("check", "--offline")
    assert (result.exit_code, result.output) == (0, "lakeward.yaml: fine, pipeline my-pipeline, 1 table\n")
    config = load(folder / "lakeward.yaml", {})
    assert config.decode.kind == ("debezium" if source.startswith("debezium") else source.removeprefix("kafka-"))
    config.require_available()
    assert (config.schema_registry is not None) == (source == "kafka-avro")


@pytest.mark.parametrize("source", ALL)
def test_its_commented_settings_are_settings_too(source, folder):
    run("init", "p.yaml", "--from", source)
    text = (folder / "p.yaml").read_text()
    for line in text.splitlines():
        key = line.strip().removeprefix("# ")
        if line.strip().startswith("# ") and key.split(":")[0] in {
            "partition_by",
            "sort_by",
            "metadata_columns",
            "group_id",
        }:
            text = text.replace(line, line.replace("# ", "", 1))
    (folder / "p.yaml").write_text(text)
    config = load(folder / "p.yaml", {})
    assert config.group_id == "my-pipeline"
    assert config.tables[0].partition_by
    assert config.tables[0].sort_by
    assert config.tables[0].metadata_columns


def test_the_file_names_itself(folder):
    run("init", "other.yaml")
    assert "lakeward run other.yaml" in (folder / "other.yaml").read_text()


def test_init_does_not_overwrite_unless_it_is_told_to(folder):
    (folder / "lakeward.yaml").write_text("mine")
    result = run("init")
    assert (result.exit_code, (folder / "lakeward.yaml").read_text()) == (2, "mine")
    assert "lakeward.yaml exists already" in result.stderr
    assert "--force" in result.stderr
    assert run("init", "--force").exit_code == 0
    assert (folder / "lakeward.yaml").read_text() != "mine"


@pytest.mark.parametrize("flags", [("--from", "postgres-buffer"), ("--to", "delta")])
def test_what_is_not_available_is_refused_and_nothing_is_written(flags, folder):
    result = run("init", *flags)
    assert result.exit_code == 2
    assert f"{' '.join(flags)} is not available in this version" in result.stderr
    assert list(folder.iterdir()) == []


def test_init_tells_as_json_what_it_wrote():
    assert json.loads(run("init", "--json").output) == {"file": "lakeward.yaml", "from": "kafka-avro", "to": "iceberg"}


def test_a_folder_that_does_not_exist_is_said():
    result = run("init", "no/such/folder.yaml")
    assert result.exit_code == 2
    assert "no/such/folder.yaml cannot be written: No such file or directory" in result.stderr


@pytest.mark.parametrize(
    ("source", "topics"),
    [
        ("debezium-postgres", "# <topic.prefix>.<schema>.<table>\n"),
        ("debezium-mongodb", "# <topic.prefix>.<database>.<collection>\n"),
    ],
)
def test_how_debezium_names_its_topics_is_told(source, topics, folder):
    run("init", "--from", source)
    assert topics in (folder / "lakeward.yaml").read_text()
