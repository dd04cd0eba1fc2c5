"""The images of jobs: learned from the table, forgotten when they are taken back, missing until they are answered."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.models import ImageRecord
from core.jobs.store import JobStore
from core.messages import CANCELLED, RequestedModel, failed
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
from web_tier.controller import job_images
from web_tier.controller.job_counts import MissingImages
from web_tier.controller.job_images import FEW

OTHER = RequestedModel(digest="b" * 64, place="s3://models/b")


def test_a_retried_image_is_missing_until_its_attempt_has_a_result() -> None:
    store = stored_jobs()
    path = ResultPath(store)
    path.results.record([done(ref) for ref in IMAGES[JOBS[0]][3:]] + [not_done(ref) for ref in IMAGES[JOBS[0]][:3]])
    assert path.images.missing(JOBS[0]) == {}
    for ref in IMAGES[JOBS[0]][:2]:
        record = store.image(ref)
        assert store.replace_image(record, replace(record, attempt=1, model=OTHER))
    for each in (path, ResultPath(store)):
        each.images.learn_retries(JOBS[0])
        assert each.images.observe_missing(JOBS[0]).group[1] == OTHER.digest
        assert each.images.missing(JOBS[0]) == {ref.image_id: 1 for ref in IMAGES[JOBS[0]][:2]}
    path.results.record([not_done(REFS[0], 0), not_done(REFS[1], 1)])
    assert path.images.missing(JOBS[0]) == {REFS[0].image_id: 1}
    assert path.images.still_missing(JOBS[0], [ref.image_id for ref in REFS[:4]]) == [REFS[0].image_id]
    path.results.record([done(REFS[0])])
    assert path.images.missing(JOBS[0]) == ResultPath(store).images.missing(JOBS[0]) == {}


def test_images_accepted_after_the_job_was_first_seen_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_images, "PAGE", 40)
    store, calls = stored_jobs(), Counter[str]()
    path = ResultPath(store)
    path.results.record([done(REFS[0])])
    cast(MemoryTable, store.table).call = lambda operation, effect: (calls.update([operation]), effect())[1]
    for count in (1, 130):
        later = [ImageRef(JOBS[0], new_id()) for _ in range(count)]
        store.record_images([ImageRecord(ref, "b.jpg", "key", 1, EPOCH) for ref in later], EPOCH)
        assert all(path.images.is_accepted(ref) for ref in later[:1])
        calls.clear()
        path.results.record([done(ref) for ref in later])
    assert figures(store, JOBS[0]) == (132, 0, 171)
    assert calls["BatchGetItem"] == 1, "of many images a page is queried, and those beyond it are looked up"


def test_cancelled_and_waiting_images_are_known_by_their_results() -> None:
    store = stored_jobs()
    cancelled = [failed(ref, CANCELLED, worker="", attempts=1).response() for ref in REFS[:2]]
    path = ResultPath(store)
    path.results.record([*cancelled, not_done(REFS[2])])
    path.results.record([done(REFS[0])])
    for each, answered in ((path, REFS[2].image_id), (ResultPath(store), "")):
        assert each.images.cancelled(JOBS[0]) == [REFS[1].image_id]
        assert each.images.waiting(JOBS[0], 2) == [ref.image_id for ref in REFS[3:5]]
        asked = each.images.observe_missing(JOBS[0], [ref.image_id for ref in REFS[:4]])
        newest, group = IMAGES[JOBS[0]][-1].image_id, (JOBS[0], "")
        assert asked == MissingImages(37, newest, {REFS[3].image_id: 0}, answered, group)
        each.counts.rewrite(JOBS[0])
        assert (figures(store, JOBS[0]), JobFigures(store.table).counts(JOBS[0]).cancelled) == ((1, 2, 40), 1)


def test_a_deleted_job_has_no_images_of_any_kind() -> None:
    path, gone = ResultPath(stored_jobs()), new_id()
    path.images.learn_recent(gone)
    path.images.learn_retries(gone)
    path.images.resync(gone)
    assert path.counts.rewrite(gone)
    assert not path.images.is_accepted(ImageRef(gone, new_id()))
    assert (
        path.images.waiting(gone, 5) == path.images.cancelled(gone) == path.images.still_missing(gone, [gone]) == []
    )
    assert (path.images.missing(gone), path.images.observe_missing(gone)) == ({}, MissingImages())


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


def test_recent_changes_are_learned_by_reading_the_last_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_images, "RECENT", 5)
    monkeypatch.setattr(job_images, "PAGE", 3)
    store = stored_jobs()
    path, read = ResultPath(store), list[ImageRecord]()
    path.results.record([done(REFS[0])])
    added = [ImageRecord(ImageRef(JOBS[0], new_id()), "a.jpg", "key", 1, EPOCH) for _ in range(3)]
    store.record_images(added, EPOCH)
    images = JobStore.images

    def watched(*arguments: Any) -> Iterator[ImageRecord]:
        found = list(images(*arguments))
        read.extend(found)
        return iter(found)

    monkeypatch.setattr(JobStore, "images", watched)
    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "find_images", None)  # none was taken back, so none is read twice
        path.images.learn_recent(JOBS[0])
    assert len(path.images.missing(JOBS[0])) == 39 + 3
    assert len(read) == 4 + 3
    store.delete_images([added[2].ref])
    path.images.learn_recent(JOBS[0])
    assert set(path.images.missing(JOBS[0])) >= {added[0].ref.image_id, added[1].ref.image_id}
    assert added[2].ref.image_id not in path.images.missing(JOBS[0])


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
