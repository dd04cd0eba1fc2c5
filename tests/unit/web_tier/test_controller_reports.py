"""How old the controller's last report is, whatever its clock says."""

from datetime import timedelta

import pytest

from tests.support.fleet import fleet_snapshot
from tests.support.jobs import NOW
from web_tier.controller_reports import MAX_AGE_SECONDS, ControllerReports

FIRST = fleet_snapshot(NOW, running=1, max_workers=5, peak_workers=1, billed_seconds=60, reason="one worker, enough")


@pytest.mark.parametrize("step", [timedelta(seconds=5), -timedelta(minutes=10)], ids=["onwards", "back"])
def test_a_controller_is_silent_since_its_last_report_was_read_whatever_its_time(step: timedelta) -> None:
    now = 1_000.0
    reports = ControllerReports(lambda: now)
    assert reports.silent_seconds(FIRST) == 0
    now += 40
    assert reports.silent_seconds(FIRST) == 40
    following = FIRST.model_copy(update={"at": NOW + step})
    assert reports.silent_seconds(following) == 0
    now += 7
    assert reports.silent_seconds(following) == 7


@pytest.mark.parametrize(("seconds", "found"), [(-600, -600), (29, 0), (31, 31)])
def test_the_difference_of_the_clocks_is_known_once_a_report_has_come_in_place_of_another(
    seconds: int, found: int
) -> None:
    seconds_passed, ahead = 0.0, timedelta(seconds=seconds)
    reports = ControllerReports(lambda: seconds_passed, lambda: NOW + timedelta(seconds=seconds_passed))

    def report() -> timedelta:
        at = NOW + timedelta(seconds=seconds_passed) + ahead
        reports.silent_seconds(FIRST.model_copy(update={"at": at}))
        return reports.ahead

    assert report() == timedelta(), "it may be old"
    seconds_passed = MAX_AGE_SECONDS + 1
    assert report() == timedelta(), "it may be old"
    seconds_passed += MAX_AGE_SECONDS
    assert report() == timedelta(seconds=found)
    ahead = timedelta()
    seconds_passed += 5
    assert report() == timedelta()


def test_a_controller_that_has_never_reported_is_not_silent() -> None:
    assert ControllerReports().silent_seconds(None) == 0
