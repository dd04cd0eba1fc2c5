"""Results and counts: the same in the end, also if calls are repeated, reordered, or cut short by a crash."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ids import ImageRef, first_id_of, input_key, new_id, output_key
from core.jobs.items import DEAD_LETTERS
from core.jobs.models import Counts, DeletedJob, ImageRecord, Job, Resend, ResultSummary
from core.jobs.store import JobStore
from core.messages import CANCELLED, ClassificationResult, Failure, Model, crashed_worker, failed
from core.model_catalog import JobModel
from services.table import BATCH_ATTEMPTS, Item, TableBusyError
from tests.support.autoscaler import Clock
from tests.support.jobs import client_error
from tests.support.memory_aws.calls import failing_writes
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, wait_until
from web_tier.controller import result_recorder
from web_tier.controller.job_counts import JobCounts, MissingImages
from web_tier.controller.result_recorder import (
    COUNTS_SECONDS,
    COUNTS_TICK_SECONDS,
    FEW,
    LARGE_JOB,
    MAX_COUNTS_A_SECOND,
    PROBLEM_SECONDS,
    READERS,
    CountsNotStoredError,
    JobLoadingError,
    ResultRecorder,
    StaleTokenError,
)

JOBS = [new_id() for _ in range(2)]
IMAGES = {job_id: [ImageRef(job_id, new_id()) for _ in range(40)] for job_id in JOBS}
REFS = [ref for refs in IMAGES.values() for ref in refs]


class CrashError(Exception):
    """The process dies here."""


def done(ref: ImageRef, attempts: int = 1) -> ClassificationResult:
    return ClassificationResult(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="done",
        label="cat",
        score=0.5,
        worker="i-1",
        attempts=attempts,
    )


def not_done(ref: ImageRef, attempt: int = 0, attempts: int = 1) -> ClassificationResult:
    failure = Failure(code="bad", message="no image")
    return failed(ref, failure, worker="i-1", attempt=attempt, attempts=attempts).response()


def stored_jobs(fail: Callable[[str], None] = lambda _when: None) -> JobStore:
    """A store with two jobs of forty images each, which fails only afterwards."""
    ready = [False]
    store = JobStore(MemoryTable(failing_writes(lambda when: fail(when) if ready[0] else None)))
    for job_id, refs in IMAGES.items():
        store.create(Job(job_id, "job", EPOCH))
        store.record_images([ImageRecord(ref, "a.jpg", "key", 1, EPOCH) for ref in refs], EPOCH)
    ready[0] = True
    return store


class LockedRecorder(ResultRecorder):
    """Fails if it is about to use what is known of a job that no thread holds."""

    def _job_counts(self, job_id: str) -> JobCounts | None:
        assert job_id in self.locks.in_use()
        return super()._job_counts(job_id)


def recorder_of(store: JobStore, **options: Any) -> ResultRecorder:
    """A recorder over an input bucket that is not asked."""
    return LockedRecorder(store, lambda _keys: None, **options)


def figures(store: JobStore, job_id: str) -> tuple[int, int, int]:
    counts = store.counts(job_id)
    return counts.done, counts.failed, counts.images


def redelivered(store: JobStore, job_id: str) -> int:
    """How many results needed more than one receive, as the items themselves say."""
    return sum(result.attempts > 1 for result in dict(store.summaries(job_id)).values())


def derived(store: JobStore, job_id: str) -> tuple[int, int, int]:
    """The figures as the items themselves make them."""
    statuses = list(store.statuses(job_id).values())
    return statuses.count("done"), statuses.count("failed"), store.count_images(job_id)


def test_a_failed_image_is_reported_with_the_model_of_its_job() -> None:
    store, reported = JobStore(MemoryTable()), list[ClassificationResult]()
    job = Job(REFS[0].job_id, "job", EPOCH, model=JobModel("new", "a" * 64, "s3://bucket/models/a"))
    store.create(job)
    store.record_images([ImageRecord(ref, "a.jpg", "key", 1, EPOCH) for ref in REFS[:2]], EPOCH)
    other = Model(name="of an old worker", digest="b" * 64)
    recorder = recorder_of(store, on_recorded=reported.extend)
    recorder.record([not_done(REFS[0]), done(REFS[1]).model_copy(update={"model": other})])
    assert {each.image_id: each.model for each in reported} == {
        REFS[0].image_id: Model(name="new", digest="a" * 64),
        REFS[1].image_id: other,
    }


def test_a_result_without_an_attempt_is_of_the_first_one() -> None:
    store = stored_jobs()
    store.put_failed(not_done(REFS[0]))
    items = cast(MemoryTable, store.table).items
    key = (f"JOB#{REFS[0].job_id}", f"RESULT#{REFS[0].image_id}")
    items[key] = {name: value for name, value in items[key].items() if name != "attempt"}
    assert dict(store.summaries(JOBS[0])) == {REFS[0].image_id: ResultSummary("failed")}
    assert store.put_failed(not_done(REFS[0], 1))


def test_a_retried_image_is_missing_until_its_attempt_has_a_result() -> None:
    store = stored_jobs()
    recorder = recorder_of(store)
    recorder.record([done(ref) for ref in IMAGES[JOBS[0]][3:]] + [not_done(ref) for ref in IMAGES[JOBS[0]][:3]])
    assert recorder.missing(JOBS[0]) == {}
    for ref in IMAGES[JOBS[0]][:2]:
        record = store.image(ref)
        assert store.replace_image(record, replace(record, attempt=1))
    for each in (recorder, recorder_of(store)):
        each.learn_retries(JOBS[0])
        assert each.missing(JOBS[0]) == {ref.image_id: 1 for ref in IMAGES[JOBS[0]][:2]}
    recorder.record([not_done(REFS[0], 0), not_done(REFS[1], 1)])
    assert recorder.missing(JOBS[0]) == {REFS[0].image_id: 1}
    assert recorder.still_missing(JOBS[0], [ref.image_id for ref in REFS[:4]]) == [REFS[0].image_id]
    recorder.record([done(REFS[0])])
    assert recorder.missing(JOBS[0]) == recorder_of(store).missing(JOBS[0]) == {}


def test_counts_of_a_controller_that_was_replaced_are_refused() -> None:
    """Row 54."""
    store = stored_jobs()
    frozen = recorder_of(store, token=7)
    frozen.record([done(REFS[0])])
    recorder_of(store, token=9).record([done(ref) for ref in IMAGES[JOBS[0]]])
    with pytest.raises(StaleTokenError):
        frozen.record([done(REFS[1])])
    assert figures(store, JOBS[0]) == (40, 0, 40)


def test_a_job_removed_before_the_last_write_of_a_frozen_controller_is_removed_again() -> None:
    store, holds_lease = stored_jobs(), [True]
    frozen = recorder_of(store, active=lambda: holds_lease[0])
    frozen.record([done(IMAGES[job_id][0]) for job_id in JOBS])
    removed = DeletedJob(JOBS[0])
    store.delete(store.job(JOBS[0]))
    while store.remove_items(removed, 100):
        pass
    store.unmark_deleted(removed)
    holds_lease[0] = False
    crashed = failed(IMAGES[JOBS[0]][2], crashed_worker(5), worker="i-1", attempts=5).response()
    frozen.record([*(done(IMAGES[job_id][1]) for job_id in JOBS), crashed])
    assert any(JOBS[0] in sk for pk, sk in cast(MemoryTable, store.table).items if pk == DEAD_LETTERS)
    [marked] = store.deleted_jobs()
    assert marked.job_id == JOBS[0]
    # A removal that has read for the last time before that write leaves the mark.
    store.unmark_deleted(removed)
    assert store.deleted_jobs() == [marked]
    while store.remove_items(marked, 100):
        pass
    store.unmark_deleted(marked)
    assert store.deleted_jobs() == []
    assert not [key for key in cast(MemoryTable, store.table).items if JOBS[0] in "".join(key)]
    assert not frozen.rewrite_counts(JOBS[0])
    assert [each.job_id for each in store.deleted_jobs()] == [JOBS[0]], "a write of counts alone"


def test_predictions_of_jobs_that_a_restored_table_may_have_lost_are_kept() -> None:
    """Row 64: if this table had the job, since an image was added to it later or it has a mark, it was deleted."""
    store, deleted = stored_jobs(), list[str]()
    old, gone = ImageRef(new_id(), new_id()), ImageRef(new_id(), new_id())
    added = ImageRef(old.job_id, first_id_of(datetime.now(UTC) + timedelta(hours=3)))
    store.delete(Job(gone.job_id, "job", EPOCH))
    for table_since, expected in (
        (None, [old, gone, added]),
        (datetime.now(UTC), [gone, added]),
        (datetime.now(UTC) - timedelta(hours=2), [old, gone, added]),
    ):
        recorder = recorder_of(store, delete_outputs=deleted.extend, table_since=table_since)
        recorder.record([done(old), done(gone), done(added)])
        assert sorted(deleted) == sorted(map(output_key, expected))
        deleted.clear()


def test_counts_of_a_version_without_tokens_are_replaced() -> None:
    store = stored_jobs()
    recorder_of(store).record([done(REFS[0])])
    items = cast(MemoryTable, store.table).items
    key = (f"COUNTS#{JOBS[0]}", "COUNTED")
    items[key] = {name: value for name, value in items[key].items() if name != "token"}
    recorder_of(store, token=1).record([done(REFS[1])])
    assert figures(store, JOBS[0]) == (2, 0, 40)


def test_a_failed_result_never_takes_the_place_of_one_that_another_holder_wrote() -> None:
    store = stored_jobs()
    recorder = recorder_of(store)
    recorder.record([done(REFS[1])])
    store.put_done([done(REFS[0])])
    recorder.record([not_done(REFS[0])])
    assert figures(store, JOBS[0]) == (2, 0, 40)


def test_each_answer_is_counted_once_in_the_run_in_which_it_was_given() -> None:
    store, reported, run = stored_jobs(), list[int](), [1]
    attributed = list[tuple[str, str, int, int]]()

    def answered(images: int) -> int:
        reported.append(images)
        return run[0]

    def attribute(owner: str, job_id: str, period: int, answers: Sequence[ClassificationResult]) -> None:
        attributed.append((owner, job_id, period, len(answers)))

    recorder = recorder_of(store, on_results=answered, on_attributed=attribute)
    recorder.record([done(REFS[0]), done(REFS[1]), not_done(REFS[2])])
    recorder.record([done(REFS[0]), not_done(REFS[2])])
    recorder.record([done(REFS[0]), not_done(REFS[2], 1), done(REFS[3])])  # only the first one is a repeat
    assert attributed == [("", JOBS[0], 1, 3), ("", JOBS[0], 1, 2)]
    run[0] = 4
    successor = recorder_of(store, on_results=answered)
    successor.record([not_done(REFS[2], 1), done(REFS[0])])
    successor.record([done(REFS[2]), not_done(REFS[3]), done(ImageRef(JOBS[0], new_id()))])
    assert (reported, store.counts(JOBS[0]).runs) == ([3, 2, 1], ((1, 5), (4, 1)))


def resend(attempt: int = 0, minutes: float = 0.0) -> Resend:
    at = EPOCH + timedelta(minutes=minutes)
    return Resend(attempt, at, at, waited_seconds=60)


def test_resends_add_up_and_an_image_that_the_system_retried_twice_counts_once() -> None:
    store = stored_jobs()
    recorder = recorder_of(store)
    recorder.record([done(REFS[0], attempts=3), done(REFS[1])])
    recorder.record_resends(JOBS[0], {REFS[0].image_id: resend(), REFS[2].image_id: resend()})
    assert (store.counts(JOBS[0]).system_retried, store.counts(JOBS[0]).resends) == (2, 2)
    recorder_of(store).record_resends(JOBS[0], {REFS[2].image_id: resend(1, minutes=5)})
    assert store.resends(JOBS[0])[REFS[2].image_id] == Resend(1, EPOCH, EPOCH + timedelta(minutes=5), 60, times=2)
    assert (store.counts(JOBS[0]).system_retried, store.counts(JOBS[0]).resends) == (2, 3)


def test_resends_of_what_was_taken_back_or_deleted_are_not_recorded() -> None:
    store = stored_jobs()
    recorder = recorder_of(store)
    recorder.record_resends(JOBS[0], {REFS[0].image_id: resend(), REFS[1].image_id: resend()})
    store.delete_images([REFS[0]])
    recorder.resync(JOBS[0])
    recorder.rewrite_counts(JOBS[0])
    for _ in range(2):
        assert (store.counts(JOBS[0]).system_retried, store.counts(JOBS[0]).resends) == (1, 1)
        recorder_of(store).rewrite_counts(JOBS[0])
    before = dict(cast(MemoryTable, store.table).items)
    recorder.record_resends(new_id(), {REFS[0].image_id: resend()})
    assert cast(MemoryTable, store.table).items == before


def test_counts_and_results_of_a_version_that_noted_no_retries_are_read() -> None:
    store = stored_jobs()
    recorder_of(store).record([done(REFS[0], attempts=3)])
    items = cast(MemoryTable, store.table).items
    for key in ((f"COUNTS#{JOBS[0]}", "COUNTED"), (f"JOB#{JOBS[0]}", f"RESULT#{REFS[0].image_id}")):
        later = {"system_retried", "resends", "attempts"}
        items[key] = {name: value for name, value in items[key].items() if name not in later}
    assert store.counts(JOBS[0]).system_retried == 0
    recorder_of(store).record([done(REFS[1], attempts=2)])
    assert store.counts(JOBS[0]).system_retried == 1


def test_what_belongs_to_nothing_is_dropped_and_its_neighbours_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    store, gone, deleted = stored_jobs(), ImageRef(new_id(), new_id()), list[str]()
    recorder = recorder_of(store, delete_outputs=deleted.extend)
    recorder.record([done(gone), done(ImageRef(JOBS[0], new_id())), done(REFS[0])])
    assert deleted == [output_key(gone)]
    logged = [vars(each) for each in caplog.records]
    assert [(each.get("jobs") or each["job"], each["n"]) for each in logged] == [([gone.job_id], 1), (JOBS[0], 1)]
    assert figures(store, JOBS[0]) == (1, 0, 40)
    assert store.statuses(JOBS[0]) == {REFS[0].image_id: "done"}


def test_images_accepted_after_the_job_was_first_seen_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_recorder, "PAGE", 40)
    store, calls = stored_jobs(), Counter[str]()
    recorder = recorder_of(store)
    recorder.record([done(REFS[0])])
    cast(MemoryTable, store.table).call = lambda operation, effect: (calls.update([operation]), effect())[1]
    for count in (1, 130):
        later = [ImageRef(JOBS[0], new_id()) for _ in range(count)]
        store.record_images([ImageRecord(ref, "b.jpg", "key", 1, EPOCH) for ref in later], EPOCH)
        assert all(recorder.is_accepted(ref) for ref in later[:1])
        calls.clear()
        recorder.record([done(ref) for ref in later])
    assert figures(store, JOBS[0]) == (132, 0, 171)
    assert calls["BatchGetItem"] == 1, "of many images a page is queried, and those beyond it are looked up"


def test_a_controller_that_follows_stores_the_counts_that_the_last_one_did_not() -> None:
    store, now = stored_jobs(), EPOCH + timedelta(seconds=5)
    recorder_of(store, now=lambda: EPOCH).record([done(REFS[0])])
    store.put_done([done(REFS[1]), done(IMAGES[JOBS[1]][0])])
    store.put_failed(not_done(REFS[2]))
    successor = recorder_of(store, now=lambda: now)
    assert all(successor.is_accepted(IMAGES[job_id][0]) for job_id in JOBS)
    successor.tick()
    assert store.counts(JOBS[0]) == Counts(2, 1, 40, EPOCH, now)
    assert store.counts(JOBS[1]) == Counts(1, 0, 40, now, now)


@pytest.mark.parametrize(("max_images", "stay"), [(41, 2), (40, 1)])
def test_no_more_jobs_are_forgotten_than_the_bound_demands(max_images: int, stay: int) -> None:
    store, small = stored_jobs(), ImageRef(new_id(), new_id())
    store.create(Job(small.job_id, "job", EPOCH))
    store.record_images([ImageRecord(small, "a.jpg", "key", 1, EPOCH)], EPOCH)
    recorder = recorder_of(store, max_images=max_images)
    recorder.record([done(IMAGES[job_id][0]) for job_id in JOBS])
    assert recorder.is_accepted(small)
    assert list(recorder._jobs) == [*JOBS, small.job_id][-stay:]


@pytest.mark.parametrize("reads_aside", [False, True])
def test_what_is_remembered_is_bounded_and_what_was_forgotten_is_read_again(reads_aside: bool) -> None:
    store, clock = stored_jobs(), Clock()
    with ThreadPoolExecutor(2) as readers:
        recorder = recorder_of(store, max_images=50, clock=clock, readers=readers if reads_aside else None)
        assert recorder.problem() is None
        for ref in REFS[::3] + REFS[::3][::-1]:
            recorder.record([done(ref)])
    assert len(recorder._jobs) == 1
    assert "more than 50 images" in (recorder.problem() or "")
    clock.now += PROBLEM_SECONDS
    assert recorder.problem() is not None
    clock.now += 1
    assert recorder.problem() is None
    for job_id in JOBS:
        assert figures(store, job_id) == derived(store, job_id)


def test_a_job_that_the_table_keeps_waiting_delays_no_other_job() -> None:
    is_waiting, may_end = threading.Event(), threading.Event()

    def stall(_when: str) -> None:
        if threading.current_thread() is slow:
            is_waiting.set()
            may_end.wait(DEADLINE_SECONDS)

    store = stored_jobs(stall)
    recorder = recorder_of(store)
    slow = threading.Thread(target=recorder.record, args=([done(IMAGES[JOBS[0]][0])],))
    slow.start()
    assert is_waiting.wait(DEADLINE_SECONDS)
    recorder.record([done(IMAGES[JOBS[1]][0])])
    assert slow.is_alive()
    may_end.set()
    slow.join()
    assert [figures(store, job_id) for job_id in JOBS] == [(1, 0, 40), (1, 0, 40)]


def test_threads_write_the_results_of_one_job_in_turns() -> None:
    writing, most = Counter[str](), Counter[str]()

    def watched(operation: str, effect: Callable[[], Any]) -> Any:
        writing[operation] += 1
        most[operation] = max(most[operation], writing[operation])
        time.sleep(0.001)  # other threads run
        result = effect()
        writing[operation] -= 1
        return result

    store = stored_jobs()
    cast(MemoryTable, store.table).call = watched
    recorder = recorder_of(store)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda ref: recorder.record([done(ref)]), IMAGES[JOBS[0]]))
    recorder.write_counts(at_once=True)
    assert (most["BatchWriteItem"], most["PutItem"]) == (1, 1), "also the counts, so that older ones are never last"
    assert figures(store, JOBS[0]) == (40, 0, 40)
    assert not recorder.locks.in_use()


def test_jobs_that_have_all_their_results_are_forgotten_first() -> None:
    store = stored_jobs()
    recorder = recorder_of(store, max_answered=10)
    for ref in IMAGES[JOBS[0]]:
        recorder.record([done(ref)])
    recorder.record([done(IMAGES[JOBS[1]][0])])
    assert list(recorder._jobs) == [JOBS[1]]
    recorder.record([not_done(ref) for ref in IMAGES[JOBS[0]]])
    assert figures(store, JOBS[0]) == (40, 0, 40), "what comes for it later is a repeat"
    assert list(recorder._jobs) == JOBS[::-1], "one that waits for results stays"


def test_a_job_that_is_deleted_before_its_counts_are_stored_delays_no_other() -> None:
    store = stored_jobs()
    recorder = recorder_of(store)
    recorder.set_open_jobs(JOBS)
    recorder.record([done(IMAGES[job_id][0]) for job_id in JOBS])
    recorder.evict(JOBS[0])
    recorder.write_counts(at_once=True)
    assert [figures(store, job_id)[0] for job_id in JOBS] == [0, 1]


def test_results_of_a_job_that_is_deleted_while_it_is_read_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, load = recorder_of(store := stored_jobs()), ResultRecorder._load

    def load_then_delete(each: ResultRecorder, job_ids: Iterable[str]) -> Any:
        found = load(each, job_ids)
        each.evict(JOBS[0])
        return found

    monkeypatch.setattr(ResultRecorder, "_load", load_then_delete)
    errors = recorder.record_each([done(IMAGES[job_id][0]) for job_id in JOBS])
    assert {ref: str(error) for ref, error in errors.items()} == {
        REFS[0]: f"the job {JOBS[0]!r} was deleted while it was read"
    }
    assert [figures(store, job_id)[0] for job_id in JOBS] == [0, 1]


def test_cancelled_and_waiting_images_are_known_by_their_results() -> None:
    store = stored_jobs()
    cancelled = [failed(ref, CANCELLED, worker="", attempts=1).response() for ref in REFS[:2]]
    recorder = recorder_of(store)
    recorder.record([*cancelled, not_done(REFS[2])])
    recorder.record([done(REFS[0])])
    for each, answered in ((recorder, REFS[2].image_id), (recorder_of(store), "")):
        assert each.cancelled(JOBS[0]) == [REFS[1].image_id]
        assert each.waiting(JOBS[0], 2) == [ref.image_id for ref in REFS[3:5]]
        asked = each.observe_missing(JOBS[0], [ref.image_id for ref in REFS[:4]])
        newest, group = IMAGES[JOBS[0]][-1].image_id, (JOBS[0], "")
        assert asked == MissingImages(37, newest, {REFS[3].image_id: 0}, answered, group)
        each.rewrite_counts(JOBS[0])
        assert (figures(store, JOBS[0]), store.counts(JOBS[0]).cancelled) == ((1, 2, 40), 1)


def test_a_deleted_job_has_no_images_of_any_kind() -> None:
    recorder, gone = recorder_of(stored_jobs()), new_id()
    recorder.learn_recent(gone)
    recorder.learn_retries(gone)
    recorder.resync(gone)
    assert recorder.rewrite_counts(gone)
    assert not recorder.is_accepted(ImageRef(gone, new_id()))
    assert recorder.waiting(gone, 5) == recorder.cancelled(gone) == recorder.still_missing(gone, [gone]) == []
    assert (recorder.missing(gone), recorder.observe_missing(gone)) == ({}, MissingImages())


def test_an_image_that_was_taken_back_is_forgotten_with_its_result() -> None:
    store = stored_jobs()
    recorder = recorder_of(store)
    recorder.record([done(REFS[0]), failed(REFS[1], CANCELLED, worker="", attempts=1).response()])
    # A former holder still has the result of one.
    store.delete_images(REFS[:4])
    store.put_failed(not_done(REFS[1]))
    assert [record.ref for record in recorder.read_again(JOBS[0], [ref.image_id for ref in REFS[3:5]])] == [REFS[4]]
    assert len(recorder.missing(JOBS[0])) == 37
    recorder.resync(JOBS[0])
    assert list(recorder.missing(JOBS[0])) == [ref.image_id for ref in IMAGES[JOBS[0]][4:]]
    for each in (recorder, recorder_of(store)):
        each.rewrite_counts(JOBS[0])
        assert (figures(store, JOBS[0]), store.counts(JOBS[0]).cancelled) == ((0, 0, 36), 0)
        assert not each.is_accepted(REFS[1])


def test_recent_changes_are_learned_by_reading_the_last_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_recorder, "RECENT", 5)
    monkeypatch.setattr(result_recorder, "PAGE", 3)
    store = stored_jobs()
    recorder, read = recorder_of(store), list[ImageRecord]()
    recorder.record([done(REFS[0])])
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
        recorder.learn_recent(JOBS[0])
    assert len(recorder.missing(JOBS[0])) == 39 + 3
    assert len(read) == 4 + 3
    store.delete_images([added[2].ref])
    recorder.learn_recent(JOBS[0])
    assert set(recorder.missing(JOBS[0])) >= {added[0].ref.image_id, added[1].ref.image_id}
    assert added[2].ref.image_id not in recorder.missing(JOBS[0])


def test_counts_of_a_job_are_stored_a_few_times_a_second_and_in_the_end() -> None:
    store, clock, stored = stored_jobs(), Clock(), list[tuple[int, int, int]]()
    store_counts = JobStore.store_counts

    def watched(each: JobStore, job_id: str, counts: Counts, token: int = 0) -> bool:
        stored.append((counts.done, counts.failed, counts.images))
        return store_counts(each, job_id, counts, token)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobStore, "store_counts", watched)
        recorder = recorder_of(store, clock=clock)
        recorder.set_open_jobs(JOBS)
        for ref in IMAGES[JOBS[0]]:
            assert recorder.record_each([done(ref)]) == {}
            pause = recorder.tick()
        assert (stored, pause) == ([(1, 0, 40)], COUNTS_TICK_SECONDS), "the first ones at once"
        clock.now += COUNTS_SECONDS
        recorder.tick()
        assert stored == [(1, 0, 40), (40, 0, 40)]
        clock.now += COUNTS_SECONDS
        assert (recorder.tick(), len(stored)) == (COUNTS_SECONDS, 2), "nothing has changed"


def test_of_many_jobs_the_counts_of_each_are_stored_less_often() -> None:
    store, clock, jobs = JobStore(MemoryTable()), Clock(), 2 * MAX_COUNTS_A_SECOND
    refs = [[ImageRef(job_id, new_id()) for _ in range(2)] for job_id in (new_id() for _ in range(jobs))]
    for pair in refs:
        store.create(Job(pair[0].job_id, "job", EPOCH))
        store.record_images([ImageRecord(ref, "a.jpg", "key", 1, EPOCH) for ref in pair], EPOCH)
    recorder = recorder_of(store, clock=clock)
    recorder.set_open_jobs([pair[0].job_id for pair in refs])
    for number in range(2):
        assert recorder.record_each([done(pair[number]) for pair in refs]) == {}
        recorder.tick()
    seconds = list[float]()
    for _ in range(jobs):
        if all(figures(store, pair[0].job_id) == (2, 0, 2) for pair in refs):
            break
        seconds.append(clock.now)
        clock.now += COUNTS_SECONDS
        recorder.tick()
    assert seconds[-1] - seconds[0] >= jobs / MAX_COUNTS_A_SECOND - 2 * COUNTS_SECONDS
    assert len(seconds) < 12


def test_counts_that_cannot_be_stored_are_retried_with_backoff_while_results_go_on() -> None:
    store, clock, tried, refuse = stored_jobs(), Clock(), list[float](), [True]

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "PutItem":
            tried.append(clock.now)
            if refuse[0]:
                raise client_error(503)
        return effect()

    cast(MemoryTable, store.table).call = call
    recorder = recorder_of(store, clock=clock)
    recorder.set_open_jobs(JOBS)
    assert recorder.record_each([done(REFS[0])]) == {}
    for _ in range(600):
        recorder.tick()
        clock.now += COUNTS_SECONDS
    assert (store.statuses(JOBS[0]), figures(store, JOBS[0])) == ({REFS[0].image_id: "done"}, (0, 0, 0))
    gaps = [later - earlier for earlier, later in pairwise(tried)]
    assert gaps == [0.5, 1, 2, 4, 8, 16, 32, 32, 32]
    refuse[0] = False
    clock.now = tried[-1] + 32
    recorder.tick()
    assert figures(store, JOBS[0]) == (1, 0, 40)
    recorder.record_each([done(REFS[1])])
    clock.now += COUNTS_SECONDS
    recorder.tick()
    assert figures(store, JOBS[0]) == (2, 0, 40), "after a success without a pause"


@pytest.mark.parametrize(
    ("error", "failures", "active", "tries"),
    [
        (TableBusyError("busy"), BATCH_ATTEMPTS - 1, True, BATCH_ATTEMPTS),
        (TableBusyError("busy"), BATCH_ATTEMPTS, True, BATCH_ATTEMPTS),
        (TableBusyError("busy"), 2, False, 1),
        (client_error(503), 2, True, 1),
    ],
)
def test_results_are_tried_again_after_growing_pauses_while_the_table_throttles(
    error: Exception, failures: int, active: bool, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, pauses, tried, put_each_done = stored_jobs(), list[float](), list[int](), JobStore.put_each_done

    def throttled(each: JobStore, responses: Sequence[ClassificationResult]) -> Any:
        tried.append(len(responses))
        first = int(len(tried) <= failures)
        return put_each_done(each, responses[first:]) | {response.ref: error for response in responses[:first]}

    monkeypatch.setattr(JobStore, "put_each_done", throttled)
    acting = [True]
    recorder = recorder_of(store, sleep=pauses.append, active=lambda: acting[0])
    assert recorder.is_accepted(REFS[0])
    acting[0] = active
    with pytest.raises(type(error)) if failures >= tries else nullcontext():
        recorder.record([done(ref) for ref in REFS[:3]])
    assert tried == [3, *([1] * (tries - 1))], "only what is left is tried again"
    assert len(pauses) == tries - 1
    assert all(min(5.0, 0.1 * 2**n) / 2 <= pause <= min(5.0, 0.1 * 2**n) for n, pause in enumerate(pauses))
    assert figures(store, JOBS[0])[0] == (2 if failures >= tries else 3)


def test_a_late_result_of_a_closed_job_is_recorded_again_until_it_is_counted() -> None:
    """No reconciler would find that it is not: it reads open jobs only."""
    store, refuse = stored_jobs(), [False]

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "PutItem" and refuse[0]:
            raise client_error(503)
        return effect()

    cast(MemoryTable, store.table).call = call
    recorder = recorder_of(store)
    recorder.record([*[done(ref) for ref in IMAGES[JOBS[0]][1:]], not_done(REFS[0])])
    refuse[0] = True
    for _ in range(2):
        errors = recorder.record_each([done(REFS[0])])
        assert {ref: type(error) for ref, error in errors.items()} == {REFS[0]: CountsNotStoredError}
    assert figures(store, JOBS[0]) == (39, 1, 40)
    refuse[0] = False
    assert recorder.record_each([done(REFS[0])]) == {}
    assert figures(store, JOBS[0]) == derived(store, JOBS[0]) == (40, 0, 40)


def test_a_job_that_is_being_read_delays_no_other() -> None:
    """A controller that takes over reads a job of a million images for a minute."""
    may_read, ref = threading.Event(), IMAGES[JOBS[1]][0]
    store, images = stored_jobs(), JobStore.images

    def slow(each: JobStore, job_id: str, *arguments: Any, **named: Any) -> Any:
        if job_id == JOBS[0]:
            may_read.wait(DEADLINE_SECONDS)
        return images(each, job_id, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as readers:
        patch.setattr(JobStore, "images", slow)
        patch.setattr(result_recorder, "LOAD_SECONDS", 0.05)
        recorder = recorder_of(store, readers=readers)
        recorder.record([done(ref)])
        errors = recorder.record_each([done(REFS[0]), done(IMAGES[JOBS[1]][1])])
        assert {ref: type(error) for ref, error in errors.items()} == {REFS[0]: JobLoadingError}
        recorder.write_counts(at_once=True)
        assert figures(store, JOBS[1]) == (2, 0, 40)
        may_read.set()
        wait_until(lambda: recorder.record_each([done(REFS[0])]) == {}, "the job is read")
    assert figures(store, JOBS[0]) == (1, 0, 40)


def test_large_jobs_that_are_being_read_delay_no_small_one() -> None:
    may_read, images = threading.Event(), JobStore.images
    store = stored_jobs()
    large = [new_id() for _ in range(READERS)]
    for job_id in large:
        store.create(Job(job_id, "job", EPOCH))
        store.store_counts(job_id, Counts(images=LARGE_JOB + 1))
    assert recorder_of(store).is_read(large[0])

    def slow(each: JobStore, job_id: str, *arguments: Any, **named: Any) -> Any:
        if job_id in large:
            may_read.wait(NEVER_SECONDS)
        return images(each, job_id, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(READERS) as readers:
        patch.setattr(JobStore, "images", slow)
        patch.setattr(result_recorder, "LOAD_SECONDS", 0.05)
        recorder = recorder_of(store, readers=readers)
        try:
            errors = recorder.record_each([done(ImageRef(job_id, new_id())) for job_id in large])
            assert {ref.job_id: type(errors[ref]) for ref in errors} == dict.fromkeys(large, JobLoadingError)
            wait_until(lambda: recorder.record_each([done(REFS[0])]) == {}, "the small job is read")
        finally:
            may_read.set()
    assert figures(store, JOBS[0]) == (1, 0, 40)


@pytest.mark.parametrize("count", [1, FEW + 1])
def test_images_that_the_table_leaves_unread_delay_their_own_job_alone(count: int) -> None:
    store = stored_jobs()
    recorder, get_each, images = recorder_of(store), MemoryTable.get_each, JobStore.images
    recorder.record([done(IMAGES[job_id][0]) for job_id in JOBS])
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
        errors = recorder.record_each([done(ref) for ref in (*added, *others)])
    assert {ref: type(error) for ref, error in errors.items()} == dict.fromkeys(added, TableBusyError)
    assert figures(store, JOBS[1]) == (1 + count, 0, 40 + count)


def test_an_image_added_while_others_are_read_is_not_treated_as_taken_back() -> None:
    store = stored_jobs()
    recorder, images = recorder_of(store), JobStore.images
    recorder.record([done(REFS[0])])
    late, gone = ImageRef(JOBS[0], new_id()), IMAGES[JOBS[0]][5]
    store.delete_images([gone])

    def read_then_add(each: JobStore, job_id: str, *arguments: Any, **named: Any) -> Any:
        found = list(images(each, job_id, *arguments, **named))
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(JobStore, "images", images)
            store.record_images([ImageRecord(late, "b.jpg", "key", 1, EPOCH)], EPOCH)
            recorder.record([done(late)])
        return iter(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobStore, "images", read_then_add)
        recorder.resync(JOBS[0])
    assert recorder.is_accepted(late)
    assert gone.image_id not in recorder.missing(JOBS[0])
    recorder.rewrite_counts(JOBS[0])
    assert figures(store, JOBS[0]) == derived(store, JOBS[0]) == (2, 0, 40)


def test_one_throttled_job_is_the_only_one_that_is_not_recorded() -> None:
    store = stored_jobs()
    put_each = MemoryTable.put_each

    def throttled(each: MemoryTable, items: Sequence[Item]) -> list[tuple[Item, Exception]]:
        busy = [item for item in items if item["pk"] == f"JOB#{JOBS[0]}"]
        left = put_each(each, [item for item in items if item not in busy])
        return [*left, *((item, TableBusyError("busy")) for item in busy)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryTable, "put_each", throttled)
        recorder = recorder_of(store)
        errors = recorder.record_each([done(IMAGES[job_id][0]) for job_id in JOBS])
    assert {ref: type(error) for ref, error in errors.items()} == {IMAGES[JOBS[0]][0]: TableBusyError}
    assert [figures(store, job_id)[0] for job_id in JOBS] == [0, 1]
    recorder.record([done(IMAGES[JOBS[0]][0])])
    assert figures(store, JOBS[0]) == (1, 0, 40)


def test_threads_that_hold_several_jobs_never_wait_for_each_other() -> None:
    store = stored_jobs()
    recorder = recorder_of(store)

    def record(number: int) -> None:
        both = [done(IMAGES[job_id][number]) for job_id in JOBS]
        recorder.record_each(both if number % 2 else both[::-1])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(record, range(40), timeout=DEADLINE_SECONDS))
    recorder.write_counts(at_once=True)
    assert [figures(store, job_id) for job_id in JOBS] == [(40, 0, 40)] * 2
    assert not recorder.locks.in_use()


@dataclass
class FailingAt:
    """Crashes at given writes, counted over all attempts."""

    crashes: set[int]
    writes: int = field(default=0)

    def __call__(self, _when: str) -> None:
        self.writes += 1
        if self.writes in self.crashes:
            raise CrashError


_responses = st.lists(
    st.builds(
        lambda ref, good, attempts: done(ref, attempts) if good else not_done(ref, attempts=attempts),
        st.sampled_from(REFS),
        st.booleans(),
        st.integers(1, 2),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=150)
@given(_responses, st.sets(st.integers(1, 60), max_size=12), st.lists(st.booleans(), max_size=12), st.randoms())
def test_any_order_repetition_and_crash_ends_at_the_figures_of_the_items(
    responses: list[ClassificationResult],
    crashes: set[int],
    restarts: list[bool],
    random: "st.random.Random",  # type: ignore[name-defined]
) -> None:
    """At-least-once delivery: what was not recorded comes again, in another order, perhaps to a new process."""
    store = stored_jobs(FailingAt(crashes))
    recorder = recorder_of(store)
    queue = list(responses)
    restart = iter(restarts)
    while queue:
        batch = [queue.pop(random.randrange(len(queue))) for _ in range(min(len(queue), random.randint(1, 100)))]
        try:
            recorder.record(batch)
        except CrashError:
            queue += batch
            if next(restart, False):
                recorder = recorder_of(store)
    good = {response.ref for response in responses if response.status == "done"}
    every = {response.ref for response in responses}
    for job_id in {response.job_id for response in responses}:
        expected = (
            sum(ref.job_id == job_id for ref in good),
            sum(ref.job_id == job_id for ref in every - good),
            40,
        )
        assert figures(store, job_id) == derived(store, job_id) == expected
        assert store.counts(job_id).system_retried == redelivered(store, job_id)


def test_an_unkept_image_is_deleted_once_its_label_is_stored_however_often_it_comes() -> None:
    store, deleted = stored_jobs(), list[str]()
    recorder = ResultRecorder(store, deleted.extend)
    own, foreign = input_key(REFS[0], "jpg"), input_key(REFS[1], "jpg")
    recorder.record([done(REFS[0]).model_copy(update={"key": own})])
    # The controller that recorded it first may have died before the deletion.
    recorder.record([done(REFS[0]).model_copy(update={"key": own})])
    assert deleted == [own, own]
    recorder.record(
        [
            done(REFS[2]).model_copy(update={"key": foreign}),
            done(REFS[3]),
            not_done(REFS[4]).model_copy(update={"key": input_key(REFS[4], "jpg")}),
            done(ImageRef(JOBS[0], new_id())).model_copy(update={"key": own}),
        ]
    )
    assert deleted == [own, own], "another image's, one of unknown key, a failed one, one that was never accepted"


def test_an_image_that_is_kept_stays() -> None:
    store = JobStore(MemoryTable())
    store.create(Job(JOBS[0], "job", EPOCH, keep=True))
    store.record_images([ImageRecord(REFS[0], "a.jpg", "key", 1, EPOCH)], EPOCH)
    deleted = list[str]()
    ResultRecorder(store, deleted.extend).record(
        [done(REFS[0]).model_copy(update={"key": input_key(REFS[0], "jpg")})]
    )
    assert (deleted, figures(store, JOBS[0])) == ([], (1, 0, 1))


@pytest.mark.parametrize("is_replaced", [False, True])
def test_images_that_the_web_tier_answered_are_known_as_done_and_never_missing(is_replaced: bool) -> None:
    """Also when they were answered: the web process may have ended before it could say so."""
    store = stored_jobs()
    recorder = recorder_of(store, now=lambda: EPOCH)
    recorder.record([done(REFS[0])])
    at = [EPOCH + timedelta(hours=hours) for hours in (3, 8, 1)]
    cached = [ImageRecord(ImageRef(JOBS[0], new_id()), "b.jpg", "key", 1, each, cached=True) for each in at]
    store.put_done([done(image.ref) for image in cached[1:]])
    store.record_images(cached, EPOCH)
    if is_replaced:
        recorder = recorder_of(store, now=lambda: EPOCH + timedelta(days=1))
    recorder.resync(JOBS[0])
    recorder.rewrite_counts(JOBS[0])
    expected = Counts(4, 0, 43, EPOCH, EPOCH, cached=3, first_cached_at=min(at), last_cached_at=max(at))
    assert store.counts(JOBS[0]) == expected
    assert len(recorder.missing(JOBS[0])) == 39
    # A controller that takes over counts the same, and finds no results that came since.
    successor = recorder_of(store, now=lambda: EPOCH + timedelta(days=1))
    successor.record([done(cached[0].ref)])
    assert store.counts(JOBS[0]) == expected
