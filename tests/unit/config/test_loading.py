from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from lakeward.config import from_mapping, load, load_text

KAFKA = {"kafka": {"bootstrap_servers": "h:1"}}


def minimal(**more):
    return {
        "name": "p",
        "source": KAFKA,
        "decode": "json",
        "sink": {"iceberg": {}},
        "tables": [{"topics": ["t"], "table": "a.b"}],
        **more,
    }


def from_text(text, env=None):
    return load_text(text, "f.yaml", env or {}, Path("/folder"))


def with_tables(text, env=None):
    start = "name: p\nsource: {kafka: {bootstrap_servers: h:1}}\ndecode: json\nsink: {iceberg: {}}\n"
    return from_text(start + text, env)


TABLES = "tables: [{topics: [t], table: a.b}]\n"


def test_what_is_left_out_has_a_default():
    config = from_mapping(minimal())
    assert config.group_id == "p"
    assert (config.source.kafka.start, config.source.kafka.on_lost_positions) == ("earliest", "stop")
    assert (config.flush.interval, config.flush.rows, config.flush.bytes) == (timedelta(seconds=5), 500_000, 2**27)
    assert config.snapshots.keep == timedelta(days=7)
    assert config.log.level == "INFO"
    assert config.tables[0].mode == "append"
    assert config.decode_of(config.tables[0]).kind == "json"


def test_nothing_changes_after_loading():
    config = from_mapping(minimal())
    with pytest.raises(ValidationError):
        config.name = "other"


def test_a_mapping_is_taken_literally():
    config = from_mapping(minimal(tables=[{"topics": ("t",), "table": "a.b", "metadata_columns": {"${X}": "offset"}}]))
    assert config.tables[0].topics == ("t",)
    assert config.tables[0].metadata_columns == {"${X}": "offset"}


def test_without_a_catalog_there_is_sqlite_inside_the_warehouse_beside_the_file(tmp_path):
    (tmp_path / "p.yaml").write_text("name: p\nsource: {kafka: {bootstrap_servers: h:1}}\ndecode: json\n"
                                     "sink: {iceberg: {}}\n" + TABLES)  # fmt: skip
    assert load(tmp_path / "p.yaml", {}).catalog_properties() == {
        "type": "sql",
        "uri": f"sqlite:///{tmp_path}/warehouse/catalog.db",
        "warehouse": f"{tmp_path}/warehouse",
    }


@pytest.mark.parametrize(
    ("iceberg", "expected"),
    [
        ({"warehouse": "data"}, {"type": "sql", "uri": "sqlite:////f/data/catalog.db", "warehouse": "/f/data"}),
        ({"warehouse": "file:///d"}, {"type": "sql", "uri": "sqlite:////d/catalog.db", "warehouse": "/d"}),
        (
            {"catalog": {"type": "sql", "uri": "sqlite:///c.db", "warehouse": "w"}},
            {"type": "sql", "uri": "sqlite:////f/c.db", "warehouse": "/f/w"},
        ),
        (
            {"warehouse": "s3://b/", "catalog": {"type": "rest", "uri": "http://c", "x": True, "n": 7}},
            {"type": "rest", "uri": "http://c", "x": "true", "n": "7", "warehouse": "s3://b/"},
        ),
        ({"catalog": {"type": "rest", "warehouse": "name"}}, {"type": "rest", "warehouse": "name"}),
    ],
)
def test_paths_of_a_catalog_start_at_the_file_and_names_stay_names(iceberg, expected):
    assert from_mapping(minimal(sink={"iceberg": iceberg}), Path("/f")).catalog_properties() == expected


def test_a_variable_is_read_as_what_its_setting_takes():
    env = {"N": "12", "PASSWORD": "0123", "TOPICS": "[a, b]", "INTERVAL": "250ms", "LEVEL": "debug", "NAME": "123"}
    config = from_text(
        """
name: ${NAME}
source: {kafka: {bootstrap_servers: h:1, properties: {sasl.password: "${PASSWORD}"}}}
decode: ${DECODE:-json}
sink: {iceberg: {}}
flush: {rows: "${N}", interval: "${INTERVAL}"}
log: {level: "${LEVEL}"}
http: {port: "${PORT:-8001}"}
tables: [{topics: "${TOPICS}", table: a.b, partition_by: "${PARTITIONS:-[]}", mode: "${MODE:-append}"}]
""",
        env,
    )
    assert config.name == "123"
    assert config.kafka_properties() == {"sasl.password": "0123"}
    assert (config.flush.rows, config.flush.interval) == (12, timedelta(milliseconds=250))
    assert (config.http.port, config.log.level) == (8001, "DEBUG")
    assert (config.tables[0].topics, config.tables[0].partition_by) == (("a", "b"), ())


