from __future__ import annotations

from pathlib import Path

import pytest

from lakeward.config import from_mapping, load, load_text
from lakeward.config.sources import OWNED_PROPERTIES
from lakeward.errors import ConfigurationError
from lakeward.sources.kafka_client import TAKEN

GOOD = """\
name: clicks
source:
  kafka: {bootstrap_servers: localhost:9092}
decode: json
sink:
  iceberg: {warehouse: ./warehouse}
tables:
  - {topics: [clicks], table: web.clicks}
"""


def mistakes(text, env=None):
    with pytest.raises(ConfigurationError) as caught:
        load_text(text, "f.yaml", env or {}, Path("/somewhere"))
    assert caught.value.exit_code == 2
    return caught.value.what.splitlines()


def with_table(table, **other):
    lines = GOOD.splitlines()[:-1] + [f"  - {table}"] + [f"{key}: {value}" for key, value in other.items()]
    return "\n".join(lines)


def test_twelve_different_mistakes_are_reported_at_once_sorted_by_line():
    text = """\
name: clicks
source:
  kafka:
    bootstrap_server: localhost:9092
    on_lost_positions: stpo
    properties: {enable.auto.commit: true}
decode: avro
sink:
  iceberg:
    catalog: {type: rets, uri: "${CATALOG}"}
flush: {interval: 5 parsecs}
flush: {rows: 5}
tables:
  - topics: [a, a]
    table: web.{tpoic}
    partition_by: [dya(at)]
    mode: apend
"""
    assert mistakes(text) == [
        'f.yaml:4: source.kafka.bootstrap_server: unknown key; did you mean "bootstrap_servers"?',
        'f.yaml:5: source.kafka.on_lost_positions: unknown value "stpo"; did you mean "stop"?',
        (
            "f.yaml:6: source.kafka.properties.enable.auto.commit: this property is lakeward's to set: "
            "positions are kept in the tables"
        ),
        "f.yaml:7: decode: avro needs a schema_registry; write `schema_registry: {url: …}`",
        "f.yaml:10: sink.iceberg.catalog.uri: the variable CATALOG is not set; set it, or write ${CATALOG:-default}",
        'f.yaml:10: sink.iceberg.catalog.type: unknown catalog type "rets"; did you mean "rest"?',
        "f.yaml:11: flush.interval: is not a duration; write 250ms, 5s, 1m, 2h or 7d",
        "f.yaml:12: flush: this key is here twice, first in line 11",
        'f.yaml:14: tables[0].topics[1]: "a" is listed twice',
        'f.yaml:15: tables[0].table: {tpoic} is not known without a pattern; did you mean "topic"?',
        (
            'f.yaml:16: tables[0].partition_by[0]: "dya" is not a partition transform; there are identity, year, '
            "month, "
            "day, hour, bucket, truncate"
        ),
        'f.yaml:17: tables[0].mode: unknown value "apend"; did you mean "append"?',
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f.yaml:1: the file is empty; `lakeward init` writes one to start from"),
        ("# only a comment\n", "f.yaml:1: the file is empty; `lakeward init` writes one to start from"),
        ("just words", "f.yaml:1: must be a section: keys with values"),
        ("- a\n- b", "f.yaml:1: must be a section: keys with values"),
        (
            "name: x\nsource: {a: [}",
            "f.yaml:2: this is not YAML: while parsing a flow node, expected the node content, but found '}'",
        ),
        (
            "name: x\n\tb: c",
            (
                "f.yaml:2: this is not YAML: while scanning for the next token, found character '\\t' that cannot "
                "start any token"
            ),
        ),
        (
            "name: x\n---\nname: y",
            "f.yaml:2: this is not YAML: expected a single document in the stream, but found another document",
        ),
        ("name: a\x00b", "f.yaml:1: this is not YAML: special characters are not allowed"),
        ("a: &a [*a]", "f.yaml:1: the file is nested too deeply or repeats itself too often"),
        ("a: " + "[" * 3000, "f.yaml:1: the file is nested too deeply or repeats itself too often"),
    ],
)
def test_what_is_not_a_configuration_at_all_is_said_in_one_line(text, expected):
    assert mistakes(text) == [expected]


