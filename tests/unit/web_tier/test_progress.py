"""Progress and cost of a job: when a page stops to refresh, and the texts of figures, cost and retries."""

from dataclasses import replace
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from core.config import Config
from core.cost import JOB as JOB_REQUESTS
from core.cost import JobCost, expected_counts, requests_of
from core.fleet.models import BillingPeriod, CircuitState, FleetCircuit, FleetPause, FleetSnapshot, FleetSpending
from core.fleet.store import FleetStore
from core.format import dollars as format_dollars
from core.jobs.models import Counts, Job, JobStatus, SourceListing
from core.jobs.packs import PackSizes
from core.jobs.store import JobStore
from core.model_catalog import JobModel
from services.table import Table
from tests.support.autoscaler import PRICES
from tests.support.jobs import NOW, add_images, put_counts
from web_tier.results.progress import JobProgress, ProgressBody, next_worker_sentence
from web_tier.results.query import images_per_second

JOB = Job("01", "holiday", NOW)
FLEET = FleetSnapshot(
    at=NOW, running=1, pending=0, visible=0, in_flight=0, min_workers=0, max_workers=5, peak_workers=1,
    billed_seconds=60, reason="one worker, enough", image_seconds=0.01,
)  # fmt: skip


def progress(accepted: int, done: int, failed: int, *, seen_after: float = 0.0) -> JobProgress:
    counts = Counts(done, failed, accepted, NOW, NOW + timedelta(seconds=2)) if done + failed else Counts()
    return JobProgress.from_status(JobStatus(JOB, accepted, counts), NOW + timedelta(seconds=2 + seen_after))


def test_shares_are_of_all_accepted_images() -> None:
    found = progress(200, 81, 20)
    assert (found.done_share, found.failed_share) == (40.5, 10)
    assert found.rate == 50
    assert found.left_seconds == pytest.approx(99 / 50)


@pytest.mark.parametrize(
    ("failed", "cancelled", "words"), [(3, 0, "failed"), (3, 3, "cancelled"), (3, 2, "failed or cancelled")]
)
def test_cancelled_images_are_called_so_and_have_no_part_in_the_red_bar(
    failed: int, cancelled: int, words: str
) -> None:
    counts = Counts(1, failed, 10, NOW, NOW + timedelta(seconds=2), cancelled=cancelled)
    found = JobProgress.from_status(JobStatus(JOB, 10, counts))
    body = ProgressBody.from_progress(found, FLEET, None)
    assert (body.failed, body.cancelled, body.failed_words) == (failed, cancelled, words)
    assert found.failed_share == 10 * (failed - cancelled)


def test_a_page_refreshes_for_a_while_after_a_retry() -> None:
    status = JobStatus(JOB, 5, Counts(4, 1, 5, NOW, NOW), retried_at=NOW + timedelta(hours=1))
    soon, late = (JobProgress.from_status(status, NOW + timedelta(hours=1, seconds=seconds)) for seconds in (20, 61))
    assert (soon.retried, soon.refresh_seconds is None) == (True, False)
    assert (late.retried, late.refresh_seconds is None) == (False, True)


def cost_of(counts: Counts) -> JobCost:
    period = BillingPeriod(number=1, images=2_000, billed_seconds=240, cost=0.024)
    cost = JobCost.from_status(JobStatus(JOB, 2_000, counts), {1: period}, PRICES)
    assert cost is not None
    return cost


def cost_texts(counts: Counts, cost: JobCost | None) -> tuple[str | None, str | None]:
    body = ProgressBody.from_progress(JobProgress.from_status(JobStatus(JOB, 2_000, counts)), FLEET, cost)
    return body.cost, body.price


def test_a_job_costs_its_share_of_the_fleets_bill_and_its_requests_in_two_digits() -> None:
    counts = replace(expected_counts(1_000, PackSizes()), images=2_000, runs=((1, 1_000),))
    assert cost_texts(counts, cost_of(counts)) == (
        "$0.027",
        "$0.027: compute $0.012 + requests $0.015 ($0.027 per 1,000 images)",
    )
    assert cost_texts(counts, None) == cost_texts(Counts(), cost_of(Counts())) == (None, None)


