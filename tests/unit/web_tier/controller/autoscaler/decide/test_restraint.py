"""How fast a fleet may grow, and how fast its old workers are replaced."""

from dataclasses import replace

import pytest

from core.messages import FleetPause
from tests.support.controller import EPOCH
from tests.unit.web_tier.controller.autoscaler.decide.test_decide import limits, look
from web_tier.controller.autoscaler.decide.decide import decide
from web_tier.controller.autoscaler.decide.restraint import MAX_FAILED_BOOTS
from web_tier.controller.autoscaler.observe.observe import Measured, Observation

NAMES = tuple(f"i-{number}" for number in range(100))


@pytest.mark.parametrize(("lately", "launch"), [(0, 10), (3, 7), (10, 0), (12, 0)])
def test_no_more_are_launched_within_a_minute_than_is_allowed_and_from_zero_at_once(lately: int, launch: int) -> None:
    seen = replace(look(10_000), launched_lately=lately)
    plan = decide(seen, limits(launches_per_minute=10))
    assert (plan.launch, plan.kind) == (launch, "limited")
    assert plan.reason == (
        "10000 images waiting, no workers there, 19 lacking: no more than 10 are launched within a minute"
    )


def test_starts_of_stopped_workers_count_too() -> None:
    seen = replace(look(100, states=("stopped",) * 3), launched_lately=2)
    plan = decide(seen, limits(launches_per_minute=4))
    assert (plan.start, plan.launch) == (("i-0", "i-1"), 0)


def test_what_the_rate_allows_is_launched_without_a_word_of_it() -> None:
    assert decide(replace(look(100), launched_lately=5), limits(launches_per_minute=10)).kind == "starting"


@pytest.mark.parametrize(("failed", "lately", "launch"), [(4, 1, 5), (5, 0, 1), (5, 1, 0), (40, 0, 1)])
def test_when_boots_fail_again_and_again_one_is_tried_each_minute(failed: int, lately: int, launch: int) -> None:
    seen = replace(look(100), launched_lately=lately, measured=Measured(failed_boots=failed))
    plan = decide(seen, limits())
    assert plan.launch == launch
    assert (plan.kind == "failing") == (failed >= MAX_FAILED_BOOTS)
    if plan.kind == "failing":
        assert plan.reason == (
            f"100 images waiting, no workers there, 5 lacking: the last {failed} workers ended before they said a "
            "word: one is tried each minute; see their console output"
        )


def test_a_lost_worker_is_replaced_at_once_but_never_beyond_the_maximum() -> None:
    seen = replace(look(40, states=("running", "running")), lost=frozenset({"i-0"}))
    assert decide(seen, limits()).launch == 1
    assert decide(seen, limits(max_workers=2)).launch == 0


def old(workers: int, outlived: int, *, silent: int = 0) -> Observation:
    """So many workers that have enough to do, of which so many are too old."""
    seen = look(20 * workers, states=("running",) * workers)
    return replace(seen, measured=Measured(outlived=NAMES[:outlived], silent=silent))


def test_old_workers_are_asked_to_end_one_at_a_time_and_of_many_a_tenth() -> None:
    plan = decide(old(4, 3), limits())
    assert (plan.drain, plan.kind, plan.launch) == (("i-0",), "renewing", 0)
    assert plan.reason == "1 worker has run for 24 h, the longest allowed: asked to end, others take its place"
    plan = decide(old(40, 30), limits(max_workers=50, max_lifetime_seconds=7200))
    assert plan.drain == ("i-0", "i-1", "i-2", "i-3")
    assert plan.reason.startswith("4 workers have run for 2 h, the longest allowed: asked to end, others take their")


def test_the_next_one_goes_when_the_one_before_has_ended_and_another_works_in_its_place() -> None:
    first = replace(old(4, 3), draining=frozenset({"i-0"}))
    assert decide(first, limits()).launch == 1
    assert decide(first, limits(max_workers=4)).drain == (), "it is not replaced yet"
    replaced = replace(old(4, 3, silent=1), instances=old(5, 0).instances, draining=frozenset({"i-0"}))
    assert (decide(replaced, limits()).drain, decide(replaced, limits()).launch) == ((), 0)
    ended = replace(old(4, 3, silent=1), instances=old(5, 0).instances[1:])
    assert decide(ended, limits()).drain == (), "its replacement has not been heard of"
    assert decide(replace(ended, measured=Measured(outlived=NAMES[:3])), limits()).drain == ("i-1",)


def test_nobody_is_asked_for_age_while_the_fleet_is_paused_or_too_small() -> None:
    paused = replace(old(4, 3), paused=FleetPause(since=EPOCH))
    assert decide(paused, limits()).drain == ()
    assert decide(replace(old(4, 3), requests=look(200).requests), limits()).drain == ()