def test_aliases_that_multiply_are_cut_off():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert mistakes("\n".join(levels)) == ["f.yaml:1: the file is nested too deeply or repeats itself too often"]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("http: {prot: 8090}", 'f.yaml:9: http.prot: unknown key; did you mean "port"?'),
        (
            "zzz: 1",
            (
                "f.yaml:9: zzz: unknown key; there is name, source, schema_registry, decode, sink, tables, flush, "
                "dead_letters, snapshots, log, http, provision, checks"
            ),
        ),
        ("dead_letters: {max_rate: 1.5}", "f.yaml:9: dead_letters.max_rate: must be at most 1"),
        ("dead_letters: {table: web.clicks}", "f.yaml:9: dead_letters.table: web.clicks has rows of its own"),
        (
            'dead_letters: {table: "{table}"}',
            "f.yaml:9: dead_letters.table: must be another table than that of the rows",
        ),
        (
            'dead_letters: {table: "ops.{topic}"}',
            "f.yaml:9: dead_letters.table: {topic} is not known here; {table} is the name of the table",
        ),
        ('http: {port: "8090"}', "f.yaml:9: http.port: must be a whole number"),
        ("http: {port: 80900}", "f.yaml:9: http.port: must be at most 65535"),
        ("flush: {rows: 0}", "f.yaml:9: flush.rows: must be at least 1"),
        ("flush: {rows: 1.5}", "f.yaml:9: flush.rows: must be a whole number"),
        ("flush: {bytes: lots}", "f.yaml:9: flush.bytes: is not a size; write 4096, 64KiB, 128MiB or 1GB"),
        ("flush: 5s", "f.yaml:9: flush: must be a section: keys with values"),
        ("snapshots: {keep: 0d}", "f.yaml:9: snapshots.keep: must be at least 1ms"),
        ("log: {level: LOUD}", 'f.yaml:9: log.level: unknown value "LOUD"; there is DEBUG, INFO, WARNING, ERROR'),
        (
            "schema_registry: {url: localhost:8081}",
            "f.yaml:9: schema_registry.url: must be a URL that begins with http:// or https://",
        ),
        (
            "log: !!python/name:os.system {}",
            "f.yaml:9: log: the tag tag:yaml.org,2002:python/name:os.system is not read here",
        ),
        ("? [a, b]\n: c", "f.yaml:9: a key must be a single word or text"),
        (
            "<<: {a: b}",
            (
                "f.yaml:9: <<: unknown key; there is name, source, schema_registry, decode, sink, tables, flush, "
                "dead_letters, snapshots, log, http, provision, checks"
            ),
        ),
    ],
)
def test_a_wrong_section_is_one_line(extra, expected):
    assert mistakes(GOOD + extra) == [expected]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            "{topics: [a], table: trades}",
            "f.yaml:8: tables[0].table: must be namespace.table, such as market_data.trades",
        ),
        ("{topics: [], table: a.b}", "f.yaml:8: tables[0].topics: must not be empty"),
        ("{topics: [a], table: a.b, key: [id]}", "f.yaml:8: tables[0].key: goes with mode: upsert"),
        ("{topics: [a], table: a.b, on_delete: mark}", "f.yaml:8: tables[0].on_delete: goes with mode: upsert"),
        (
            "{topics: [a], table: a.b, mode: upsert}",
            "f.yaml:8: tables[0].mode: upsert needs to know which columns are the key; write `key: [column]`",
        ),
        (
            "{topics: [a], table: a.b, mode: upsert, key: [id], decode: bytes}",
            "f.yaml:8: tables[0].mode: upsert needs columns that are a key, and decode: bytes makes none",
        ),
        (
            "{topics: [a], table: a.b, mode: upsert, key: [a, b], decode_key: long}",
            "f.yaml:8: tables[0].decode_key: a long is one column, and the key has 2",
        ),
        (
            "{topics: [a], table: a.b, mode: upsert, decode: debezium, decode_key: json}",
            "f.yaml:8: tables[0].decode_key: the keys of change events are read as the events are",
        ),
        (
            "{topics: [a], table: a.b, mode: upsert, key: [id], gaps: {key: [a], sequence: b}}",
            "f.yaml:8: tables[0].gaps: goes with mode: append; of rows that are replaced no sequence is left",
        ),
        (
            "{topics: [a], table: a.b, metadata_columns: {op: operation}}",
            "f.yaml:8: tables[0].metadata_columns.op: only change events tell operation; these are json",
        ),
        (
            "{topics: [a], table: a.b, mode: upsert, key: [id], columns: {exclude: [id]}}",
            'f.yaml:8: tables[0].key: "id" is left out of the table by columns.exclude',
        ),
        ("{topics: a, table: a.b}", "f.yaml:8: tables[0].topics: must be a list, such as [a, b]"),
        ("{topics: [1], table: a.b}", "f.yaml:8: tables[0].topics[0]: must be a text; put it in quotes"),
        (
            '{topics: ["a.*"], table: a.b}',
            "f.yaml:8: tables[0].topics[0]: is not a topic name; a pattern goes into `topic_pattern`",
        ),
        ("{table: a.b}", "f.yaml:8: tables[0]: nothing feeds it; write one of topics, topic_pattern, source_table"),
        ("{topic: [a], table: a.b}", 'f.yaml:8: tables[0].topic: unknown key; did you mean "topics"?'),
        (
            "{topics: [a], topic_pattern: b, table: a.b}",
            "f.yaml:8: tables[0]: names topics and topic_pattern; a table has one of them",
        ),
        (
            "{source_table: a, table: a.b}",
            "f.yaml:8: tables[0].source_table: goes with source.postgres_buffer, and the source is kafka",
        ),
        (
            '{topic_pattern: "(", table: a.b}',
            (
                "f.yaml:8: tables[0].topic_pattern: is not a regular expression: "
                "missing ), unterminated subpattern at position 0"
            ),
        ),
        (
            '{topic_pattern: "(?P<name>a)", table: "a.{nmae}"}',
            'f.yaml:8: tables[0].table: {nmae} is not a group of the pattern; did you mean "name"?',
        ),
        ("{topics: [a], table: a.b, partition_by: [bucket(16, id)]}", None),
        (
            "{topics: [a], table: a.b, partition_by: [day(at), at as at_day]}",
            (
                'f.yaml:8: tables[0].partition_by: two partition fields are named "at_day"; name one of them with '
                '"as other_name"'
            ),
        ),
        ("{topics: [a], table: a.b, sort_by: [at, at desc]}", 'f.yaml:8: tables[0].sort_by: "at" is sorted by twice'),
        (
            "{topics: [a], table: a.b, decode: jsno}",
            'f.yaml:8: tables[0].decode: unknown decoder "jsno"; did you mean "json"?',
        ),
        (
            "{topics: [a], table: a.b, decode: protobuf}",
            (
                "f.yaml:8: tables[0].decode: protobuf is not decoded; "
                "write `decode: bytes` to keep the records as they are"
            ),
        ),
        (
            '{topics: [a], table: a.b, decode: {json: {fields: {a: "list<lnog>"}}}}',
            'f.yaml:8: tables[0].decode.json.fields.a: unknown type "lnog>"; did you mean "long"?',
        ),
        (
            "{topics: [a], table: a.b, decode: {json: {feilds: {}}}}",
            'f.yaml:8: tables[0].decode.json.feilds: unknown key; did you mean "fields"?',
        ),
        (
            "{topics: [a], table: a.b, decode: {json: {}, bytes: {}}}",
            "f.yaml:8: tables[0].decode: names more than one decoder: json, bytes",
        ),
        (
            "{topics: [a], table: a.b, decode: {json: {fields: {a: lnog}}}}",
            'f.yaml:8: tables[0].decode.json.fields.a: unknown type "lnog"; did you mean "long"?',
        ),
        (
            '{topics: [a], table: a.b, decode: {json: {fields: {a: "decimal(39,2)"}}}}',
            (
                "f.yaml:8: tables[0].decode.json.fields.a: "
                '"decimal(39,2)": the precision must be 1 to 38 and the scale 0 to the precision'
            ),
        ),
        (
            "{topics: [a], table: a.b, metadata_columns: {o: ofset}}",
            'f.yaml:8: tables[0].metadata_columns.o: unknown metadata "ofset"; did you mean "offset"?',
        ),
        (
            "{topics: [a], table: a.b, mode: upsrt}",
            'f.yaml:8: tables[0].mode: unknown value "upsrt"; did you mean "upsert"?',
        ),
        (
            "{topics: [a], table: a.b, gaps: {key: [a], sequense: b}}",
            'f.yaml:8: tables[0].gaps.sequense: unknown key; did you mean "sequence"?',
        ),
        (
            "{topics: [a], table: a.b, dead_letters: {table: a.b}}",
            "f.yaml:8: tables[0].dead_letters.table: a.b has rows of its own",
        ),
        (
            "{topics: [a], table: a.b, columns: {include: [x], exclude: [y]}}",
            "f.yaml:8: tables[0].columns.exclude: columns.include already leaves out all others; write one of them",
        ),
        (
            "{topics: [a], table: a.b, columns: {exclude: [x], rename: {x: y}}}",
            'f.yaml:8: tables[0].columns.rename.x: "x" is left out of the table',
        ),
        (
            "{topics: [a], table: a.b, columns: {include: [z], rename: {x: y}}}",
            'f.yaml:8: tables[0].columns.rename.x: "x" is left out of the table',
        ),
        (
            "{topics: [a], table: a.b, columns: {exclude: [n]}, gaps: {key: [k], sequence: n}}",
            'f.yaml:8: tables[0].gaps: "n" is left out of the table by columns.exclude',
        ),
    ],
)
def test_a_wrong_table_is_one_line(table, expected):
    if expected is None:
        assert all("was cut at a comma; put the whole term in quotes" in line for line in mistakes(with_table(table)))
    else:
        assert mistakes(with_table(table)) == [expected]


