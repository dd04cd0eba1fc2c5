"""A job's images with their results."""

from dataclasses import replace
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError

from core.ids import new_id
from core.jobs.models import Counts, Job, JobStatus
from core.jobs.store import JobStore
from tests.support.jobs import MODEL, NOW, add_images, done, failed, put_results
from web_tier.results import answered, query
from web_tier.results import jobs as listing
from web_tier.results.answered import AnsweringModels
from web_tier.results.jobs import jobs_page
from web_tier.results.query import ResultsFilter, all_results, filtered_page, images_per_second, results_page


def test_each_image_is_shown_with_its_own_result_or_as_waiting(store: JobStore, job: Job) -> None:
    first, second, third = add_images(store, job, "a.jpg", "a.jpg", "a.jpg")
    put_results(store, job, failed(third), done(first, "cat"))
    page = results_page(store, job.job_id, limit=10)
    assert [item.record for item in page.items] == [first, second, third]
    assert [item.state for item in page.items] == ["done", "waiting", "failed"]
    assert page.items[0].response == done(first, "cat")
    assert (page.model, page.next_after) == (MODEL, None)


def test_pages_follow_each_other_without_gap_or_overlap(store: JobStore, job: Job) -> None:
    images = add_images(store, job, *[f"{index}.jpg" for index in range(7)])
    put_results(store, job, *[done(image) for image in images])
    seen, after = [], None
    while True:
        page = results_page(store, job.job_id, after=after, limit=3)
        seen += [(item.record, item.state) for item in page.items]
        after = page.next_after
        if after is None:
            break
    assert seen == [(image, "done") for image in images]


def test_a_filter_that_nothing_passes_looks_at_a_bounded_number_of_images(
    store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "PAGE", 2)
    monkeypatch.setattr(query, "MAX_EXAMINED", 4)
    images = add_images(store, job, *["a.jpg"] * 4, "wanted.jpg")
    wanted = ResultsFilter(filename="WANTED")
    first = filtered_page(store, job.job_id, wanted, limit=10)
    assert (first.items, first.next_after) == ((), images[3].ref.image_id)
    second = filtered_page(store, job.job_id, wanted, after=first.next_after, limit=10)
    assert ([item.record for item in second.items], second.next_after) == ([images[4]], None)


def test_a_search_for_jobs_looks_at_a_bounded_number_of_them(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    monkeypatch.setattr(listing, "MAX_EXAMINED", 4)
    jobs = [Job(new_id(), "wanted" if index == 0 else "x", NOW) for index in range(5)]
    for each in jobs:
        store.create(each)
    first = jobs_page(store, limit=10, name="WANTED")
    assert (first.jobs, first.next_before) == ((), jobs[1].job_id)
    assert jobs_page(store, before=first.next_before, limit=10, name="WANTED").jobs == (jobs[0],)


def test_all_results_are_read_in_pages(store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "PAGE", 2)
    images = add_images(store, job, *["a.jpg"] * 5)
    assert [item.record for item in all_results(store, job.job_id)] == images


def test_a_job_without_images_has_an_empty_page(store: JobStore, job: Job) -> None:
    page = results_page(store, job.job_id, limit=10)
    assert (page.items, page.next_after, page.model) == ((), None, None)


def status(job: Job, results: int, seconds: float | None) -> JobStatus:
    last = None if seconds is None else NOW + timedelta(seconds=seconds)
    return JobStatus(job, 100, Counts(results, 0, 100, None if last is None else NOW, last))


@pytest.mark.parametrize(("results", "seconds", "rate"), [(0, None, None), (1, 0, None), (10, 0, None), (41, 2, 20)])
def test_the_rate_is_told_once_it_can_be(job: Job, results: int, seconds: float | None, rate: float | None) -> None:
    assert images_per_second(status(job, results, seconds)) == rate


def test_images_that_were_answered_at_once_are_no_part_of_the_rate(job: Job) -> None:
    known = status(job, 41, 2)
    mixed = replace(
        known.counts, done=1_041, cached=1_000, first_cached_at=NOW - timedelta(minutes=10), last_cached_at=NOW
    )
    assert images_per_second(replace(known, counts=mixed)) == images_per_second(known) == 20
    assert images_per_second(replace(known, counts=replace(mixed, done=1_000, first_result_at=None))) is None


def test_only_the_last_jobs_are_remembered(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answered, "MAX_JOBS", 1)
    models, statuses = AnsweringModels(), []
    for _ in range(2):
        job = Job(new_id(), "", NOW)
        store.create(job)
        [image] = add_images(store, job, "a.jpg")
        put_results(store, job, done(image))
        statuses.append(store.status(job.job_id))
        assert models.of(store, statuses[-1]) == MODEL
    gone = replace(store, table=replace(store.table, name="no-such-table"))
    assert models.of(gone, statuses[1]) == MODEL
    with pytest.raises(ClientError):
        models.of(gone, statuses[0])


def test_the_bundle_of_a_job_is_looked_up_once(store: JobStore, job: Job) -> None:
    models = AnsweringModels()
    assert models.of(store, store.status(job.job_id)) is None
    [image] = add_images(store, job, "a.jpg")
    put_results(store, job, done(image))
    answered = store.status(job.job_id)
    assert models.of(store, answered) == MODEL
    elsewhere = replace(store, table=replace(store.table, name="no-such-table"))
    assert models.of(elsewhere, answered) == MODEL
