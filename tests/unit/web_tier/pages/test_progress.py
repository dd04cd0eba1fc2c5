"""What the job page says about the whole job."""

from datetime import timedelta

import pytest

from services.jobs import Counts, Job, JobStatus
from tests.unit.web_tier.conftest import NOW
from web_tier.pages.progress import Progress, ProgressBody

JOB = Job("01", "holiday", NOW)


def progress(accepted: int, done: int, failed: int, *, seen_after: float = 0.0) -> Progress:
    counts = Counts(done, failed, accepted, NOW, NOW + timedelta(seconds=2)) if done + failed else Counts()
    return Progress.of(JobStatus(JOB, accepted, counts), NOW + timedelta(seconds=2 + seen_after))


def test_shares_are_of_all_accepted_images() -> None:
    found = progress(200, 81, 20)
    assert (found.done_share, found.failed_share) == (40.5, 10)
    assert found.rate == 50
    assert found.left_seconds == pytest.approx(99 / 50)


@pytest.mark.parametrize(
    ("accepted", "done", "seen_after", "refreshes"),
    [(0, 0, 100, True), (5, 3, 100, True), (5, 5, 1, True), (5, 5, 100, False)],
    ids=["empty", "running", "just finished", "finished"],
)
def test_a_page_refreshes_until_nothing_changes_any_more(
    accepted: int, done: int, seen_after: float, refreshes: bool
) -> None:
    assert (progress(accepted, done, 0, seen_after=seen_after).refresh_seconds is not None) is refreshes


def test_a_finished_job_says_how_long_it_took_and_a_running_one_what_it_waits_for() -> None:
    finished, running = ProgressBody.of(progress(5, 5, 0), None), ProgressBody.of(progress(200, 81, 20), None)
    assert finished.sentence == "Every image has its result, 2 s after the start."
    assert "not looked at the fleet" in running.sentence
    assert (running.rate, running.left, running.waiting) == ("50 /s", "2 s", 99)
