"""The decision: a pure function of what is there and what is allowed."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import Fleet as FleetConfig
from core.messages import FleetPause
from services.sqs import QueueCounts
from tests.conftest import shipped_values
from tests.support.controller import instance
from web_tier.controller.autoscaler.decide.decide import decide
from web_tier.controller.autoscaler.decide.reasons import seconds_in_words
from web_tier.controller.autoscaler.observe.observe import Measured, Observation


def limits(**changes: object) -> FleetConfig:
    own = {"min_workers": 0, "max_workers": 19, "images_per_worker": 20}
    return FleetConfig.model_validate({**shipped_values()["fleet"], **own, **changes})


def look(
    visible: int = 0, in_flight: int = 0, delayed: int = 0, *, states: tuple[str, ...] = (), coming: int = 0
) -> Observation:
    instances = tuple(instance(f"i-{number}", state) for number, state in enumerate(states))
    return Observation(
        QueueCounts(visible, in_flight, delayed), 0, instances, frozenset(f"c-{number}" for number in range(coming))
    )


@pytest.mark.parametrize(
    ("seen", "launch"),
    [
        (look(), 0),
        (look(1), 1),
        (look(100), 5),
        (look(101), 6),
        (look(40, 30, 30), 5),
        (look(10_000), 19),
        (look(100, states=("running", "running")), 3),
        (look(100, states=("pending", "running"), coming=2), 1),
        (look(100, states=("running",) * 7), 0),
        (look(100, states=("stopping", "shutting-down", "terminated")), 5),
    ],
)
def test_one_worker_for_each_twenty_images_counting_all_that_wait_and_all_that_come(
    seen: Observation, launch: int
) -> None:
    assert decide(seen, limits()).launch == launch


def test_stopped_workers_are_started_before_new_ones_are_launched() -> None:
    plan = decide(look(100, states=("stopped", "running", "stopped")), limits())
    assert (plan.start, plan.launch) == (("i-0", "i-2"), 2)


def test_no_more_stopped_workers_are_started_than_are_wanted() -> None:
    plan = decide(look(20, states=("stopped", "stopped")), limits())
    assert (plan.start, plan.launch) == (("i-0",), 0)


def test_a_stopped_worker_that_is_being_started_is_not_started_again() -> None:
    seen = Observation(QueueCounts(40, 0, 0), 0, (instance("i-0", "stopped"),), frozenset({"i-0"}))
    plan = decide(seen, limits())
    assert (plan.launch, plan.start) == (1, ())


def test_the_least_number_of_workers_is_kept_without_any_images() -> None:
    assert decide(look(), limits(min_workers=3)).launch == 3


def test_a_fleet_above_a_lowered_maximum_is_left_to_end_itself() -> None:
    plan = decide(look(1_000, states=("running",) * 8), limits(max_workers=5))
    assert (plan.launch, plan.start, plan.drain) == (0, (), ())
    assert plan.reason == "8 workers, more than the 5 allowed: they end themselves when idle"


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (look(100), "starting 5 of at most 19: 100 images waiting, 20 images a worker, no workers there"),
        (
            look(1, 60, states=("running",)),
            "starting 3 of at most 19: 1 image waiting, 60 in hand, 20 images a worker, 1 worker there",
        ),
        (look(1000, states=("running",) * 19), "19 workers, the most allowed: 1000 images waiting"),
        (look(states=("running",)), "1 worker: no images waiting"),
        (look(0, 7, states=("running",)), "1 worker, enough: no images waiting, 7 in hand, 20 images a worker"),
    ],
)
def test_a_decision_says_why_in_words(seen: Observation, reason: str) -> None:
    assert decide(seen, limits()).reason == reason


@pytest.mark.parametrize(
    ("measured", "states", "reason"),
    [
        (
            Measured(image_seconds=0.03, boot_seconds=42),
            (),
            "starting 5 of at most 19: 100 images waiting, 0.03 s each, 42 s to boot, 20 images a worker, "
            "no workers there",
        ),
        (
            Measured(boot_seconds=0.6, silent=5),
            ("pending",) * 5,
            "5 workers, enough: 100 images waiting, 20 images a worker, 5 not heard of yet, 0.6 s to boot",
        ),
        (
            Measured(image_seconds=1.5, silent=1),
            ("running",) * 5,
            "5 workers, enough: 100 images waiting, 20 images a worker, 1 not heard of yet",
        ),
    ],
)
def test_what_has_been_measured_is_in_the_words_and_what_has_not_is_left_out(
    measured: Measured, states: tuple[str, ...], reason: str
) -> None:
    assert decide(replace(look(100, states=states), measured=measured), limits()).reason == reason


def test_at_the_maximum_it_is_told_how_long_an_image_takes() -> None:
    seen = replace(look(1000, states=("running",) * 19), measured=Measured(image_seconds=0.03))
    assert decide(seen, limits()).reason == "19 workers, the most allowed: 1000 images waiting, 0.03 s each"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0047, "0.0047 s"), (0.031, "0.031 s"), (1.52, "1.5 s"), (9.97, "10 s"), (142, "142 s")]
)
def test_seconds_have_two_digits(seconds: float, words: str) -> None:
    assert seconds_in_words(seconds) == words


PAUSE = FleetPause(since=datetime(2026, 3, 1, 12, 3, tzinfo=UTC))


@pytest.mark.parametrize(
    ("seen", "reason", "words"),
    [
        (
            look(100, states=("running", "pending")),
            "",
            "paused by ops since 12:03 UTC: 100 images waiting, 2 workers finish what they have",
        ),
        (
            look(1, 2, states=("running",)),
            "new model",
            "paused by ops since 12:03 UTC (new model): 1 image waiting, 2 in hand, 1 worker finishes what it has",
        ),
        (look(), "", "paused by ops since 12:03 UTC: no images waiting"),
    ],
)
def test_a_paused_fleet_starts_nothing_and_says_so(seen: Observation, reason: str, words: str) -> None:
    pause = PAUSE.model_copy(update={"reason": reason})
    plan = decide(replace(seen, paused=pause), limits(min_workers=3))
    assert (plan.launch, plan.start, plan.drain, plan.kind, plan.reason) == (0, (), (), "paused", words)


def test_a_paused_fleet_does_not_start_stopped_workers_either() -> None:
    assert decide(replace(look(100, states=("stopped",) * 3), paused=PAUSE), limits()).start == ()


_counts = st.integers(0, 100_000)
_states = st.lists(
    st.sampled_from(["pending", "running", "stopping", "stopped", "shutting-down", "terminated"]), max_size=40
)


@given(
    _counts, _counts, _counts, _states, st.integers(0, 30), st.integers(0, 50), st.integers(0, 50), st.integers(1, 99)
)
def test_no_plan_goes_beyond_the_maximum_or_above_what_is_wanted(
    visible: int, in_flight: int, delayed: int, states: list[str], coming: int, least: int, more: int, each: int
) -> None:
    fleet = limits(min_workers=least, max_workers=least + more, images_per_worker=each)
    seen = look(visible, in_flight, delayed, states=tuple(states), coming=coming)
    plan = decide(seen, fleet)
    started = plan.launch + len(plan.start)
    assert plan.launch >= 0
    assert started == 0 or seen.supply + started <= fleet.max_workers
    assert seen.supply + started >= min(fleet.max_workers, max(fleet.min_workers, -(-seen.requests.total // each)))
    assert set(plan.start) <= {each.instance_id for each in seen.instances if each.state == "stopped"}
    assert decide(seen, fleet) == plan
