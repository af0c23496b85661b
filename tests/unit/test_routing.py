"""Which table a topic feeds."""

from __future__ import annotations

import re

from lakeward.routing import Route, tables_for

SHOP = Route("{region}.{table}", pattern=re.compile(r"shop\.(?P<region>\w+)\.(?P<table>\w+)"))


def test_a_named_topic_feeds_its_table_and_no_other_does() -> None:
    route = Route("ns.t", frozenset({"a", "b"}))
    assert [route.table_for(topic) for topic in ("a", "b", "c")] == ["ns.t", "ns.t", None]


def test_a_pattern_matches_whole_names_only() -> None:
    assert SHOP.table_for("shop.eu.orders") == "eu.orders"
    assert SHOP.table_for("shop.eu.orders.v2") is None
    assert SHOP.table_for("my.shop.eu.orders") is None


def test_a_pattern_without_groups_names_the_table_by_the_topic() -> None:
    assert Route("raw.{topic}", pattern=re.compile(r"x-\d+")).table_for("x-7") == "raw.x-7"


def test_a_topic_feeds_several_tables_but_each_once_by_the_first_route() -> None:
    routes = [Route("ns.a", frozenset({"t"})), Route("ns.b", frozenset({"t"})), Route("ns.a", pattern=re.compile("t"))]
    assert tables_for(routes, "t") == [(0, "ns.a"), (1, "ns.b")]
