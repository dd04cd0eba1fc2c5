"""Figures in words."""

from datetime import timedelta

import pytest

from services.messages import FleetSnapshot
from tests.unit.web_tier.conftest import NOW
from web_tier.pages.words import ago, duration, file_size, fleet_sentence, percent, plural

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
    assert fleet_sentence(FLEET, NOW) == "Starting 1 of at most 19."


def test_a_controller_that_is_silent_or_has_not_begun_is_named() -> None:
    assert "last reported 60 s ago" in fleet_sentence(FLEET, NOW + timedelta(seconds=60))
    assert "not looked" in fleet_sentence(None)
