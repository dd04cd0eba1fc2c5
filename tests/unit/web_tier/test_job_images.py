"""The images of jobs: learned from the table, forgotten when they are taken back, missing until they are answered."""

from collections.abc import Sequence
from typing import Any

import pytest

from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.models import ImageRecord
from core.jobs.store import JobStore
from core.messages import CANCELLED, failed
from services.table import TableBusyError
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.result_path import (
    IMAGES,
    JOBS,
    REFS,
    ResultPath,
    done,
    figures,
    figures_of_items,
    not_done,
    stored_jobs,
)
from web_tier.controller.job_images import FEW


def test_an_image_that_was_taken_back_is_forgotten_with_its_result() -> None:
    store = stored_jobs()
    path = ResultPath(store)
    path.results.record([done(REFS[0]), failed(REFS[1], CANCELLED, worker="", attempts=1).response()])
    # A former holder still has the result of one.
    store.delete_images(REFS[:4])
    store.put_failed(not_done(REFS[1]))
    assert [record.ref for record in path.images.read_again(JOBS[0], [ref.image_id for ref in REFS[3:5]])] == [
        REFS[4]
    ]
    assert len(path.images.missing(JOBS[0])) == 37
    path.images.resync(JOBS[0])
    assert list(path.images.missing(JOBS[0])) == [ref.image_id for ref in IMAGES[JOBS[0]][4:]]
    for each in (path, ResultPath(store)):
        each.counts.rewrite(JOBS[0])
        assert (figures(store, JOBS[0]), JobFigures(store.table).counts(JOBS[0]).cancelled) == ((0, 0, 36), 0)
        assert not each.images.is_accepted(REFS[1])


@pytest.mark.parametrize("count", [1, FEW + 1])
def test_images_that_the_table_leaves_unread_delay_their_own_job_alone(count: int) -> None:
    store = stored_jobs()
    path, get_each, images = ResultPath(store), MemoryTable.get_each, JobStore.images
    path.results.record([done(IMAGES[job_id][0]) for job_id in JOBS])
    added, others = ([ImageRef(job_id, new_id()) for _ in range(count)] for job_id in JOBS)
    store.record_images([ImageRecord(ref, "a.jpg", "key", 1, EPOCH) for ref in (*added, *others)], EPOCH)

    def busy_page(each: JobStore, job_id: str, *arguments: Any, **named: Any) -> Any:
        if job_id == JOBS[0]:
            raise TableBusyError("busy")
        return images(each, job_id, *arguments, **named)

    def busy(each: MemoryTable, keys: Sequence[tuple[str, str]]) -> Any:
        left = [key for key in keys if key[0] == f"JOB#{JOBS[0]}"]
        found, _ = get_each(each, [key for key in keys if key not in left])
        return found, [(key, TableBusyError("busy")) for key in left]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryTable, "get_each", busy)
        patch.setattr(JobStore, "images", busy_page)
        errors = path.results.record_each([done(ref) for ref in (*added, *others)])
    assert {ref: type(error) for ref, error in errors.items()} == dict.fromkeys(added, TableBusyError)
    assert figures(store, JOBS[1]) == (1 + count, 0, 40 + count)


def test_an_image_added_while_others_are_read_is_not_treated_as_taken_back() -> None:
    store = stored_jobs()
    path, images = ResultPath(store), JobStore.images
    path.results.record([done(REFS[0])])
    late, gone = ImageRef(JOBS[0], new_id()), IMAGES[JOBS[0]][5]
    store.delete_images([gone])

    def read_then_add(each: JobStore, job_id: str, *arguments: Any, **named: Any) -> Any:
        found = list(images(each, job_id, *arguments, **named))
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(JobStore, "images", images)
            store.record_images([ImageRecord(late, "b.jpg", "key", 1, EPOCH)], EPOCH)
            path.results.record([done(late)])
        return iter(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobStore, "images", read_then_add)
        path.images.resync(JOBS[0])
    assert path.images.is_accepted(late)
    assert gone.image_id not in path.images.missing(JOBS[0])
    path.counts.rewrite(JOBS[0])
    assert figures(store, JOBS[0]) == figures_of_items(store, JOBS[0]) == (2, 0, 40)
