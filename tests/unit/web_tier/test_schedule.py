"""The minimum by the time of day, also where the clock is changed."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import DAYS, ScheduleEntry
from tests.support.autoscaler import explained, fleet_settings, observation
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.autoscaler.schedule import FIRST, SECOND, moment, scheduled_minimum

BERLIN = ZoneInfo("Europe/Berlin")
APIA = ZoneInfo("Pacific/Apia")
MINUTE = timedelta(minutes=1)


def entry(begin: str, to: str, min_workers: int = 4, days: Sequence[str] = DAYS) -> ScheduleEntry:
    return ScheduleEntry.model_validate({"from": begin, "to": to, "min_workers": min_workers, "days": days})


def berlin(day: int, at: str, month: int = 6, *, fold: int = 0) -> datetime:
    """A moment of 2026: 1 June is a Monday; summer time begins on 29 March and ends on 25 October."""
    return datetime.combine(date(2026, month, day), time.fromisoformat(at), BERLIN).replace(fold=fold)


OFFICE_HOURS = entry("08:00", "18:00", days=DAYS[:5])
NIGHT = entry("22:00", "06:00", days=["mon"])
WHOLE_DAY = entry("08:00", "08:00", days=["mon"])
IN_SUMMER_GAP, UNTIL_SUMMER_GAP, TWICE = entry("02:30", "05:00"), entry("01:00", "02:30"), entry("02:30", "02:45")


@pytest.mark.parametrize(
    ("entry", "at", "workers"),
    [
        # From the first moment until before the last, on its days.
        (OFFICE_HOURS, berlin(1, "07:59:59"), 0),
        (OFFICE_HOURS, berlin(1, "08:00"), 4),
        (OFFICE_HOURS, berlin(1, "18:00"), 0),
        (OFFICE_HOURS, berlin(6, "12:00"), 0),
        # Past midnight an entry belongs to the day on which it begins.
        (NIGHT, berlin(2, "05:59"), 4),
        (NIGHT, berlin(2, "23:00"), 0),
        # From a time to the same one it holds for a day.
        (WHOLE_DAY, berlin(2, "07:00"), 4),
        (WHOLE_DAY, berlin(2, "08:00"), 0),
        # A time that the change to summer time skips counts as the next that exists.
        (IN_SUMMER_GAP, berlin(29, "01:59", 3), 0),
        (IN_SUMMER_GAP, berlin(29, "03:00", 3), 4),
        (UNTIL_SUMMER_GAP, berlin(29, "01:59", 3), 4),
        (UNTIL_SUMMER_GAP, berlin(29, "03:00", 3), 0),
        # Of a time that occurs twice an entry begins with the first and ends with the second.
        (TWICE, berlin(25, "02:29", 10), 0),
        (TWICE, berlin(25, "02:30", 10), 4),
        (TWICE, berlin(25, "02:50", 10), 4),
        (TWICE, berlin(25, "02:00", 10, fold=1), 4),
        (TWICE, berlin(25, "02:44", 10, fold=1), 4),
        (TWICE, berlin(25, "02:45", 10, fold=1), 0),
    ],
)
def test_an_entry_holds_on_its_days_between_its_times(entry: ScheduleEntry, at: datetime, workers: int) -> None:
    assert scheduled_minimum((entry,), BERLIN, at) == workers
    assert scheduled_minimum((entry,), BERLIN, at.astimezone(UTC)) == workers


def test_where_entries_overlap_the_greatest_counts() -> None:
    both = (entry("08:00", "18:00", 4), entry("12:00", "14:00", 9), entry("13:00", "13:30", 2))
    found = [scheduled_minimum(both, UTC, datetime(2026, 6, 1, hour, tzinfo=UTC)) for hour in (7, 8, 13, 14)]
    assert found == [0, 4, 9, 4]


def test_a_day_that_a_time_zone_has_skipped_has_no_entries() -> None:
    # Samoa went from 29 to 31 December 2011.
    assert moment(date(2011, 12, 30), time(8), APIA, FIRST) == moment(date(2011, 12, 31), time(0), APIA, SECOND)
    friday = (entry("08:00", "18:00", days=["fri"]),)
    at = datetime(2011, 12, 30, 10, tzinfo=UTC)
    assert {scheduled_minimum(friday, APIA, at + timedelta(hours=hours)) for hours in range(-24, 24)} == {0}


MOMENTS = st.one_of(
    st.integers(-3_000, 3_000).map(lambda minutes: berlin(29, "03:00", 3).astimezone(UTC) + minutes * MINUTE),
    st.integers(-3_000, 3_000).map(lambda minutes: berlin(25, "03:00", 10).astimezone(UTC) + minutes * MINUTE),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
)
TIMES = st.times().map(lambda at: f"{at:%H:%M}")


@given(MOMENTS, TIMES, TIMES, st.sets(st.sampled_from(DAYS), min_size=1))
def test_an_entry_holds_whenever_the_clock_shows_a_time_within_it(
    at: datetime, begin: str, to: str, days: set[str]
) -> None:
    shown = at.astimezone(BERLIN)
    today, yesterday = DAYS[shown.weekday()] in days, DAYS[shown.weekday() - 1] in days
    clock = f"{shown:%H:%M}"
    in_one_day = today and begin <= clock < to
    over_midnight = begin >= to and ((today and clock >= begin) or (yesterday and clock < to))
    within = in_one_day or over_midnight
    holds = scheduled_minimum((entry(begin, to, 1, sorted(days)),), BERLIN, at) == 1
    twice = shown.utcoffset() != shown.replace(fold=1 - shown.fold).utcoffset()
    assert holds >= within
    assert holds == within or twice


@given(MOMENTS, TIMES, TIMES, st.integers(0, 3_600))
def test_a_lead_makes_an_entry_hold_earlier_by_exactly_that(at: datetime, begin: str, to: str, seconds: int) -> None:
    schedule, lead = (entry(begin, to, 1),), timedelta(seconds=seconds)
    assert scheduled_minimum(schedule, BERLIN, at, lead) >= scheduled_minimum(schedule, BERLIN, at)
    assert scheduled_minimum(schedule, BERLIN, at, lead) >= scheduled_minimum(schedule, BERLIN, at + lead)


OFFICE = {
    "policy": "schedule",
    "timezone": "Europe/Berlin",
    "schedule": [{"from": "08:00", "to": "18:00", "min_workers": 4}],
}


def at_rest(at: datetime, boot_seconds: float | None = None, workers: int = 0) -> Observation:
    """Observe an empty queue."""
    observed = observation(states=("running",) * workers)
    return replace(observed, metrics=FleetMetrics(boot_seconds=boot_seconds), at=at)


def test_workers_are_launched_one_boot_before_as_expected_until_it_is_measured() -> None:
    fleet, eight = fleet_settings(**OFFICE, boot_seconds=60), berlin(1, "08:00")
    assert decide(at_rest(eight - timedelta(seconds=61)), fleet).launch == 0
    assert decide(at_rest(eight - timedelta(seconds=60)), fleet).launch == 4
    assert decide(at_rest(eight - timedelta(seconds=60), 30), fleet).launch == 0
    assert decide(at_rest(eight - timedelta(seconds=30), 30), fleet).launch == 4


def test_the_reason_names_the_schedule_and_the_maximum_limits_it() -> None:
    at_noon, limited = at_rest(berlin(1, "12:00")), fleet_settings(**OFFICE, max_workers=3)
    assert decide(at_noon, limited).launch == 3
    assert explained(at_noon, limited) == "starting 3 workers (0 → 3, limit 3): at least 3 at this time of day"
    words = explained(at_rest(berlin(1, "12:00"), workers=4), fleet_settings(**OFFICE))
    assert words == "4 workers are idle, at least 4 at this time of day"
    words = explained(at_rest(berlin(1, "20:00")), fleet_settings(**OFFICE))
    assert words == "idle. Workers start when you upload"


def test_a_higher_minimum_of_the_limits_stands_at_all_times() -> None:
    for at, workers in ((berlin(1, "12:00"), 5), (berlin(1, "20:00"), 5)):
        assert decide(at_rest(at), fleet_settings(**OFFICE, min_workers=5)).launch == workers


def test_waiting_images_are_sized_as_by_the_deadline() -> None:
    waiting = replace(observation(900), metrics=FleetMetrics(image_seconds=1.0), demand=Demand(waiting=((0.0, 900),)))
    seen = replace(waiting, at=berlin(1, "20:00"))
    office, deadline = fleet_settings(**OFFICE), fleet_settings(policy="deadline")
    assert decide(seen, office).launch == decide(seen, deadline).launch > 4
    words = explained(seen, deadline)
    assert explained(seen, office) == words, "no word of a schedule that keeps no worker at this time"
    at_noon = replace(waiting, at=berlin(1, "12:00"))
    assert explained(at_noon, office) == f"{words}, at least 4 at this time of day"
