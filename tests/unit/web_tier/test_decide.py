"""The decision: a pure function of what is observed and configured."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet.models import CircuitState, FleetCircuit, FleetPause
from core.format import seconds_in_words
from services.sqs import QueueCounts
from tests.support.autoscaler import booting, explained, fleet_settings, instance, observation
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.observe import FleetMetrics, Observation


@pytest.mark.parametrize(
    ("seen", "launch"),
    [
        (observation(), 0),
        (observation(1), 1),
        (observation(100), 5),
        (observation(101), 6),
        (observation(40, delayed=30), 4),
        (observation(1, 60, states=("running",)), 1),
        (observation(1, 10, states=("running",)), 0),
        (observation(21, 60, states=("running",) * 3), 2),
        (
            replace(
                observation(40, 20, states=("pending",) * 2), metrics=FleetMetrics(unregistered=booting("i-0", "i-1"))
            ),
            0,
        ),
        (observation(0, 500, states=("running",)), 0),
        (observation(0, 500), 0),
        (observation(10_000), 19),
        (observation(100, states=("running", "running")), 3),
        (observation(100, states=("pending", "running"), launching=2), 1),
        (observation(100, states=("running",) * 7), 0),
        (observation(100, states=("stopping", "shutting-down", "terminated")), 5),
    ],
)
def test_one_worker_for_each_twenty_images_that_wait_or_are_held_by_ready_workers(
    seen: Observation, launch: int
) -> None:
    assert decide(seen, fleet_settings()).launch == launch


def test_stopped_workers_are_started_before_new_ones_are_launched() -> None:
    plan = decide(observation(100, states=("stopped", "running", "stopped")), fleet_settings())
    assert (plan.start, plan.launch) == (("i-0", "i-2"), 2)


def test_a_stopped_worker_that_is_being_started_is_not_started_again() -> None:
    seen = Observation(QueueCounts(40, 0, 0), 0, (instance("i-0", "stopped"),), frozenset({"i-0"}))
    plan = decide(seen, fleet_settings())
    assert (plan.launch, plan.start) == (1, ())


def test_the_least_number_of_workers_is_kept_without_any_images_and_is_the_reason() -> None:
    settings = fleet_settings(min_workers=3)
    assert decide(observation(), settings).launch == 3
    assert explained(observation(), settings) == "starting 3 workers (0 → 3, limit 19): the minimum is 3"
    kept = observation(states=("running",) * 3)
    assert explained(kept, settings) == "3 workers are idle, the minimum is 3"
    few = explained(observation(30), settings)
    assert few == "starting 3 workers (0 → 3, limit 19): 30 images left, the minimum is 3"
    for images in (60, 100):
        assert "20 per worker" in explained(observation(images), settings)


def test_a_fleet_above_a_lowered_maximum_is_left_to_end_itself() -> None:
    seen, settings = observation(1_000, states=("running",) * 8), fleet_settings(max_workers=5)
    plan = decide(seen, settings)
    assert (plan.launch, plan.start, plan.drain) == (0, (), ())
    assert explained(seen, settings) == "8 workers, above the limit of 5: they end when idle"


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (observation(100), "starting 5 workers (0 → 5, limit 19): 100 images left, 20 per worker"),
        (
            observation(41, 60, states=("running",)),
            "starting 3 workers (1 → 4, limit 19): 101 images left, 20 per worker",
        ),
        (observation(1000, states=("running",) * 19), "19 workers, the limit: 1,000 images left"),
        (
            replace(observation(1_000, 200, states=("running",) * 19), messages=QueueCounts(26, 5, 0)),
            "19 workers, the limit: 1,200 images in 31 packs left",
        ),
        (observation(states=("running",)), "1 worker is idle and ends by itself"),
        (
            observation(0, 7, states=("running",)),
            "1 worker is enough for 7 images",
        ),
        (observation(0, 7), "no workers, 7 images in flight: received again after the visibility timeout"),
    ],
)
def test_a_decision_says_why_in_words(seen: Observation, reason: str) -> None:
    assert explained(seen, fleet_settings()) == reason


@pytest.mark.parametrize(
    ("measured", "states", "reason"),
    [
        (
            FleetMetrics(image_seconds=0.03, boot_seconds=42),
            (),
            "starting 5 workers (0 → 5, limit 19): 100 images left, 20 per worker",
        ),
        (
            FleetMetrics(boot_seconds=0.6, unregistered=booting(*"abcde")),
            ("pending",) * 5,
            "5 workers are enough for 100 images, 5 workers still booting, 0.6 s to boot",
        ),
        (
            FleetMetrics(image_seconds=1.5, unregistered=booting("a")),
            ("running",) * 5,
            "5 workers are enough for 100 images, 1 worker still booting",
        ),
    ],
)
def test_what_has_been_measured_is_in_the_words_and_what_has_not_is_left_out(
    measured: FleetMetrics, states: tuple[str, ...], reason: str
) -> None:
    assert explained(replace(observation(100, states=states), metrics=measured), fleet_settings()) == reason


def test_at_the_maximum_the_reason_states_the_seconds_of_an_image() -> None:
    seen = replace(observation(1000, states=("running",) * 19), metrics=FleetMetrics(image_seconds=0.03))
    assert explained(seen, fleet_settings()) == "19 workers, the limit: 1,000 images left, 0.03 s each"


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
            observation(100, states=("running", "pending")),
            "",
            "paused by ops since 12:03 UTC: 100 images waiting, 2 workers finish what they have",
        ),
        (
            observation(1, 2, states=("running",)),
            "new model",
            "paused by ops since 12:03 UTC (new model): 1 image waiting, 2 in flight, 1 worker finishes what it has",
        ),
        (
            replace(observation(1_000, 200), messages=QueueCounts(26, 5, 0)),
            "",
            "paused by ops since 12:03 UTC: 1,000 images in 26 packs waiting, 200 in flight",
        ),
        (observation(), "", "paused by ops since 12:03 UTC: no images waiting"),
    ],
)
def test_a_paused_fleet_starts_nothing_and_says_so(seen: Observation, reason: str, words: str) -> None:
    paused = replace(seen, pause=PAUSE.model_copy(update={"reason": reason}))
    plan = decide(paused, fleet_settings(min_workers=3))
    assert (plan.launch, plan.start, plan.drain, plan.kind) == (0, (), (), "paused")
    assert explained(paused, fleet_settings(min_workers=3)) == words


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
    fleet = fleet_settings(min_workers=least, max_workers=least + more, images_per_worker=each)
    seen = observation(visible, in_flight, delayed, states=tuple(states), launching=coming)
    plan = decide(seen, fleet)
    assert plan.launch >= 0
    assert plan.starts == 0 or seen.capacity + plan.starts <= fleet.max_workers
    wanted = max(fleet.min_workers, -(-seen.requests.waiting // each))
    assert seen.capacity + plan.starts >= min(fleet.max_workers, wanted)
    unfilled = replace(seen, requests=replace(seen.requests, in_flight=0))
    assert seen.requests.waiting or plan.launch == decide(unfilled, fleet).launch, "images in flight launch none"
    assert set(plan.start) <= {each.instance_id for each in seen.instances if each.state == "stopped"}
    assert decide(seen, fleet) == plan


NAMES = tuple(f"i-{number}" for number in range(100))


@pytest.mark.parametrize(("lately", "launch"), [(0, 10), (3, 7), (10, 0), (12, 0)])
def test_no_more_are_launched_within_a_minute_than_is_allowed_and_from_zero_at_once(lately: int, launch: int) -> None:
    seen, settings = replace(observation(10_000), recent_launches=lately), fleet_settings(launches_per_minute=10)
    plan = decide(seen, settings)
    assert (plan.launch, plan.kind) == (launch, "limited")
    words = "starting at most 10 workers a minute: 19 more workers needed for 10,000 images"
    assert explained(seen, settings) == words


def test_starts_of_stopped_workers_count_too() -> None:
    seen = replace(observation(100, states=("stopped",) * 3), recent_launches=2)
    plan = decide(seen, fleet_settings(launches_per_minute=4))
    assert (plan.start, plan.launch) == (("i-0", "i-1"), 0)


@pytest.mark.parametrize(
    ("running", "failed_runs", "own_failures", "since_launch", "every", "launch"),
    [
        *((0, 7, 3, math.inf, 60, 1), (0, 7, 3, 60, 60, 1), (0, 7, 3, 59, 60, 0), (0, 3, 3, 59, 60, 0)),
        *((1, 7, 3, math.inf, 60, 0), (3, 7, 3, math.inf, 60, 0)),
        *((0, 3, 2, 5, 5, 1), (0, 3, 0, 4, 5, 0), (0, 4, 0, 9, 10, 0), (0, 6, 0, 40, 40, 1), (0, 9**9, 0, 59, 60, 0)),
    ],
)
def test_while_the_circuit_is_open_one_worker_is_tried_after_its_pause(
    running: int, failed_runs: int, own_failures: int, since_launch: float, every: int, launch: int
) -> None:
    circuit = FleetCircuit(state=CircuitState.OPEN, failed_runs=failed_runs, own_failures=own_failures)
    metrics, states = FleetMetrics(circuit=circuit), ("running",) * running
    seen = replace(observation(100, states=states), recent_launches=5, since_launch=since_launch, metrics=metrics)
    plan = decide(seen, fleet_settings())
    assert (plan.launch, plan.kind, plan.max_launches) == (launch, "failing", 0 if running else 1)
    words = explained(seen, fleet_settings())
    ended = f"the last {failed_runs} ended without an answer"
    assert words == f"starting 1 worker every {every} s: {ended}, 100 images waiting"


def test_a_lost_worker_is_replaced_at_once_but_never_beyond_the_maximum() -> None:
    seen = replace(observation(40, states=("running", "running")), unhealthy=frozenset({"i-0"}))
    assert decide(seen, fleet_settings()).launch == 1
    assert decide(seen, fleet_settings(max_workers=2)).launch == 0


def old(workers: int, past_lifetime: int, *, silent: int = 0) -> Observation:
    """So many workers that have enough to do, of which so many are too old."""
    seen = observation(20 * workers, states=("running",) * workers)
    return replace(
        seen,
        metrics=FleetMetrics(
            past_lifetime=NAMES[:past_lifetime], unregistered=booting(*NAMES[-silent:] if silent else ())
        ),
    )


def test_old_workers_are_asked_to_end_one_at_a_time_and_of_many_a_tenth() -> None:
    plan = decide(old(4, 3), fleet_settings())
    assert (plan.drain, plan.kind, plan.launch) == (("i-0",), "rotating", 0)
    words = explained(old(4, 3), fleet_settings())
    assert words == "draining 1 worker: it has run for 24 h, the limit; another takes its place"
    many = fleet_settings(max_workers=50, max_lifetime_seconds=7200)
    assert decide(old(40, 30), many).drain == ("i-0", "i-1", "i-2", "i-3")
    words = explained(old(40, 30), many)
    assert words == "draining 4 workers: they have run for 2 h, the limit; others take their place"


def test_the_next_worker_goes_when_the_last_has_ended_and_another_works_in_its_place() -> None:
    first = replace(old(4, 3), draining=frozenset({"i-0"}))
    assert decide(first, fleet_settings()).launch == 1
    assert decide(first, fleet_settings(max_workers=4)).drain == (), "it is not replaced yet"
    replaced = replace(old(4, 3, silent=1), instances=old(5, 0).instances, draining=frozenset({"i-0"}))
    assert (decide(replaced, fleet_settings()).drain, decide(replaced, fleet_settings()).launch) == ((), 0)
    ended = replace(old(4, 3, silent=1), instances=old(5, 0).instances[1:])
    assert decide(ended, fleet_settings()).drain == (), "its replacement has not been heard of"
    assert decide(replace(ended, metrics=FleetMetrics(past_lifetime=NAMES[:3])), fleet_settings()).drain == ("i-1",)


def drifted(workers: int, count: int, *states: str) -> Observation:
    """So many workers that have enough to do, and others in `states`; the first `count` and those have drifted."""
    seen = observation(20 * workers, states=("running",) * workers + states)
    return replace(seen, drifted=(*NAMES[:count], *NAMES[workers : workers + len(states)]))


def test_a_quarter_of_the_workers_is_replaced_for_another_template_version_at_a_time() -> None:
    plan = decide(drifted(8, 8), fleet_settings())
    assert (plan.drain, plan.kind, plan.launch) == (("i-0", "i-1"), "replacing", 0)
    words = explained(drifted(8, 8), fleet_settings())
    assert words == (
        "draining 2 workers of another version of the launch template than the default: others take their place"
    )
    first = replace(drifted(8, 8), draining=frozenset({"i-0", "i-1"}))
    assert (decide(first, fleet_settings(max_workers=8)).drain, decide(first, fleet_settings()).launch) == ((), 2)
    booted = replace(drifted(8, 6), metrics=FleetMetrics(unregistered=booting("i-6", "i-7")))
    assert decide(booted, fleet_settings()).drain == (), "the replacements do not work yet"
    assert decide(replace(booted, metrics=FleetMetrics()), fleet_settings()).drain == ("i-0", "i-1")


def test_working_workers_of_an_earlier_version_stay_while_those_of_the_new_one_cannot_work() -> None:
    broken = FleetMetrics(circuit=FleetCircuit(state=CircuitState.OPEN, failed_runs=7), past_lifetime=NAMES[:2])
    assert decide(replace(drifted(4, 4), metrics=broken), fleet_settings()).drain == ()
    assert decide(replace(drifted(4, 4), pause=FleetPause(since=EPOCH)), fleet_settings()).drain == ()


def test_a_stopped_worker_of_an_earlier_version_is_terminated_and_never_started() -> None:
    plan = decide(drifted(0, 0, "stopped", "running"), fleet_settings(min_workers=2))
    assert (plan.start, plan.launch, plan.discard) == ((), 1, ("i-0",))


def test_nobody_is_asked_for_age_while_the_fleet_is_paused_or_too_small() -> None:
    paused = replace(old(4, 3), pause=FleetPause(since=EPOCH))
    assert decide(paused, fleet_settings()).drain == ()
    assert decide(replace(old(4, 3), requests=observation(200).requests), fleet_settings()).drain == ()