def test_a_value_cannot_add_structure():
    env = {"V": 'x, sasl.username: y}\nname: "other"'}
    config = with_tables(TABLES + 'provision: {subjects: {a: "${V}"}}', env)
    assert config.name == "p"
    assert config.provision.subjects == {"a": env["V"]}


def test_an_empty_variable_counts_as_not_written():
    config = with_tables(TABLES + 'checks: {postgres: "${DSN:-}"}\nhttp: {port: "${PORT:-}"}\nflush: ${FLUSH:-}\n')
    assert (config.checks.postgres, config.http.port, config.flush.rows) == (None, 8090, 500_000)


def test_scalars_that_older_yaml_would_change_stay_as_written():
    config = with_tables(TABLES + "provision: {buckets: [on, 0123, 1:30, 2026-01-01, 0x1F, 1_000]}")
    assert config.provision.buckets == ("on", "0123", "1:30", "2026-01-01", "0x1F", "1_000")


def test_free_form_numbers_reach_the_client_as_they_were_written():
    text = "name: p\nsource: {kafka: {bootstrap_servers: h:1, properties: {a: 1.10, b: 007, c: true, d: 1e5}}}\n"
    config = from_text(text + "decode: json\nsink: {iceberg: {}}\n" + TABLES)
    assert config.kafka_properties() == {"a": "1.10", "b": "007", "c": "true", "d": "1e5"}


def test_start_can_be_a_moment():
    source = {"kafka": {"bootstrap_servers": "h:1", "start": "2026-01-31T12:00:00+11:00"}}
    assert from_mapping(minimal(source=source)).source.kafka.start == datetime(2026, 1, 31, 1, tzinfo=UTC)


def test_the_flush_of_a_table_takes_what_it_leaves_out_from_the_common_one():
    config = with_tables("flush: {rows: 7, interval: 9s}\ntables: [{topics: [t], table: a.b, flush: {interval: 1s}}]")
    assert config.flush_of(config.tables[0]).model_dump() == {
        "interval": timedelta(seconds=1),
        "rows": 7,
        "bytes": 2**27,
    }


def test_declared_json_fields_are_normalised():
    config = from_mapping(
        minimal(decode={"json": {"fields": {"price": "decimal( 18 , 6 )", "a": "list< struct<b: long> >"}}})
    )
    assert config.decode.fields == {"price": "decimal(18,6)", "a": "list<struct<b:long>>"}


def test_a_tables_own_decoder_comes_first():
    config = with_tables(
        "tables: [{topics: [t], table: a.b, decode: {json: {fields: {a: int}}}}, {topics: [t], table: a.c}]"
    )
    assert [config.decode_of(table).fields for table in config.tables] == [{"a": "int"}, None]


def test_anchors_can_be_used():
    config = with_tables("flush: &f {rows: 7}\ntables: [{topics: [t], table: a.b, flush: *f}]")
    assert config.tables[0].flush.rows == 7


@pytest.mark.parametrize("servers", ["h", "h:1", "h:1,i:2", "SASL_SSL://h:1, i:2", "[::1]:9092", "10.0.0.1:9092"])
def test_bootstrap_servers_are_taken_as_librdkafka_takes_them(servers):
    source = {"kafka": {"bootstrap_servers": servers}}
    assert from_mapping(minimal(source=source)).source.kafka.bootstrap_servers == servers


def test_the_layout_of_a_table_is_parsed():
    config = from_mapping(
        minimal(tables=[{"topics": ["t"], "table": "a.b", "partition_by": ["day(at)"], "sort_by": ["at desc"]}])
    )
    layout = config.tables[0].layout
    assert ([str(t) for t in layout.partition_by], [str(t) for t in layout.sort_by]) == (
        ["day(at)"],
        ["at desc nulls last"],
    )
