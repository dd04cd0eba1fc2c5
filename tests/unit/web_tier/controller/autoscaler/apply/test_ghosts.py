"""Who is suspected, as a function of lives, of how far they were heard, and of the limits."""

from dataclasses import replace

import pytest

from tests.unit.web_tier.controller.autoscaler.decide.test_decide import limits
from web_tier.controller.autoscaler.apply.ghosts import DRAIN_MARGIN_SECONDS, suspects
from web_tier.controller.autoscaler.observe.lives import HeartbeatCoverage, Life

LIMITS = limits(boot_allowance_seconds=120, silent_seconds=60)
NEW = Life(since=0.0, begun=1000.0, begun_listened=500.0, launched=1000.0, own=True, alive=True)
HEARD = replace(NEW, heard=1010.0, heard_listened=510.0, said="busy")


def why(life: Life, until: float | None, *, listened: float | None = None, at: float = 1000.0) -> str | None:
    """Why `life` is suspected once all was heard `until` then, by default without a gap."""
    heard = HeartbeatCoverage(until, (until or 0.0) - 500.0 if listened is None else listened)
    found = suspects({"i-1": life}, heard, LIMITS, 30.0, at).get("i-1")
    return None if found is None else found.words


@pytest.mark.parametrize(
    ("life", "until", "words"),
    [
        (NEW, 1119.0, None),
        (NEW, 1120.0, "not heard of for 2 min"),
        (HEARD, 1119.0, None),
        (HEARD, 1120.0, "silent for 60 s"),
        (replace(HEARD, heard=1100.0, heard_listened=600.0), 1159.0, None),
        (replace(HEARD, said="ended"), 1120.0, "its worker ended 60 s ago and its machine goes on"),
        (replace(NEW, alive=False), 9999.0, None),
        (replace(HEARD, alive=False), 9999.0, None),
    ],
)
def test_one_is_suspected_that_is_alive_and_has_not_been_heard_of_for_too_long(
    life: Life, until: float, words: str | None
) -> None:
    assert why(life, until) == words


def test_nobody_is_silent_as_long_as_nobody_has_listened() -> None:
    assert why(NEW, None, at=9999.0) is None
    assert why(HEARD, None, at=9999.0) is None


def test_neither_time_in_which_nobody_listened_counts_nor_time_before_the_beginning() -> None:
    assert why(NEW, 9999.0, listened=500.0 + 119.0) is None
    assert why(NEW, 9999.0, listened=500.0 + 120.0) is not None
    assert why(NEW, 1119.0, listened=9999.0) is None


def test_one_that_was_asked_to_end_has_its_time_for_that_whatever_is_heard_of_it() -> None:
    asked = replace(HEARD, asked=1000.0)
    longest = 30.0 + DRAIN_MARGIN_SECONDS
    assert why(asked, None, at=1000.0 + longest - 1) is None
    assert why(asked, None, at=1000.0 + longest) == "asked to end 90 s ago and still there"