def test_viewers_of_a_shared_job_see_nothing_of_the_fleet_the_cost_or_s3() -> None:
    found, pause = progress(2_000, 1_000, 0), FleetPause(since=NOW, reason="no money")
    paused = FLEET.model_copy(
        update={"running": 0, "visible": 900, "in_flight": 50, "paused": pause, "problem": "no"}
    )
    cost = cost_of(Counts(1_000, 0, 2_000, NOW, NOW, runs=((1, 1_000),)))
    source = replace(
        found.status, job=replace(JOB, source="s3://photos"), listing=SourceListing(error="no s3://photos")
    )
    seen = [
        ProgressBody.from_progress(each, fleet, price).for_viewers()
        for each, fleet, price in ((found, None, None), (found, FLEET, cost), (found, paused, cost))
    ]
    assert seen[1:] == seen[:1] * 2
    from_s3 = ProgressBody.from_progress(replace(found, status=source), FLEET, None).for_viewers()
    assert "s3://" not in from_s3.model_dump_json()


@pytest.mark.parametrize(("answers", "has_rate"), [(99, False), (100, True)])
def test_a_price_per_1000_images_needs_enough_of_them(answers: int, has_rate: bool) -> None:
    counts = Counts(answers, 0, 2_000, NOW, NOW, runs=((1, answers),))
    _, price = cost_texts(counts, cost_of(counts))
    assert price is not None
    assert ("per 1,000 images" in price) is has_rate


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Done in about 9 s; one more worker would save 1 s and cost at least $0.0017."),
        ({"boot_seconds": 8.5}, "Done in about 9 s; one more worker would start too late to help."),
        ({"boot_seconds": 60.0}, "Done in about 9 s; one more worker would start too late to help."),
        ({"max_workers": 5}, "Done in about 9 s."),
        ({"boot_seconds": None}, "Done in about 9 s."),
        ({"image_seconds": None}, ""),
        ({"pending": 1}, ""),
        ({"running": 0}, ""),
        ({"visible": 0, "in_flight": 0}, ""),
        ({"paused": FleetPause(since=NOW)}, ""),
    ],
)
def test_one_more_worker_is_weighed(changes: dict[str, object], sentence: str) -> None:
    fleet = FLEET.model_copy(
        update={
            "running": 5,
            "visible": 300,
            "in_flight": 100,
            "max_workers": 19,
            "image_seconds": 0.1125,
            "boot_seconds": 1.8,
            "billed_seconds": 600.0,
            "cost": 0.017,
            **changes,
        }
    )
    assert next_worker_sentence(fleet, 60.0) == sentence
    found = ProgressBody.from_progress(progress(400, 0, 0), fleet, None, minimum_billed_seconds=60.0).sentence
    assert found == f"One worker, enough. {sentence}".rstrip()
    stale = ProgressBody.from_progress(
        progress(400, 0, 0), fleet, None, silent_seconds=60, minimum_billed_seconds=60.0
    ).sentence
    assert "Done in" not in stale


@pytest.mark.parametrize(("of_others", "left"), [(0, "9 s"), (100, "11 s"), (1_000, "2 s")])
def test_the_time_left_agrees_with_the_fleets_unless_most_images_are_of_other_jobs(of_others: int, left: str) -> None:
    counts = Counts(400, 0, 400, NOW, NOW + timedelta(seconds=2))
    found = JobProgress.from_status(JobStatus(JOB, 800, counts), NOW + timedelta(seconds=2))
    fleet = FLEET.model_copy(update={"running": 5, "visible": 400 + of_others, "image_seconds": 0.1125})
    body = ProgressBody.from_progress(found, fleet, None)
    assert body.left == left
    if of_others < 400:
        assert f"Done in about {left}" in body.sentence


