"""Dead letters in a table in memory: which images are listed, for how long, and what a deletion can take away."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from core.config import Config
from core.ids import ImageRef, new_id
from core.jobs.items import PACK, partition
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import DeletedJob, ImageRecord, Job
from core.jobs.store import JobStore
from tests.support.controller import loops_in_memory
from tests.support.jobs import NOW, add_images, done, failed, put_results, response_of
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.features.dead_letters.store import DeadLetterStore


@dataclass
class Office:
    """A job table, and what the controller and the web tier write to it."""

    store: JobStore = field(default_factory=lambda: JobStore(MemoryTable()))

    @property
    def letters(self) -> DeadLetterStore:
        return DeadLetterStore(self.store)

    def images(self, *filenames: str) -> list[ImageRecord]:
        """Make a job with images that have no result."""
        job = Job(new_id(), "holiday", NOW)
        self.store.create(job)
        return add_images(self.store, job, *filenames)

    def give_up(self, image: ImageRecord, attempt: int = 0) -> None:
        """Record a failure as the controller does: the item first, then the result."""
        self.letters.put_each([failed(image, attempt=attempt)])
        put_results(self.store, failed(image, attempt=attempt))

    def retry(self, image: ImageRecord) -> None:
        """Raise the attempt of an image, as a retry does."""
        before = self.store.image(image.ref)
        assert self.store.replace_images([(before, replace(before, attempt=before.attempt + 1))])

    def listed(self, limit: int = 100) -> list[ImageRef]:
        """Return the images on all pages."""
        return [ref for page in self.pages(limit) for ref in page]

    def pages(self, limit: int) -> Iterator[list[ImageRef]]:
        before = None
        while True:
            page = self.letters.page(before, limit=limit)
            yield [letter.record.ref for letter in page.letters]
            if (before := page.next_before) is None:
                return

    def items(self) -> set[str]:
        return {sk for pk, sk in cast(MemoryTable, self.store.table).items if pk == "DEADLETTERS"}


@pytest.fixture
def office() -> Office:
    return Office()


def test_images_that_were_given_up_are_listed_newest_jobs_first_page_by_page(office: Office) -> None:
    older, newer = office.images("a", "b", "c"), office.images("d", "e")
    for image in [*older, *newer]:
        office.give_up(image)
    expected = [image.ref for image in reversed([*older, *newer])]
    assert [list(page) for page in office.pages(2)] == [expected[:2], expected[2:4], expected[4:]]
    assert office.listed() == expected


def test_items_of_replaced_results_are_deleted_when_they_are_read(office: Office) -> None:
    labelled, failed_again, damaged, forgotten = office.images("a", "b", "c", "d")
    for image in (labelled, failed_again, forgotten):
        office.give_up(image)
    put_results(office.store, done(labelled))
    office.retry(failed_again)
    office.give_up(failed_again, attempt=1)
    office.letters.put_each([failed(damaged)])
    put_results(office.store, failed(damaged, code="truncated"))
    office.store.table.delete_all([(partition(forgotten.ref.job_id), f"{PACK}{forgotten.ref.image_id}")])
    assert office.listed() == [failed_again.ref]
    assert office.items() == {f"{failed_again.ref.job_id}-{failed_again.ref.image_id}-1"}


def test_a_page_may_end_between_two_attempts_of_an_image(office: Office) -> None:
    [image] = office.images("a")
    office.letters.put_each([failed(image, attempt=9)])
    for _ in range(10):
        office.retry(office.store.image(image.ref))
    office.give_up(image, attempt=10)
    assert office.listed(limit=1) == [image.ref]


def test_a_dead_letter_is_not_discarded_while_its_image_is_being_retried(office: Office) -> None:
    [image] = office.images("a")
    office.give_up(image)
    office.retry(image)
    office.letters.discard(image.ref)
    office.give_up(image, attempt=1)
    assert office.listed() == [image.ref]


def test_a_job_that_is_removed_leaves_no_dead_letters_and_takes_none_of_others(office: Office) -> None:
    removed, kept = office.images("a", "b"), office.images("c")
    for image in [*removed, *kept]:
        office.give_up(image)
    job = office.store.job(removed[0].ref.job_id)
    DeletedJobs(office.store.table).delete(job)
    assert office.listed() == [kept[0].ref]
    while office.letters.remove_of(DeletedJob(job.job_id), 1):
        pass
    assert office.items() == {f"{kept[0].ref.job_id}-{kept[0].ref.image_id}-0"}


def test_the_controller_records_dead_letters_and_removes_those_of_deleted_jobs(
    config: Config, office: Office
) -> None:
    [removed], [kept] = office.images("a"), office.images("b")
    with loops_in_memory(config, office.store) as (responses, loops):
        responses.send([response_of(failed(each)) for each in (removed, kept)])
        loops["collector"].tick()
        assert office.listed() == [kept.ref, removed.ref]
        DeletedJobs(office.store.table).delete(office.store.job(removed.ref.job_id))
        loops["cleanup"].tick()
    assert office.items() == {f"{kept.ref.job_id}-{kept.ref.image_id}-0"}
