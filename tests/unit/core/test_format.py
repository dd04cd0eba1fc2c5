"""Figures, times and counts in words."""

from datetime import timedelta

import pytest

from core.fleet.models import FleetSnapshot
from core.format import (
    ago,
    dollars,
    duration,
    file_size,
    fleet_sentence,
    milliseconds,
    percent,
    plural,
    rate_words,
)
from tests.support.jobs import NOW

FLEET = FleetSnapshot(
    at=NOW, running=5, pending=1, visible=112, in_flight=23, min_workers=0, max_workers=19,
    peak_workers=6, billed_seconds=325, reason="starting 1 of at most 19",
)  # fmt: skip


def test_counts_agree_with_their_noun() -> None:
    assert [plural(count, "image") for count in (0, 1, 2, 1000)] == [
        "0 images",
        "1 image",
        "2 images",
        "1,000 images",
    ]


@pytest.mark.parametrize(("score", "words"), [(0.0, "0%"), (0.934, "93%"), (0.999, "99%"), (1.0, "100%")])
def test_only_what_is_certain_reads_100_percent(score: float, words: str) -> None:
    assert percent(score) == words


@pytest.mark.parametrize(
    ("size", "words"), [(10, "1 KB"), (98_304, "96 KB"), (1_258_291, "1.2 MB"), (10 * 2**20, "10 MB")]
)
def test_sizes_are_short(size: int, words: str) -> None:
    assert file_size(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.44, "1 s"), (14, "14 s"), (325, "5 min"), (7_300, "2 h"), (432_000, "5 days")]
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_moment_is_told_from_now() -> None:
    assert ago(NOW, NOW + timedelta(seconds=14)) == "14 s ago"
    assert ago(NOW, NOW - timedelta(seconds=3)) == "just now"


def test_the_fleet_says_why_it_is_as_it_is() -> None:
    assert fleet_sentence(FLEET) == "Starting 1 of at most 19."


def test_a_controller_that_is_silent_or_has_not_begun_is_named() -> None:
    assert "has not reported for 60 s" in fleet_sentence(FLEET, silent_seconds=60)
    assert "not looked" in fleet_sentence(None)


@pytest.mark.parametrize(
    ("rate", "words"), [(0.25, "0.2 /s"), (9.9, "9.9 /s"), (46.4, "46 /s"), (1234.0, "1,234 /s")]
)
def test_rates_have_a_place_behind_the_point_where_it_matters(rate: float, words: str) -> None:
    assert rate_words(rate) == words


@pytest.mark.parametrize(
    ("length", "words"), [(0.2, "<1 ms"), (7.4, "7 ms"), (820, "820 ms"), (1_420, "1.42 s"), (300_000, "5 min")]
)
def test_short_lengths_are_told_in_milliseconds(length: float, words: str) -> None:
    assert milliseconds(length) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        *((0, "$0.00"), (0.00001, "<$0.0001"), (0.00342, "$0.0034"), (0.0471, "$0.047")),
        *((0.313, "$0.31"), (0.999, "$1.00"), (1234.5, "$1,234.50")),
    ],
)
def test_small_sums_are_told_exactly_enough(amount: float, words: str) -> None:
    assert dollars(amount) == words