@pytest.mark.parametrize(
    ("waiting", "visible", "in_flight", "certain"),
    [(112, 75, 37, 37), (20, 0, 37, 20), (50, 75, 37, 0), (100, 75, 37, 25), (0, 0, 5, 0)],
    ids=["alone", "some are recorded soon", "others may have all", "others may have some", "finished"],
)
def test_only_images_that_are_certainly_the_jobs_count_as_in_flight(
    waiting: int, visible: int, in_flight: int, certain: int
) -> None:
    fleet = FLEET.model_copy(update={"visible": visible, "in_flight": in_flight})
    found = progress(200, 200 - waiting, 0)
    assert ProgressBody.from_progress(found, fleet, None).in_flight == certain
    assert ProgressBody.from_progress(found, fleet, None, silent_seconds=60).in_flight == 0, "the report is old"
    assert ProgressBody.from_progress(found, None, None).in_flight == 0


def test_the_rate_of_a_finished_job_agrees_with_its_duration() -> None:
    counts = Counts(40, 0, 40, NOW + timedelta(seconds=3.9), NOW + timedelta(seconds=4))
    finished = ProgressBody.from_progress(JobProgress.from_status(JobStatus(JOB, 40, counts)), FLEET, None)
    assert (finished.sentence, finished.rate) == ("All 40 images done in 4 s.", "10")
    assert images_per_second(JobStatus(JOB, 40, counts)) == 10, "the API's"


def test_a_running_job_is_queued_while_the_controller_has_not_counted_its_images() -> None:
    idle = FLEET.model_copy(update={"running": 0, "reason": "idle. Workers start when you upload"})
    paused = idle.model_copy(update={"paused": FleetPause(since=NOW), "reason": "paused"})

    def sentence(fleet: FleetSnapshot) -> str:
        return ProgressBody.from_progress(progress(5, 0, 0), fleet, None).sentence

    assert sentence(idle) == "Waiting. Workers start within seconds."
    assert (
        ProgressBody.from_progress(progress(0, 0, 0), idle, None).sentence == "Idle. Workers start when you upload."
    )
    assert sentence(paused) == "Paused."
    assert sentence(idle.model_copy(update={"pending": 1, "reason": "1 worker is enough"})) == "1 worker is enough."


CAPPED = FleetSpending(day=NOW.date(), today=2, month=2, launch=0.1, dollars_per_day=2)
CAP_OF_MONTH = CAPPED.model_copy(update={"dollars_per_day": None, "dollars_per_month": 2})
OPEN = FleetCircuit(state=CircuitState.OPEN, failed_runs=3, reason="the bundle is gone", since=NOW)
HALF_OPEN = OPEN.model_copy(update={"state": CircuitState.HALF_OPEN})


@pytest.mark.parametrize(
    ("changes", "halt", "blocked"),
    [
        ({}, None, None),
        ({"paused": FleetPause(since=NOW)}, "paused", "paused by ops"),
        ({"paused": FleetPause(since=NOW), "pending": 1}, "paused", None),
        ({"spending": CAPPED}, "cap reached", "spending cap of today reached; goes on at 00:00 UTC"),
        ({"spending": CAPPED, "running": 1}, "cap reached", None),
        ({"spending": CAP_OF_MONTH}, "cap reached", "spending cap of this month reached; goes on at 00:00 UTC on 1 "),
        ({"circuit": OPEN}, "workers fail", "workers end without an answer"),
        ({"circuit": HALF_OPEN, "running": 1}, "workers fail", "workers end without an answer"),
        ({"max_workers": 0}, "limit 0", "the limits allow no workers"),
        ({"launch_error": "EC2 has no room"}, "launches fail", "no worker can be started"),
        ({"problem": "config.yaml: fleet.max_worker is unknown"}, None, None),
    ],
)
def test_a_running_job_is_blocked_with_the_reason_while_none_of_its_images_can_be_classified(
    changes: dict[str, object], halt: str | None, blocked: str | None
) -> None:
    fleet = FLEET.model_copy(update={"running": 0, **changes})
    body = ProgressBody.from_progress(progress(5, 2, 0), fleet, None)
    assert (fleet.halt, body.halt, body.state) == (halt, halt, "running")
    assert body.words.startswith("running" if blocked is None else f"blocked: {blocked}")
    assert ProgressBody.from_progress(progress(5, 5, 0), fleet, None).words == "finished"
    cancelled = JobProgress.from_status(JobStatus(JOB, 5, Counts(), cancelled_at=NOW))
    assert ProgressBody.from_progress(cancelled, fleet, None).words == "cancelled"
    silent = ProgressBody.from_progress(progress(5, 2, 0), fleet, None, silent_seconds=60)
    assert silent.words == "blocked: the controller does not report"


