"""What the job page says about the whole job."""

from datetime import timedelta

import pytest

from services.config import Prices
from services.job_records import Counts, Job, JobStatus, MergedFile
from services.messages import FleetSnapshot
from tests.unit.web_tier.conftest import NOW
from web_tier.pages.progress import Progress, ProgressBody, cost_words, job_cost

JOB = Job("01", "holiday", NOW)
PRICES = Prices(instance_hour=0.36, minimum_billed_seconds=60)
FLEET = FleetSnapshot(
    at=NOW, running=1, pending=0, visible=0, in_flight=0, min_workers=0, max_workers=5, peak_workers=1,
    billed_seconds=60, reason="one worker, enough", image_seconds=0.01,
)  # fmt: skip


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


def test_a_page_waits_for_the_file_of_all_results_but_not_for_ever() -> None:
    last = NOW + timedelta(seconds=2)
    status = JobStatus(JOB, 5, Counts(5, 0, 5, NOW, last))
    there = JobStatus(JOB, 5, Counts(5, 0, 5, NOW, last), merged=MergedFile("key", status.edition, last))

    def settled(status: JobStatus, seconds: float) -> bool:
        return Progress.of(status, last + timedelta(seconds=seconds)).settled

    assert [settled(status, 20), settled(there, 20), settled(status, 61)] == [False, True, True]


def test_a_page_refreshes_for_a_while_when_failed_images_are_tried_again() -> None:
    status = JobStatus(JOB, 5, Counts(4, 1, 5, NOW, NOW), retried_at=NOW + timedelta(hours=1))
    soon, late = (Progress.of(status, NOW + timedelta(hours=1, seconds=seconds)) for seconds in (20, 61))
    assert (soon.retried, soon.refresh_seconds is None) == (True, False)
    assert (late.retried, late.refresh_seconds is None) == (False, True)


@pytest.mark.parametrize(
    ("done", "failed", "cached", "cost"),
    [(0, 0, 0, None), (10, 0, 10, 0.0), (1_000, 0, 0, 0.001), (1_000, 1_000, 500, 0.0015)],
)
def test_a_job_costs_what_its_images_took_of_workers(done: int, failed: int, cached: int, cost: float | None) -> None:
    status = JobStatus(JOB, 2_000, Counts(done, failed, 2_000, NOW, NOW, cached))
    assert job_cost(status, FLEET, PRICES) == (None if cost is None else pytest.approx(cost))


def test_a_cost_that_nobody_has_measured_is_not_told() -> None:
    status = JobStatus(JOB, 10, Counts(10, 0, 10, NOW, NOW))
    unknown = FLEET.model_copy(update={"image_seconds": None})
    assert [job_cost(status, fleet, PRICES) for fleet in (None, unknown)] == [None, None]
    body = ProgressBody.of(Progress.of(status), unknown, PRICES)
    assert (body.cost, body.price) == (None, None)


def test_costs_are_words_that_are_never_less_than_they_are() -> None:
    assert [cost_words(cost) for cost in (0.0, 0.00001, 0.0012, 3.456)] == ["$0.00", "<$0.0001", "$0.0012", "$3.46"]


def test_images_that_were_answered_at_once_are_counted_in_words() -> None:
    status = JobStatus(JOB, 12, Counts(10, 0, 12, NOW, NOW, 4))
    assert ProgressBody.of(Progress.of(status), None, PRICES).repeats == (
        "4 of 12 answered at once: they were classified before."
    )


def test_a_finished_job_says_how_long_it_took_and_a_running_one_what_it_waits_for() -> None:
    finished, running = (ProgressBody.of(found, None, PRICES) for found in (progress(5, 5, 0), progress(200, 81, 20)))
    assert finished.sentence == "Every image has its result, 2 s after the start."
    assert "not looked at the fleet" in running.sentence
    assert (running.rate, running.left, running.waiting) == ("50 /s", "2 s", 99)
