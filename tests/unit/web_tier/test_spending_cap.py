"""The spending caps: what may be launched, what is kept, what is said, and what a crash or midnight changes."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import FleetSettings, parse_config
from core.fleet.models import FleetDay, FleetPause, FleetSnapshot, FleetSpending, SpendingAllowance
from core.format import cap_words, next_worker_words, spending_words
from services.ec2 import Instance
from services.errors import ConfigError
from services.sqs import QueueCounts
from tests.conftest import shipped_values
from tests.support.autoscaler import POLICY_SETTINGS, PRICES, Clock, Scaler, explained, fleet_settings, observation
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.ec2 import MemoryEC2
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.observe import FleetMetrics, Observation
from web_tier.autoscaler.policies import POLICIES
from web_tier.autoscaler.reporting import SpendingWatcher

DAY = date(2026, 3, 1)
LAUNCH = PRICES.launch_dollars(["c7a.large"])
"""A minute of an instance: $0.006."""


def spent(today: float, month: float | None = None, **fields: object) -> FleetSpending:
    """Cost of the day and the month beside a cap of $1 a day, if `fields` name no other."""
    figures = {"day": DAY, "today": today, "month": today if month is None else month, "launch": LAUNCH}
    return FleetSpending.model_validate({**figures, "dollars_per_day": 1.0, **fields})


def allowed(dollars: float, day: date = DAY, reason: str = "") -> SpendingAllowance:
    return SpendingAllowance(day=day, dollars=dollars, since=datetime(2026, 3, 1, 12, 3, tzinfo=UTC), reason=reason)


_dollars = st.floats(0, 100)


@given(_dollars, _dollars, _dollars, st.none() | st.floats(0.01, 100), st.none() | st.floats(0.01, 100), _dollars)
def test_the_launches_that_are_left_fit_into_each_cap_and_one_more_does_not(
    today: float, before: float, committed: float, day: float | None, month: float | None, more: float
) -> None:
    allowance = allowed(more) if more else None
    spending = FleetSpending(
        day=DAY,
        today=today,
        month=today + before,
        committed=committed,
        launch=LAUNCH,
        dollars_per_day=day,
        dollars_per_month=month,
        allowance=allowance,
    )
    left = spending.launches_left
    rooms = [
        cap + more - amount - committed for cap, amount in ((day, today), (month, today + before)) if cap is not None
    ]
    assert (left is None) is (not rooms)
    if left is not None:
        assert left == 0 or left * LAUNCH <= min(rooms) + 1e-6
        assert (left + 1) * LAUNCH > min(rooms) - 1e-6
        assert (spending.reached is not None) is (left == 0)


@pytest.mark.parametrize(
    ("spending", "reached", "resumes"),
    [
        (spent(0.5), None, None),
        (spent(0.995), "day", "2026-03-02"),
        (spent(0.99, committed=0.006), "day", "2026-03-02"),
        (spent(0.5, 9.9999, dollars_per_month=10.0), "month", "2026-04-01"),
        (spent(1.5, 10.0, dollars_per_month=10.0), "month", "2026-04-01"),
        (spent(1.5, day="2026-12-31"), "day", "2027-01-01"),
        (spent(1.5, 99.0, day="2026-12-31", dollars_per_month=10.0), "month", "2027-01-01"),
        (spent(1.5, allowance=allowed(1.0)), None, None),
        (spent(1.5, allowance=allowed(1.0, DAY - timedelta(days=1))), "day", "2026-03-02"),
        (spent(0.5, 10.0, dollars_per_month=10.0, allowance=allowed(1.0)), None, None),
        (spent(0.5, launch=0.0), None, None),
        (spent(1.0, launch=0.0), "day", "2026-03-02"),
    ],
)
def test_a_cap_is_reached_without_room_for_a_launch_and_ends_at_midnight_utc(
    spending: FleetSpending, reached: str | None, resumes: str | None
) -> None:
    assert spending.reached == reached
    ends_at = spending.reached and spending.end_of(spending.reached)
    assert ends_at == (resumes and datetime.fromisoformat(resumes).replace(tzinfo=UTC))


def capped(seen: Observation, spending: FleetSpending | None = None) -> Observation:
    return replace(seen, spending=spending or spent(1.0))


def test_at_the_cap_nothing_starts_and_the_decision_says_until_when() -> None:
    seen = observation(100, states=("running", "pending", "stopped"))
    plan = decide(capped(seen), fleet_settings(min_workers=3))
    assert (plan.launch, plan.start, plan.drain, plan.kind) == (0, (), (), "capped")
    assert explained(capped(seen), fleet_settings(min_workers=3)) == (
        "the day's spending cap is reached, no worker starts until 00:00 UTC: 100 images waiting, "
        "2 workers work until idle"
    )
    month = capped(observation(), spent(1.0, dollars_per_day=None, dollars_per_month=1.0))
    assert explained(month, fleet_settings()) == (
        "the month's spending cap is reached, no worker starts until 00:00 UTC on 1 April: no images waiting"
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_at_the_cap_no_worker_is_kept_without_work(policy: str) -> None:
    seen = replace(observation(states=("running",) * 3), protected=frozenset({"i-0", "i-1"}))
    settings = fleet_settings(
        **{**POLICY_SETTINGS.get(policy, {}), "policy": policy, "min_workers": 2, "max_workers": 3}
    )
    plan = decide(capped(seen), settings)
    assert (plan.protect, plan.unprotect) == ((), ("i-0", "i-1"))
    below = decide(replace(seen, spending=spent(0.5)), settings)
    assert below.unprotect == ()


def test_at_the_cap_workers_beyond_their_lifetime_end_and_are_not_replaced() -> None:
    metrics = FleetMetrics(past_lifetime=("i-0", "i-1"), spare=("i-1", "i-2"))
    seen = replace(observation(50, states=("running",) * 3), metrics=metrics)
    assert decide(capped(seen), fleet_settings()).drain == ("i-0", "i-1")
    idle = replace(observation(states=("running",) * 3), metrics=metrics)
    assert set(decide(capped(idle), fleet_settings(policy="deadline")).drain) == {"i-0", "i-1", "i-2"}


def test_a_pause_is_shown_before_the_cap_and_nothing_starts_until_both_have_ended() -> None:
    pause = FleetPause(since=datetime(2026, 3, 1, 12, 3, tzinfo=UTC))
    seen = observation(100)
    both = decide(replace(capped(seen), pause=pause), fleet_settings())
    assert (both.kind, both.launch) == ("paused", 0)
    assert decide(capped(seen), fleet_settings()).launch == 0
    assert decide(replace(seen, spending=spent(0.5)), fleet_settings()).launch == 5


def test_only_as_many_workers_start_as_the_cap_leaves_room_for() -> None:
    spending, settings = spent(1 - 2.5 * LAUNCH), fleet_settings()
    seen = replace(observation(100), spending=spending)
    plan = decide(seen, settings)
    assert (plan.launch, plan.kind, plan.max_launches) == (2, "starting", 2)
    assert explained(seen, settings) == (
        "starting 2 workers (0 → 2, limit 19): 100 images left, 20 per worker, the spending cap allows no more"
    )


def test_an_uncertain_launch_is_not_repeated_where_the_cap_has_no_room_for_all_of_it() -> None:
    """Its outcome is unknown: repeated, it would launch five where the cap allows two."""
    failures = iter(["timeout"])
    scaler = Scaler(MemoryEC2(fail=lambda: next(failures, None)))
    scaler.round(100)
    seen = Observation(QueueCounts(100, 0, 0), 0, ())
    near = replace(seen, spending=spent(1 - 2.5 * LAUNCH))
    scaler.clock.now += 60
    scaler.launcher.apply(decide(near, fleet_settings()), near, fleet_settings())
    assert (len(scaler.ec2.calls), scaler.ec2.alive()) == (1, [])
    scaler.clock.now += 30
    scaler.launcher.apply(decide(seen, fleet_settings()), seen, fleet_settings())
    assert len(scaler.ec2.alive()) == 5, "there is room now"


# ---- The meter


def test_a_launch_costs_the_dearest_type_that_may_start_on_demand() -> None:
    meter, fleet = meter_of(Clock()), observation(9, states=())
    several = fleet_settings(instance_types=["c7a.large", "g4dn.xlarge"], market="spot", dollars_per_day=1.0)
    assert spending_of(meter, fleet, several).launch == pytest.approx(2 * LAUNCH)
    stopped = Observation(QueueCounts(9, 0, 0), 0, (Instance("i-0", "stopped", "g4dn.xlarge", "a", EVENING),))
    assert spending_of(meter, stopped, capped_settings()).launch == pytest.approx(2 * LAUNCH)


# ---- Meters with caps, an evening before midnight

EVENING = datetime(2026, 3, 1, 23, 50, tzinfo=UTC)
CAP = 10 * LAUNCH


def capped_settings(**changes: object) -> FleetSettings:
    return fleet_settings(**{"dollars_per_day": CAP, **changes})


def meter_of(
    clock: Clock,
    before: FleetSnapshot | None = None,
    now: Callable[[], datetime] = lambda: EVENING,
    over: Sequence[FleetDay] = (),
) -> BillingMeter:
    return BillingMeter(PRICES, before, PlayedClock(clock, now), over=over)


def spending_of(meter: BillingMeter, fleet: Observation, configured: FleetSettings | None = None) -> FleetSpending:
    found = meter.spending(fleet, configured or capped_settings())
    assert found is not None
    return found


# ---- What operators read


def test_the_words_name_what_was_spent_both_caps_and_the_allowance() -> None:
    spending = spent(1.2, 7.5, dollars_per_month=10.0, allowance=allowed(0.5, reason="release"), committed=0.012)
    assert spending_words(spending) == (
        "$1.20 of $1.50 today, $7.50 of $10.50 this month, at least $0.012 more by starting workers, "
        "with $0.50 allowed by ops at 12:03 UTC (release)"
    )
    assert cap_words(spending) == ""
    assert cap_words(spent(1.2)) == (
        "The day's spending cap is reached: instances cost $1.20 of $1.00 today. No worker starts until 00:00 UTC; "
        "uploads still queue."
    )
    assert "$1.00 of $1.00 today, and one more worker costs at least $0.0060." in cap_words(spent(0.999))
    words = next_worker_words("cap reached", spent(1.2))
    assert words == "Workers start at 00:00 UTC, or once operators allow more dollars."


def test_reaching_a_cap_and_its_end_are_logged_once_and_an_allowance_is_an_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watcher, raised = SpendingWatcher(), spent(1.2, allowance=allowed(5.0, reason="release"))
    with caplog.at_level(logging.INFO):
        events = [watcher.update(each) for each in (None, spent(0.5), spent(1.2), spent(1.2), raised, raised)]
    assert [(each.levelname, each.message) for each in caplog.records] == [
        ("WARNING", "a spending cap is reached: nothing is launched"),
        ("INFO", "no spending cap is reached any more: workers may start"),
    ]
    assert [[event.words for event in each] for each in events] == [
        *[[]] * 4,
        ["the spending caps of today are raised, with $5.00 allowed by ops at 12:03 UTC (release)"],
        [],
    ]


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        ({"dollars_per_day": 0}, "fleet.dollars_per_day = 0: must be greater than 0"),
        ({"dollars_per_day": 1e-4}, "one launch is billed 0.0018 dollars at least"),
        ({"dollars_per_day": 5, "dollars_per_month": 2}, "dollars_per_day (5) must be at most dollars_per_month (2)"),
        ({"dollars_per_month": float("inf")}, "fleet.dollars_per_month = inf"),
    ],
)
def test_a_cap_that_makes_no_sense_is_refused(caps: Mapping[str, float], words: str) -> None:
    values = shipped_values()
    with pytest.raises(ConfigError) as error:
        parse_config({**values, "fleet": {**values["fleet"], **caps}})
    assert words in str(error.value)
