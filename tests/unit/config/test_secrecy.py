from __future__ import annotations

import json
import traceback

import pytest

from lakeward.config import Secret, from_mapping, load_text, reveal
from lakeward.config.secrecy import is_secret, masked
from lakeward.errors import ConfigurationError

HIDDEN = "hunter2-value"


def config(**kafka):
    return from_mapping(
        {
            "name": "p",
            "source": {"kafka": {"bootstrap_servers": "h:1", **kafka}},
            "schema_registry": {"url": "http://h:1", "auth": {"username": "u", "password": HIDDEN}},
            "decode": "avro",
            "sink": {
                "iceberg": {
                    "catalog": {
                        "type": "sql",
                        "uri": f"postgresql://me:{HIDDEN}@db/catalog",
                        "s3.secret-access-key": HIDDEN,
                        "credential": HIDDEN,
                        "auth": {"basic": {"username": "u", "password": HIDDEN}},
                        "s3.endpoint": "http://s3:9000",
                    }
                }
            },
            "tables": [{"topics": ["t"], "table": "a.b"}],
            "checks": {"postgres": f"host=db password={HIDDEN}"},
        }
    )


@pytest.mark.parametrize(
    "key",
    [
        "sasl.password",
        "ssl.key.password",
        "s3.secret-access-key",
        "s3.access-key-id",
        "s3.session-token",
        "credential",
        "token",
        "AWS_SECRET_ACCESS_KEY",
        "adls.connection-string",
        "adls.account-key",
        "sasl.jaas.config",
        "header.Authorization",
        "private_key",
        "ssl.key.pem",
    ],
)
def test_a_setting_that_looks_like_a_secret_is_one(key):
    assert is_secret(key)


@pytest.mark.parametrize(
    "key", ["s3.endpoint", "s3.region", "security.protocol", "sasl.username", "fetch.min.bytes", "warehouse", "uri"]
)
def test_ordinary_settings_can_be_seen(key):
    assert not is_secret(key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:p@ss/w@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("host=db password='a b' user=me", "host=db password=*** user=me"),
        ("http://h/x?sslpassword=s&a=b", "http://h/x?sslpassword=***&a=b"),
        ("http://localhost:8081/subjects", "http://localhost:8081/subjects"),
        ("s3://bucket/path", "s3://bucket/path"),
    ],
)
def test_passwords_in_urls_and_connection_strings_are_masked(text, expected):
    assert masked(text) == expected


def test_no_secret_shows_in_any_print_of_a_configuration():
    made = config(properties={"sasl.password": HIDDEN})
    prints = [repr(made), str(made), json.dumps(made.redacted()), repr(made.model_dump()), made.model_dump_json()]
    assert [HIDDEN in text for text in prints] == [False] * 5
    assert made.redacted()["sink"]["iceberg"]["catalog"]["uri"] == "postgresql://me:***@db/catalog"
    assert made.redacted()["sink"]["iceberg"]["catalog"]["s3.endpoint"] == "http://s3:9000"


def test_the_clients_get_the_secrets():
    made = config(properties={"sasl.password": HIDDEN, "fetch.min.bytes": 5})
    assert made.kafka_properties() == {"sasl.password": HIDDEN, "fetch.min.bytes": "5"}
    catalog = made.catalog_properties()
    assert catalog["uri"] == f"postgresql://me:{HIDDEN}@db/catalog"
    assert catalog["auth"] == {"basic": {"username": "u", "password": HIDDEN}}
    assert reveal({"a": Secret("x"), "b": {"c": Secret("y")}, "d": "z"}) == {"a": "x", "b": {"c": "y"}, "d": "z"}


def test_no_secret_shows_in_an_error_nor_in_its_traceback():
    text = f"""
name: [{HIDDEN}]
source: {{kafka: {{bootstrap_servers: "u:{HIDDEN}@h/x", properties: {{sasl.password: [{HIDDEN}]}}}}}}
schema_registry: {{url: "http://u:{HIDDEN}@h", auth: {{username: u, password: {{a: {HIDDEN}}}}}}}
sink: {{iceberg: {{catalog: {{uri: ["postgresql://me:{HIDDEN}@db"]}}}}}}
decode: avro
tables: []
"""
    with pytest.raises(ConfigurationError) as caught:
        load_text(text, "f.yaml", {}, None)
    assert len(caught.value.what.splitlines()) == 7
    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


def test_equal_secrets_are_equal():
    assert Secret("a") == Secret("a")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a") != "a"
