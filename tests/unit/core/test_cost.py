"""The cost of images, and the words for figures, times and counts."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import parse_config
from core.cost import (
    JOB,
    Bill,
    JobCost,
    Requests,
    at_rest,
    expected_counts,
    instances_bill,
    requests_of,
    total,
)
from core.fleet.models import BillingPeriod, FleetSnapshot
from core.format import (
    ago,
    dollars,
    duration,
    file_size,
    milliseconds,
    percent,
    plural,
    rate_words,
)
from core.jobs.figures import JobFigures, counts_update
from core.jobs.models import MAX_RUNS, Counts, Job, JobStatus
from core.jobs.packs import PackSizes
from tests.conftest import shipped_values
from tests.support.autoscaler import PRICES
from tests.support.jobs import NOW
from tests.support.memory_aws.dynamodb import MemoryTable

FULL_PACKS = PackSizes(50, lambda: 0.01)


def run(number: int, images: int, seconds: float, cost: float) -> BillingPeriod:
    return BillingPeriod(number=number, images=images, billed_seconds=seconds, cost=cost)


def test_a_worker_costs_its_instance_its_public_address_and_its_disk() -> None:
    """A list price of us-east-1: 0.10264 + 0.005 + 8 GB of gp3 at 0.08 a month."""
    prices = parse_config(shipped_values()).prices
    assert prices.worker_hour("c7a.large") == pytest.approx(0.10852, abs=1e-5)
    assert prices.worker_hour("c7a.large", spot=True) == pytest.approx(0.04688, abs=1e-5)
    assert prices.launch_dollars(["c7a.large"]) == pytest.approx(0.10852 / 60, abs=1e-6)
    larger = prices.model_copy(update={"worker_disk_gb": 24.0})
    assert larger.worker_hour("c7a.large") == pytest.approx(0.11027, abs=1e-5)


def test_requests_cost_what_each_service_asks_for_its_units() -> None:
    asked = Requests(s3_put=1_000, s3_get=1_000, sqs=1e6, table_write=1e6, table_read=1e6)
    assert asked.dollars(PRICES) == pytest.approx(0.005 + 0.0004 + 0.4 + 0.625 + 0.125)
    in_groups = Requests(sqs=1e6, sqs_fair=1e6)
    assert in_groups.dollars(PRICES) == pytest.approx(0.5), "fair queues cost a quarter more"
    assert in_groups.total == 1e6
    assert (asked + asked).dollars(PRICES) == pytest.approx((asked * 2).dollars(PRICES))
    assert requests_of(Counts(images=9, packs=9, acceptances=1)) == Requests(), "a job that no worker has answered"


def cost_of(counts: Counts, runs: Mapping[int, BillingPeriod]) -> JobCost | None:
    return JobCost.from_status(JobStatus(Job("01", "holiday", NOW), counts.images, counts), runs, PRICES)


def test_a_job_alone_in_its_runs_costs_what_the_fleet_was_billed_in_them() -> None:
    counts = replace(expected_counts(150, FULL_PACKS), images=150, runs=((3, 100), (5, 50)))
    cost = cost_of(counts, {3: run(3, 100, 120, 0.012), 5: run(5, 50, 60, 0.006)})
    assert cost is not None
    assert (cost.instances.seconds, cost.instances.dollars) == pytest.approx((180, 0.018))
    assert cost.dollars == pytest.approx(0.018 + (requests_of(counts) + JOB).dollars(PRICES))
    assert cost.dollars_per_thousand == pytest.approx(cost.dollars / 0.150)


def test_cancelled_images_cost_nothing() -> None:
    cost = cost_of(Counts(100, 50, 150, cancelled=50, runs=((3, 100),)), {3: run(3, 100, 120, 0.012)})
    assert cost is not None
    assert cost.images == 100


def test_an_unknown_cost_is_not_shown_and_that_of_an_unknown_type_not_too_low() -> None:
    assert cost_of(Counts(10, images=10), {}) is None, "answered before runs were kept"
    assert cost_of(Counts(10, images=10, runs=((3, 10),)), {}) is None
    assert PRICES.hourly("m5.large") == max(PRICES.instance_hour.values())


@pytest.mark.parametrize(
    ("job", "presigned", "puts"),
    [
        (Job("01", "holiday", NOW), 0, 2),
        (Job("01", "holiday", NOW), 20, 3),
        (Job("01", "kept", NOW, source="s3://photos", keep=True), 0, 3),
        (Job("01", "in place", NOW, source="s3://photos"), 0, 2),
        (Job("01", "shards", NOW, source="s3://photos", source_pattern="*.tar"), 0, 2),
        (Job("01", "single images", NOW, is_single=True), 0, 2),
    ],
    ids=lambda value: value.name if isinstance(value, Job) else str(value),
)
def test_the_puts_of_a_pack_depend_on_the_way_of_its_images_and_not_on_their_number(
    job: Job, presigned: int, puts: int
) -> None:
    for images in (20, 1_000):
        counts = Counts(images, acceptances=20, presigned=presigned, answered_packs=20, revision=20)
        made = requests_of(counts, job)
        assert made.s3_put == 20 * puts
        assert made.s3_get == (images if job.name == "in place" else 20 * (1 + bool(presigned)))


def test_a_job_costs_nothing_for_packs_of_cancelled_images() -> None:
    counts = Counts(
        10, 9_990, cancelled=9_990, images=10_000, packs=10_000, acceptances=200, answered_packs=10_000, revision=1
    )
    assert requests_of(counts).s3_put == pytest.approx(20)


def test_a_job_costs_nothing_for_packs_that_are_not_answered_yet() -> None:
    whole = Counts(600, images=600, packs=20, acceptances=12, presigned=8, answered_packs=20, revision=20)
    half = replace(whole, done=300, answered_packs=10, revision=10)
    assert requests_of(half).dollars(PRICES) == pytest.approx(requests_of(whole).dollars(PRICES) / 2)


def test_an_image_that_is_sent_alone_costs_its_own_transactions_and_calls() -> None:
    """What a million images cost, by the recorded calls of a run."""
    lone = Counts(1_000, acceptances=1_000, answered_packs=1_000, revision=1_000)
    job = Job("01", "single images", NOW, is_single=True)
    assert 1_000 * requests_of(lone, job).dollars(PRICES) == pytest.approx(24.5, rel=0.1)
    together = expected_counts(1_000, PackSizes())
    assert 1_000 * requests_of(together).dollars(PRICES) == pytest.approx(15.1, rel=0.03)
    packed = expected_counts(1_000_000, FULL_PACKS)
    assert requests_of(packed).dollars(PRICES) < 1.0


@given(st.integers(0, 5_000), st.integers(1, 50), st.sampled_from([0, 1, 2, 3, 7, 8, 19]))
def test_a_job_has_as_many_packs_as_the_web_tier_makes(images: int, max_images: int, max_workers: int) -> None:
    sizes, so_far, packs = PackSizes(max_images, lambda: 0.01, max_workers), 0, 0
    while so_far < images:
        so_far += sizes.next_size(so_far, images - so_far)
        packs += 1
    assert sizes.count(images) == packs


def counts_after(answers: Iterable[tuple[int, int]]) -> Counts:
    """Return the counts of a job with so many answers in each billing period, added one after another."""
    table = MemoryTable()
    for number, count in answers:
        change = counts_update("job", 0, {"done": count}, answers=count, run=number)
        table.transact(change)
    return JobFigures(table).counts("job")


def test_a_job_that_was_answered_in_very_many_runs_remembers_the_latest() -> None:
    counts = counts_after((number, 1) for number in range(1, MAX_RUNS + 3))
    assert [number for number, _ in counts.runs] == list(range(3, MAX_RUNS + 3))


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 50), min_size=3, max_size=3),
            st.floats(0, 1e6),
            st.floats(0, 1e3),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_shares_of_all_jobs_are_never_more_than_the_bill(
    story: list[tuple[list[int], float, float, int]],
) -> None:
    """Three jobs over some runs; in each, some images may have been answered that belong to no job any more."""
    runs: dict[int, BillingPeriod] = {}
    of_job: list[list[tuple[int, int]]] = [[], [], []]
    for number, (answers, seconds, cost, gone) in enumerate(story, start=1):
        runs[number] = run(number, sum(answers) + gone, seconds, cost)
        for job, count in zip(of_job, answers, strict=True):
            job.append((number, count))
    shares = [instances_bill(Counts(runs=tuple(job)), runs) for job in of_job]
    shared = total(share for share in shares if share is not None)
    billed = total(Bill(each.billed_seconds, each.cost) for each in runs.values())
    assert len(shares) == 3
    assert shared.seconds <= billed.seconds * (1 + 1e-9)
    assert shared.dollars <= billed.dollars * (1 + 1e-9)
    if all(sum(answers) and not gone for answers, _, _, gone in story):
        assert shared.seconds == pytest.approx(billed.seconds)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 1_000)), max_size=40))
def test_answers_by_run_survive_the_table_in_any_order(runs: list[tuple[int, int]]) -> None:
    counts = counts_after(runs)
    assert [number for number, _ in counts.runs] == sorted({number for number, _ in runs})
    assert sum(answers for _, answers in counts.runs) == counts.done == sum(answers for _, answers in runs)


def test_at_rest_the_controller_polls_once_a_second_or_less_often() -> None:
    values = shipped_values()
    usual = at_rest(parse_config(values).controller)
    values["controller"]["interval_seconds"] = 1
    assert at_rest(parse_config(values).controller) == usual
    values["controller"]["interval_seconds"] = 2
    assert usual.sqs - at_rest(parse_config(values).controller).sqs == pytest.approx(3_600 / 2)
    assert round(usual.sqs * 24) == 207_360
    assert usual.dollars(PRICES) * 24 == pytest.approx(0.15, abs=0.01)


FLEET = FleetSnapshot(
    at=NOW, running=5, pending=1, visible=112, in_flight=23, min_workers=0, max_workers=19,
    peak_workers=6, billed_seconds=325, reason="starting 1 of at most 19",
)  # fmt: skip


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ([plural(count, "image") for count in (0, 1, 1_000)], ["0 images", "1 image", "1,000 images"]),
        ([percent(score) for score in (0.0, 0.934, 0.999, 1.0)], ["0%", "93%", "99%", "100%"]),
        ([percent(0.0596, 1), percent(0.29, 1)], ["5.9%", "29.0%"]),
        (
            [file_size(size) for size in (10, 98_304, 1_258_291, 2**30 - 1, 2**41)],
            ["1 KB", "96 KB", "1.2 MB", "1,024 MB", "2,048 GB"],
        ),
        (
            [duration(seconds) for seconds in (0.44, 14, 325, 7_300, 432_000)],
            ["1 s", "14 s", "5 min", "2 h", "5 days"],
        ),
        ([ago(NOW, NOW + timedelta(seconds=14)), ago(NOW, NOW - timedelta(seconds=3))], ["14 s ago", "just now"]),
        ([rate_words(rate) for rate in (0.25, 9.9, 46.4, 1234.0)], ["0.2", "9.9", "46", "1,234"]),
        ([milliseconds(length) for length in (0.2, 7.4, 1_420, 300_000)], ["<1 ms", "7 ms", "1.42 s", "5 min"]),
        ([dollars(amount) for amount in (0, 0.00001, 0.00342, 0.0471)], ["$0.00", "<$0.0001", "$0.0034", "$0.047"]),
        ([dollars(amount) for amount in (0.313, 0.999, 1234.5)], ["$0.31", "$1.00", "$1,234.50"]),
    ],
    ids=["counts", "percent", "places", "sizes", "durations", "ago", "rates", "lengths", "small sums", "sums"],
)
def test_figures_are_as_short_as_they_are_certain(written: list[str], words: list[str]) -> None:
    assert written == words
