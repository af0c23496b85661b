from __future__ import annotations

from datetime import timedelta

import pytest

from lakeward.config.units import format_interval, parse_interval, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("1m", 60),
        ("2h", 7200),
        ("7d", 604800),
        ("1.5s", 1.5),
        ("300", 300),
        (2, 2),
        (0.5, 0.5),
    ],
)
def test_an_interval_is_read_and_a_bare_number_is_seconds(text, seconds):
    assert parse_interval(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "5 parsecs", "-1s", "0s", 0, -3, float("nan"), float("inf"), "1e3", True, "9" * 30 + "d", "5M"]
)
def test_a_wrong_interval_is_refused(text):
    with pytest.raises(ValueError):
        parse_interval(text)


@pytest.mark.parametrize("text", ["250ms", "5s", "90s", "1m", "36h", "7d"])
def test_an_interval_is_printed_as_it_is_read(text):
    assert format_interval(parse_interval(text)) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        (4096, 4096),
        ("128MiB", 2**27),
        ("1GB", 10**9),
        ("64kib", 2**16),
        ("1.5KiB", 1536),
        ("2 TB", 2 * 10**12),
    ],
)
def test_a_size_is_read_in_powers_of_1000_or_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", -1, "1.5", "12 apples", "1PiBs", True, float("inf")])
def test_a_wrong_size_is_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)
