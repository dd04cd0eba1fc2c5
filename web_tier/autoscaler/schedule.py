"""The schedule: the minimum number of workers by time of day.

An entry has a begin and an end on the clock, and days. On days on which the clock is changed, a time that is skipped
counts as the next one that exists. Of a time that occurs twice, an entry begins with the first occurrence and ends
with the second, so there are never fewer workers than a reader of the schedule expects.
"""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Literal

from core.config import DAYS, ScheduleEntry

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
FIRST: Literal[0] = 0
SECOND: Literal[1] = 1


def scheduled_minimum(
    schedule: tuple[ScheduleEntry, ...], zone: tzinfo, at: datetime, lead: timedelta = timedelta()
) -> int:
    """Return the largest minimum of the entries that hold at `at` or begin within `lead` after it; else 0."""
    # Yesterday's entries may last until now, tomorrow's may begin within `lead`.
    day, last = at.astimezone(zone).date() - DAY, (at + lead).astimezone(zone).date() + DAY
    found = 0
    while day <= last:
        for entry in schedule:
            begin, end = time.fromisoformat(entry.begin), time.fromisoformat(entry.to)
            until = day if end > begin else day + DAY
            is_due = DAYS[day.weekday()] in entry.days and moment(day, begin, zone, FIRST) - lead <= at
            if is_due and at < moment(until, end, zone, SECOND):
                found = max(found, entry.min_workers)
        day += DAY
    return found


@lru_cache(maxsize=4096)
def moment(day: date, at: time, zone: tzinfo, occurrence: Literal[0, 1]) -> datetime:
    """Return the moment, in UTC, at which clocks in `zone` show `at` on `day`.

    Args:
        day: date on these clocks.
        at: time of day; one that is skipped counts as the next minute that the clocks show.
        zone: time zone of the clocks.
        occurrence: `FIRST` or `SECOND`, for a time that occurs twice.
    """
    shown = datetime.combine(day, at)
    while True:
        found = shown.replace(tzinfo=zone, fold=occurrence).astimezone(UTC)
        if found.astimezone(zone).replace(tzinfo=None) == shown:
            return found
        shown += MINUTE
