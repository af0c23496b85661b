from __future__ import annotations

import pytest

from lakeward.config.environment import Substituted, expand

ENV = {"HOST": "kafka", "EMPTY": "", "TRICKY": "${HOST} [a, b]: {c: d} # e"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain $HOST {x}", "plain $HOST {x}"),
        ("${HOST}", "kafka"),
        ("${HOST}:${PORT:-9092}", "kafka:9092"),
        ("${EMPTY}", ""),
        ("${EMPTY:-full}", "full"),
        ("${NONE:-}", ""),
        (r"${NONE:-a{2}\.(?P<x>\w+)}", r"a{2}\.(?P<x>\w+)"),
        ("${NONE:-${HOST}/${ALSO:-x}}", "kafka/x"),
        ("$${HOST} ${HOST}", "${HOST} kafka"),
    ],
)
def test_references_are_replaced(text, expected):
    expansion = expand(text, ENV)
    assert (expansion.text, expansion.problems) == (expected, [])


def test_a_value_is_not_expanded_again():
    assert expand("${TRICKY}", ENV).text == ENV["TRICKY"]


@pytest.mark.parametrize(("text", "whole"), [("${HOST}", True), ("${HOST}${HOST}", False), ("x${HOST}", False)])
def test_it_is_known_whether_a_variable_is_the_whole_value(text, whole):
    text = expand(text, ENV).text
    assert isinstance(text, Substituted)
    assert text.whole is whole


@pytest.mark.parametrize("text", ["${", "${HOST", "${}", "${1A}", "${HOST-default}", "${A B}"])
def test_a_malformed_reference_is_a_problem(text):
    assert len(expand(text, ENV).problems) == 1


def test_every_unset_variable_is_named():
    problems = expand("${USER_A}:${USER_B}@${HOST}", ENV).problems
    assert ["USER_A" in problems[0], "USER_B" in problems[1]] == [True, True]