@pytest.mark.parametrize(("failed", "words"), [("b", "blocked: workers cannot load the model toy"), ("c", "running")])
def test_a_job_is_blocked_while_workers_cannot_load_its_model(failed: str, words: str) -> None:
    job = replace(JOB, model=JobModel("toy", "b" * 64, "s3://bundles/toy"))
    fleet = FLEET.model_copy(update={"failed_models": (failed * 64,)})
    assert (
        ProgressBody.from_progress(JobProgress.from_status(JobStatus(job, 5, Counts())), fleet, None).words == words
    )


def test_a_job_from_s3_is_blocked_by_the_quota_of_the_day_once_no_image_waits() -> None:
    listing = SourceListing(paused_until=NOW.replace(hour=0, minute=0))
    found = JobProgress.from_status(JobStatus(JOB, 5, Counts(5), listing=listing))
    assert ProgressBody.from_progress(found, FLEET, None).blocked == "quota of today used up; goes on at 00:00 UTC"
    waiting = JobProgress.from_status(JobStatus(JOB, 5, Counts(4), listing=listing))
    assert ProgressBody.from_progress(waiting, FLEET, None).blocked is None


CURRENT = BillingPeriod(number=2, images=4, billed_seconds=120, cost=0.004)


@pytest.fixture
def fleet(table: Table, store: JobStore) -> FleetStore:
    """Return the store of a fleet in its second billing period."""
    snapshot = FleetSnapshot(
        at=NOW, running=2, pending=0, visible=1, in_flight=0, min_workers=0, max_workers=19, peak_workers=2,
        billed_seconds=180, cost=0.006, images=5, run=CURRENT, reason="two workers, enough",
    )  # fmt: skip
    FleetStore(store.table).put_snapshot(snapshot)
    periods = FleetStore(table)
    periods.put_run(BillingPeriod(number=1, images=1, billed_seconds=60, cost=0.002, is_open=False))
    return periods


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("runs", "seconds", "dollars"),
    [
        (((2, 4),), 120, 0.004),
        (((2, 1),), 30, 0.001),
        (((1, 1), (2, 1)), 90, 0.003),
        (((3, 2),), 0, 0),
    ],
    ids=["alone", "one of four", "over two runs", "in a period that is not in the snapshot yet"],
)
def test_a_job_costs_its_share_of_the_periods_in_which_it_was_answered(
    client: FlaskClient, store: JobStore, job: Job, config: Config,
    runs: tuple[tuple[int, int], ...], seconds: float, dollars: float,
) -> None:  # fmt: skip
    images = sum(answers for _, answers in runs)
    add_images(store, job, *(f"{number}.jpg" for number in range(images)))
    counts = replace(expected_counts(images, PackSizes()), images=images, first_result_at=NOW, last_result_at=NOW)
    put_counts(store, job.job_id, replace(counts, runs=runs))
    cost = client.get(f"/api/v1/jobs/{job.job_id}").get_json()["cost"]
    requests = (requests_of(counts) + JOB_REQUESTS).dollars(config.prices)
    assert (cost["billed_seconds"], cost["instances_dollars"]) == pytest.approx((seconds, dollars))
    assert cost["requests_dollars"] == pytest.approx(requests, abs=1e-6)
    assert cost["dollars"] == pytest.approx(dollars + requests, abs=1e-6)
    assert cost["dollars_per_1000_images"] == pytest.approx((dollars + requests) / images * 1_000, abs=1e-5)
    page = client.get(f"/jobs/{job.job_id}").text
    assert f"compute {format_dollars(dollars)} + requests" in page
