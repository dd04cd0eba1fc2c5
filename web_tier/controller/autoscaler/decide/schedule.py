"""The schedule: the least number of workers by the time of day.

An entry says from when to when on the clock, on which days. On days on which the clock is changed, a time that is
left out counts as the next one there is; of a time that comes twice, a stretch begins with the first and ends with
the second, so that there are never fewer workers than a reader of the schedule expects.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Literal

from core.config import DAYS, ScheduleEntry
from core.config import Fleet as FleetConfig
from web_tier.controller.autoscaler.observe.observe import Observation

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
FIRST: Literal[0] = 0
SECOND: Literal[1] = 1


def on_schedule(observation: Observation, limits: FleetConfig) -> FleetConfig:
    """Return the limits with the minimum of the time of day, where the policy has one; never above the maximum.

    It holds one boot, as measured or expected, before it begins, so that the workers are ready then.
    """
    if limits.policy != "schedule":
        return limits
    boot = timedelta(seconds=observation.measured.boot_seconds or limits.boot_seconds)
    least = max(limits.min_workers, scheduled_minimum(limits.schedule, limits.zone, observation.at, boot))
    return limits.model_copy(update={"min_workers": min(limits.max_workers, least)})


def scheduled_minimum(
    schedule: tuple[ScheduleEntry, ...], zone: tzinfo, at: datetime, lead: timedelta = timedelta()
) -> int:
    """Return the most workers that any entry asks for at the moment `at`, or until `lead` later begins to; else 0."""
    return max((entry.min_workers for entry in schedule if _holds(entry, zone, at, lead)), default=0)


def _holds(entry: ScheduleEntry, zone: tzinfo, at: datetime, lead: timedelta) -> bool:
    begin, end = time.fromisoformat(entry.begin), time.fromisoformat(entry.to)
    for day in _days_around(at, lead, zone):
        if DAYS[day.weekday()] in entry.days:
            until = day if end > begin else day + DAY
            if moment(day, begin, zone, FIRST) - lead <= at < moment(until, end, zone, SECOND):
                return True
    return False


def _days_around(at: datetime, lead: timedelta, zone: tzinfo) -> Iterator[date]:
    """Yield each day with a stretch that may hold: one of yesterday may last, one of tomorrow be prepared."""
    day, last = at.astimezone(zone).date() - DAY, (at + lead).astimezone(zone).date() + DAY
    while day <= last:
        yield day
        day += DAY


@lru_cache(maxsize=4096)
def moment(day: date, at: time, zone: tzinfo, occurrence: Literal[0, 1]) -> datetime:
    """Return the moment at which clocks in `zone` show `at` on `day`, in UTC.

    Args:
        day: the date that they show.
        at: the time of day; one that they leave out counts as the next minute that they show.
        zone: where these clocks are.
        occurrence: of a time that they show twice, the `FIRST` or the `SECOND`.
    """
    shown = datetime.combine(day, at)
    while True:
        found = shown.replace(tzinfo=zone, fold=occurrence).astimezone(UTC)
        if found.astimezone(zone).replace(tzinfo=None) == shown:
            return found
        shown += MINUTE
