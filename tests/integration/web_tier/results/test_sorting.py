"""Orders for browsers without JavaScript."""

from datetime import timedelta

import pytest

from core.jobs.models import Job
from core.jobs.store import JobStore
from tests.support.jobs import NOW, add_images, done, failed, put_results
from web_tier.results import sorting
from web_tier.results.query import ResultsFilter
from web_tier.results.sorting import sorted_page


@pytest.fixture
def mixed(store: JobStore, job: Job) -> Job:
    """Four images: two labels, one failure, one that waits."""
    images = add_images(store, job, "img 10.jpg", "IMG 9.jpg", "b.jpg", "a.jpg")
    early = done(images[0], "cat", 0.5).model_copy(update={"recorded_at": NOW})
    late = done(images[1], "ant", 0.9).model_copy(update={"recorded_at": NOW + timedelta(seconds=1)})
    put_results(store, job, early, late, failed(images[2]))
    return job


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("name", ["a.jpg", "b.jpg", "IMG 9.jpg", "img 10.jpg"]),
        ("label", ["IMG 9.jpg", "img 10.jpg", "b.jpg", "a.jpg"]),
        ("sure", ["IMG 9.jpg", "img 10.jpg", "b.jpg", "a.jpg"]),
        ("unsure", ["img 10.jpg", "IMG 9.jpg", "b.jpg", "a.jpg"]),
        ("state", ["b.jpg", "a.jpg", "img 10.jpg", "IMG 9.jpg"]),
        ("recent", ["IMG 9.jpg", "img 10.jpg", "b.jpg", "a.jpg"]),
    ],
)
def test_images_come_in_the_order_that_is_asked_for(
    store: JobStore, mixed: Job, order: str, names: list[str]
) -> None:
    found = sorted_page(store, mixed.job_id, ResultsFilter(), order, number=1, limit=10)
    assert [item.record.filename for item in found.page.items] == names
    assert found.is_last


def test_sorted_pages_follow_each_other_and_hold_only_what_is_wanted(store: JobStore, mixed: Job) -> None:
    wanted = ResultsFilter(state="done")
    first, second = (sorted_page(store, mixed.job_id, wanted, "name", number=number, limit=1) for number in (1, 2))
    assert [item.record.filename for part in (first, second) for item in part.page.items] == [
        "IMG 9.jpg",
        "img 10.jpg",
    ]
    assert (first.is_last, second.is_last) == (False, True)


def test_a_bounded_number_of_images_is_read(store: JobStore, mixed: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "MAX_SORTED", 2)
    found = sorted_page(store, mixed.job_id, ResultsFilter(), "name", number=1, limit=10)
    assert len(found.page.items) == 2
    assert not sorting.can_sort(store.status(mixed.job_id))