def test_two_columns_cannot_be_given_one_name():
    assert mistakes(with_table("{topics: [a], table: a.b, columns: {rename: {x: z, y: z}}}")) == [
        'f.yaml:8: tables[0].columns.rename.x: two columns would be named "z"',
        'f.yaml:8: tables[0].columns.rename.y: two columns would be named "z"',
    ]


def test_two_tables_with_one_name_are_refused():
    assert mistakes(GOOD + "  - {topics: [other], table: web.clicks}") == [
        "f.yaml:9: tables[1].table: tables[0] has this name too; write one entry that lists all of its topics"
    ]


def test_the_newer_group_protocol_may_be_chosen_and_leaves_sessions_to_the_brokers():
    properties = "9092, properties: {group.protocol: consumer, session.timeout.ms: 6000}}"
    assert mistakes(GOOD.replace("9092}", properties)) == [
        "f.yaml:3: source.kafka.properties.session.timeout.ms: with group.protocol: consumer it is the brokers' to set"
    ]
    assert mistakes(GOOD.replace("9092}", "9092, properties: {group.protocol: x}}")) == [
        "f.yaml:3: source.kafka.properties.group.protocol: is neither classic nor consumer"
    ]


@pytest.mark.parametrize(
    "name", ["group.id", "bootstrap.servers", "auto.offset.reset", "isolation.level", "enable.partition.eof"]
)
def test_properties_on_which_exactly_once_rests_are_refused(name):
    text = GOOD.replace("9092}", "9092, properties: {" + name + ": x}}")
    [line] = mistakes(text)
    assert line.startswith(f"f.yaml:3: source.kafka.properties.{name}: this property is lakeward's to set: ")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            "{warehouse: ./warehouse}",
            "{warehouse: s3://b/w}",
            (
                "f.yaml:6: sink.iceberg.warehouse: only a local folder can do without a catalog; write "
                "sink.iceberg.catalog"
            ),
        ),
        (
            "{warehouse: ./warehouse}",
            "{warehouse: a, catalog: {type: sql, uri: x, warehouse: b}}",
            "f.yaml:6: sink.iceberg.warehouse: the catalog names a warehouse too; write one of them",
        ),
        ("decode: json\n", "\n", "f.yaml:8: tables[0]: nothing says how its records are read; write `decode: avro`"),
        (
            "decode: json\n",
            "decode: avro\n",
            "f.yaml:4: decode: avro needs a schema_registry; write `schema_registry: {url: …}`",
        ),
        ("  iceberg: {warehouse: ./warehouse}", "  {}", "f.yaml:5: sink: names none of iceberg, delta"),
        ("iceberg:", "icebreg:", 'f.yaml:6: sink.icebreg: unknown key; did you mean "iceberg"?'),
        (
            "iceberg: {warehouse: ./warehouse}",
            "iceberg: {}\n  delta: {location: x}",
            "f.yaml:5: sink: names iceberg and delta; a pipeline has one sink",
        ),
        ("name: clicks\n", "\n", "f.yaml:2: name: is required"),
        (
            "localhost:9092",
            "http://localhost:9092/x",
            "f.yaml:3: source.kafka.bootstrap_servers: must be one or more host:port, separated by commas",
        ),
        (
            "localhost:9092",
            "a:1, start: yesterday",
            'f.yaml:3: source.kafka.start: unknown start "yesterday"; there is earliest, latest, 2026-01-31T00:00:00Z',
        ),
        (
            "localhost:9092",
            "a:1, start: 2026-01-31T00:00:00",
            "f.yaml:3: source.kafka.start: has no time zone; write it as 2026-01-31T00:00:00Z",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line(before, after, expected):
    assert mistakes(GOOD.replace(before, after)) == [expected]


def test_an_unset_variable_names_file_line_and_variable_and_hides_what_follows_from_it():
    assert mistakes(GOOD.replace("localhost:9092", '"${BROKERS}"')) == [
        (
            "f.yaml:3: source.kafka.bootstrap_servers: the variable BROKERS is not set; set it, or write "
            "${BROKERS:-default}"
        )
    ]


def test_a_mapping_has_the_same_checks_without_lines():
    with pytest.raises(ConfigurationError) as caught:
        from_mapping(
            {"name": "x", "source": {"kafka": {"bootstrap_servers": "h:1"}}, "sink": {"iceberg": {}}, "tables": []}
        )
    assert caught.value.what == "configuration: tables: must not be empty"


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "none.yaml", {})
    assert f"`lakeward init {tmp_path / 'none.yaml'}`" in caught.value.way_out


def test_a_file_that_is_not_text_or_not_a_file_is_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    for path, words in ((tmp_path / "latin.yaml", "is not UTF-8 text"), (tmp_path, "cannot be read: Is a directory")):
        with pytest.raises(ConfigurationError, match=words):
            load(path, {})


def test_every_property_that_the_source_sets_itself_is_refused():
    assert TAKEN - set(OWNED_PROPERTIES) == set()
