from __future__ import annotations

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from pyiceberg.catalog.sql import SqlCatalog

from lakeward.cli import main
from lakeward.cli.probes import State, look
from lakeward.config import from_mapping
from lakeward.testing.waiting import joined, returned


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def brokers():
    producer = Producer({"bootstrap.servers": "ignored", "test.mock.num.brokers": 1, "log_level": 0})
    cluster = producer.list_topics(timeout=10)
    producer.produce("events", b"x")
    assert producer.flush(10) == 0
    yield ",".join(f"{broker.host}:{broker.port}" for broker in cluster.brokers.values())
    del producer  # it carried the cluster


@pytest.fixture
def nobody():
    """A port on which nothing listens, kept from others while it is needed."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@pytest.fixture
def silent():
    """A port that accepts and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def http_server(answers):
    """Answers each path with (status, body); 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers.get(self.path.partition("?")[0], (404, "{}"))
            if answers.get("user") and not self.headers.get("Authorization"):
                status, body = 401, "{}"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        returned(server.shutdown, "the server's stop")
        server.server_close()
        joined(thread, "the server")


def config(servers, folder, **more):
    return from_mapping(
        {
            "name": "p",
            "source": {"kafka": {"bootstrap_servers": servers, "properties": more.pop("properties", {})}},
            "decode": "json",
            "sink": {"iceberg": more.pop("iceberg", {})},
            "tables": [{"topics": more.pop("topics", ["events"]), "table": "a.b"}],
            **more,
        },
        folder,
    )


def states(findings):
    return {finding.kind: finding.state for finding in findings}


def only(findings, kind):
    [finding] = [finding for finding in findings if finding.kind == kind]
    return finding


def run(*args):
    return CliRunner().invoke(main, args)


def test_without_a_file_the_way_to_get_one_is_said():
    result = run("check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no lakeward.yaml" in result.stderr
    assert "lakeward init" in result.stderr


def test_mistakes_end_the_check_with_2(folder):
    (folder / "lakeward.yaml").write_text("nmae: x\n")
    result = run("check", "--json")
    assert result.exit_code == 2
    assert 'lakeward.yaml:1: nmae: unknown key; did you mean "name"?' in json.loads(result.stdout)["error"]["what"]


def test_variables_come_from_the_environment(folder, monkeypatch):
    run("init", "--from", "kafka-json")
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    assert 'unknown value "LOUD"' in run("check", "--offline").stderr


def test_every_server_is_one_line_and_all_up_is_0(brokers, folder):
    (folder / "lakeward.yaml").write_text(
        f"name: p\nsource: {{kafka: {{bootstrap_servers: '{brokers}'}}}}\ndecode: json\nsink: {{iceberg: {{}}}}\n"
        "tables: [{topics: [events], table: a.b}]\n"
    )
    result = run("check", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["exit_code"]) == (0, 0)
    assert [(s["server"], s["state"]) for s in document["servers"]] == [
        ("kafka", "up"),
        ("topic", "up"),
        ("catalog", "up"),
        ("folder", "up"),
    ]
    assert len(run("check").stdout.splitlines()) == 2 + 4


def test_looking_leaves_nothing_behind(brokers, folder):
    look(config(brokers, folder))
    assert list(folder.iterdir()) == []


def test_partitions_of_a_topic_are_told_and_a_missing_topic_is_wrong(brokers, folder):
    findings = look(config(brokers, folder, topics=["events", "nope"]))
    topics = {finding.name: finding for finding in findings if finding.kind == "topic"}
    assert (topics["events"].state, topics["events"].detail) == (State.UP, "4 partitions")
    assert topics["nope"].state is State.WRONG
    assert "Create it" in topics["nope"].detail


def test_a_pattern_tells_how_many_topics_it_matches(brokers, folder):
    made = config(brokers, folder, tables=[{"topic_pattern": "ev.*", "table": "a.b"}])
    assert only(look(made), "topics").detail == "matches 1 topic"


def test_servers_that_do_not_listen_are_3_and_all_are_named(nobody, folder):
    made = config(
        nobody,
        folder,
        schema_registry={"url": f"http://{nobody}"},
        iceberg={"catalog": {"type": "rest", "uri": f"http://{nobody}"}},
    )
    findings = look(made)
    assert states(findings) == {"kafka": State.DOWN, "schema registry": State.DOWN, "catalog": State.DOWN}
    assert max(finding.state.exit_code for finding in findings) == 3
    assert all("Is it running" in finding.detail for finding in findings)


def test_servers_that_never_answer_are_given_up(silent, folder):
    made = config(
        silent,
        folder,
        schema_registry={"url": f"http://{silent}"},
        iceberg={"catalog": {"type": "rest", "uri": f"http://{silent}"}},
    )
    assert states(look(made, bound=1.0)) == {
        "kafka": State.DOWN,
        "schema registry": State.DOWN,
        "catalog": State.DOWN,
    }


def test_a_property_that_the_client_does_not_know_is_a_configuration_mistake(brokers, folder):
    finding = only(look(config(brokers, folder, properties={"fetch.mni.bytes": 1})), "kafka")
    assert finding.state.exit_code == 2
    assert "fetch.mni.bytes" in finding.detail


def test_a_secret_that_the_client_complains_about_is_not_shown(brokers, folder):
    properties = {"security.protocol": "SSL", "ssl.key.pem": "hunter2-value", "ssl.certificate.pem": "x"}
    finding = only(look(config(brokers, folder, properties=properties)), "kafka")
    assert finding.state is not State.UP
    assert "hunter2-value" not in finding.detail


def test_a_registry_tells_its_subjects_and_version(nobody, folder):
    answers = {"/subjects": (200, '["a-value"]'), "/v1/metadata/version": (200, '{"version": "7.9"}')}
    with http_server(answers) as url:
        finding = only(look(config(nobody, folder, schema_registry={"url": url})), "schema registry")
    assert (finding.state, finding.detail) == (State.UP, "1 subject, version 7.9")


@pytest.mark.parametrize(
    ("answers", "state", "words"),
    [
        ({"/subjects": (403, "{}")}, State.WRONG, "schema_registry.auth"),
        ({"/subjects": (500, "oops")}, State.DOWN, "answers 500"),
        ({}, State.MISCONFIGURED, "/apis/ccompat/v7"),
        ({"/subjects": (200, "<html>")}, State.MISCONFIGURED, "not as a schema registry does"),
    ],
)
def test_a_registry_that_answers_something_else_says_what_to_do(answers, state, words, nobody, folder):
    with http_server(answers) as url:
        finding = only(look(config(nobody, folder, schema_registry={"url": url})), "schema registry")
    assert finding.state is state
    assert words in finding.detail


@pytest.mark.parametrize(("auth", "state"), [(None, State.WRONG), ({"username": "u", "password": "p"}, State.UP)])
def test_a_registry_is_asked_with_its_credentials(auth, state, nobody, folder):
    with http_server({"/subjects": (200, "[]"), "user": (200, "")}) as url:
        made = config(nobody, folder, schema_registry={"url": url, "auth": auth})
        assert only(look(made), "schema registry").state is state


def test_a_rest_catalog_tells_its_namespaces(nobody, folder):
    answers = {
        "/v1/config": (200, '{"defaults": {}, "overrides": {}}'),
        "/v1/namespaces": (200, '{"namespaces": [["a"], ["b"]]}'),
    }
    with http_server(answers) as url:
        made = config(nobody, folder, iceberg={"catalog": {"type": "rest", "uri": url}})
        finding = only(look(made), "catalog")
    assert (finding.state, finding.detail) == (State.UP, "2 namespaces")


def test_a_sqlite_catalog_that_is_there_is_opened(nobody, folder):
    (folder / "warehouse").mkdir()
    made = config(nobody, folder)
    catalog = SqlCatalog("lakeward", **made.catalog_properties())
    catalog.engine.dispose()
    findings = look(made)
    assert (only(findings, "catalog").detail, only(findings, "folder").detail) == ("database answers", "writable")


def test_a_database_without_catalog_tables_is_left_as_it_is(nobody, folder):
    (folder / "c.db").touch()
    made = config(nobody, folder, iceberg={"catalog": {"type": "sql", "uri": "sqlite:///c.db", "warehouse": "w"}})
    assert only(look(made), "catalog").detail == "database answers; the catalog's tables will be created"
    assert (folder / "c.db").stat().st_size == 0


def test_a_warehouse_that_is_a_file_is_wrong(nobody, folder):
    (folder / "w").write_text("")
    assert only(look(config(nobody, folder, iceberg={"warehouse": "w/x"})), "folder").state is State.WRONG


def test_an_object_store_that_does_not_listen_is_down(nobody, folder):
    catalog = {
        "type": "sql",
        "uri": "sqlite:///c.db",
        "warehouse": "s3://bucket/",
        "s3.endpoint": f"http://{nobody}",
        "s3.access-key-id": "a",
        "s3.secret-access-key": "b",
        "s3.region": "us-east-1",
    }
    finding = only(look(config(nobody, folder, iceberg={"catalog": catalog}), bound=2.0), "object store")
    assert finding.state is State.DOWN
