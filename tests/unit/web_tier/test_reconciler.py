"""The reconciler over hours of a virtual clock: what is lost is found again, and no backlog is multiplied."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, cast
from unittest.mock import Mock

import pytest

from core.ids import ImageRef, new_id, output_key, parse_key
from core.jobs.dead_letters import DeadLetterStore
from core.jobs.figures import JobFigures
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Counts, Job, Resend
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Failure, Heartbeat, Prediction, RequestMessage, crashed_worker
from core.tracing import current_traceparent, new_traceparent, use_traceparent
from services.sqs import OutgoingMessage
from tests.support.jobs import client_error, statuses_of
from tests.support.memory_aws.calls import run_effect
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.results_site import LOST_AFTER, MAX_RECEIVES, ResultsSite, done, message, refused
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.autoscaler.metrics import total_of
from web_tier.controller import job_cache, reconciler
from web_tier.controller.job_counts import MessageGroup
from web_tier.controller.reconciler import CLOSE_AFTER

HOUR = 3_600.0

T = TypeVar("T")


@pytest.fixture
def site() -> ResultsSite:
    return ResultsSite()


# How many messages are sent


def test_heartbeats_do_not_hide_a_lost_request(site: ResultsSite) -> None:
    refs = site.add_job(3, request=False)
    beats = [Heartbeat(worker=worker, at=EPOCH, state="ready", images=0, in_hand=0) for worker in ("i-1", "i-2")]
    for _ in range(8):
        site.collector.tick()
        site.responses.send([OutgoingMessage(new_id(), beat.to_json()) for beat in beats])
        site.pass_time(10)
    assert {image_id for image_id, _ in site.requests.requests()} == {ref.image_id for ref in refs}


def test_a_response_in_its_queue_counts_although_a_worker_sends_heartbeats(site: ResultsSite) -> None:
    refs = site.add_job(3, request=False)
    beat = Heartbeat(worker="i-1", at=EPOCH, state="ready", images=0, in_hand=0)
    site.responses.send([OutgoingMessage(new_id(), beat.to_json())])
    site.collector.tick()
    site.responses.send([OutgoingMessage(new_id(), done(ref).to_json()) for ref in refs])
    site.pass_time(LOST_AFTER)
    assert site.requests.sent == []


def test_a_controller_that_loses_its_lease_repairs_no_more_than_a_page(
    site: ResultsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "PAGE", 2)

    class LosesLease(MemoryQueue):
        def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
            site.active = bool(self.sent)
            return super().send(messages)

    site.requests = LosesLease(clock=site.clock)
    site.start()
    refs = site.add_job(5, request=False)
    site.pass_time(LOST_AFTER)
    assert site.requests.requests() == [(ref.image_id, 0) for ref in refs[:2]]
    site.active = True
    site.lose_messages()
    site.pass_time(2 * LOST_AFTER)
    assert {*site.requests.requests()} == {(ref.image_id, 0) for ref in refs}, "the others, when it holds it again"


def test_a_lost_request_is_found_after_the_table_could_not_be_read_for_minutes(
    site: ResultsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    [known] = site.add_job(1, request=False)
    site.results.record([done(known)])
    site.reconciler.tick()
    [late] = site.add_images(known.job_id, 1, request=False, touched_at=EPOCH + timedelta(seconds=1))
    with monkeypatch.context() as patch:
        patch.setattr(MemoryTable, "count", Mock(side_effect=TimeoutError))
        site.pass_time(2 * LOST_AFTER)
    site.pass_time(2 * LOST_AFTER)
    assert site.requests.requests() == [(late.image_id, 0)]


def test_a_request_that_is_lost_again_and_again_is_sent_less_and_less(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    sent_at = list[float]()
    begun = site.clock.now
    while site.clock.now - begun < 24 * HOUR:
        site.reconciler.tick()
        if site.requests.messages:
            sent_at.append(site.clock.now - begun)
            site.lose_messages()
        site.clock.now += 10
    gaps = [later - earlier for earlier, later in zip([0.0, *sent_at], sent_at, strict=False)]
    assert gaps[:4] == [60, 120, 240, 480]
    assert len(gaps) < 12
    assert {image_id for image_id, _ in site.requests.requests()} == {ref.image_id}


def test_nothing_is_sent_again_while_the_fleet_is_paused(site: ResultsSite) -> None:
    site.paused = True
    site.add_job(3, request=False)
    site.pass_time(HOUR)
    assert site.requests.sent == []
    site.paused = False
    site.pass_time(10)
    assert len(site.requests.sent) == 3


def test_repairs_of_groups_that_are_passed_over_have_a_total_limit(
    site: ResultsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without sign-in, each job is a group of its own."""
    monkeypatch.setattr("web_tier.controller.reconciler.MAX_REPAIRS", 3)
    refs = [site.add_job(2)[0] for _ in range(4)]
    site.pass_time(LOST_AFTER)
    site.requests.sent.clear()
    marked = list[MessageGroup]()
    order = site.reconciler._order
    monkeypatch.setattr(order, "overtaken", lambda _group: float("-inf"))
    monkeypatch.setattr(order, "passed_over", lambda group: float("-inf" if group in marked else "inf"))
    monkeypatch.setattr(order, "repair", marked.append)
    site.paused = True
    site.reconciler.tick()
    assert (marked, site.requests.sent) == ([], [])
    site.paused = False
    site.reconciler.tick()
    assert (len(set(marked)), len(site.requests.sent)) == (2, 3)
    site.reconciler.tick()
    assert (len(set(marked)), len(site.requests.sent)) == (len(refs), 6)


def test_images_that_may_be_finished_later_are_not_overtaken_by_others_of_their_user(site: ResultsSite) -> None:
    later, soon = (Job(new_id(), "job", EPOCH, owner="ann", finish_by=at) for at in (EPOCH, None))
    for job in (later, soon):
        site.store.create(job)
    waiting = site.add_images(later.job_id, 99)
    for _ in range(60):
        [new] = site.add_images(soon.job_id, 1)
        site.pass_time(60)
        site.respond(done(new), done(waiting.pop()))
    assert len(site.requests.sent) == 99 + 60
    site.lose_messages()
    site.requests.groups.clear()
    site.pass_time(2 * LOST_AFTER)
    assert site.requests.groups == {later.group: len(waiting)}, "they keep their group if they are lost"


def test_a_request_whose_reply_was_lost_is_not_sent_again_at_once(site: ResultsSite) -> None:
    class LosesReplies(MemoryQueue):
        def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
            super().send(messages)
            self.messages.clear()
            raise TimeoutError

    site.requests = LosesReplies(clock=site.clock)
    site.start()
    site.add_job(3, request=False)
    site.pass_time(LOST_AFTER + 60)
    assert len(site.requests.sent) == 3


# The records of resends


def test_a_request_that_is_sent_again_is_recorded_with_how_long_its_image_had_waited(site: ResultsSite) -> None:
    [lost] = site.add_job(1, request=False)
    site.pass_time(LOST_AFTER)
    at = site.clock.utc_now()
    assert site.store.resends(lost.job_id) == {lost.image_id: Resend(0, at, at, int(LOST_AFTER))}
    counts = JobFigures(site.store.table).counts(lost.job_id)
    assert (counts.system_retried, counts.resends) == (1, 1)


def test_resends_are_counted_over_controllers_and_attempts(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    site.pass_time(LOST_AFTER)
    site.lose_messages()
    site.start()
    site.pass_time(LOST_AFTER)
    site.results.record([refused(ref)])
    site.retry(ref, request=False)
    site.lose_messages()
    site.pass_time(2 * LOST_AFTER)
    resend = site.store.resends(ref.job_id)[ref.image_id]
    assert (resend.times, resend.attempt, len(site.requests.sent)) == (3, 1, 3)


@pytest.mark.parametrize("outcome", ["refused", "unknown"])
def test_a_request_that_was_perhaps_not_sent_is_not_recorded(site: ResultsSite, outcome: str) -> None:
    def fails(messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        if outcome == "unknown":
            raise TimeoutError
        return list(messages)

    site.requests = MemoryQueue(fails, clock=site.clock)
    site.start()
    [ref] = site.add_job(1, request=False)
    site.pass_time(LOST_AFTER)
    assert (site.store.resends(ref.job_id), JobFigures(site.store.table).counts(ref.job_id).system_retried) == ({}, 0)


def test_a_result_whose_response_was_lost_is_read_from_the_output_bucket(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    site.store_output(done(ref))
    site.pass_time(LOST_AFTER)
    assert (site.result(ref).status, site.store.resends(ref.job_id)) == ("done", {})
    assert total_of(site.reconciler.metrics.repairs, {"result_found"}) == 1


def test_a_prediction_of_another_image_or_an_unreadable_one_is_no_result(site: ResultsSite) -> None:
    damaged, other = site.add_job(2, request=False)
    site.outputs.put(output_key(damaged), b"half a pred", "application/json")
    site.outputs.put(
        output_key(other), Prediction(**done(damaged).model_dump()).to_json().encode(), "application/json"
    )
    site.pass_time(LOST_AFTER)
    assert statuses_of(site.store, damaged.job_id) == {}
    assert len(site.requests.sent) == 2


# Counts


def test_counts_that_an_earlier_holder_of_the_lease_overwrote_are_corrected(site: ResultsSite) -> None:
    refs = site.add_job(2)
    site.store.put_each_done([done(ref) for ref in refs])
    site.reconciler.tick()
    right = JobFigures(site.store.table).counts(refs[0].job_id)
    JobFigures(site.store.table).store_counts(refs[0].job_id, Counts(done=1, images=1))
    site.reconciler.tick()
    assert JobFigures(site.store.table).counts(refs[0].job_id) == right


def test_a_job_stays_open_until_its_right_counts_are_stored(site: ResultsSite) -> None:
    [ref] = site.add_job(1)
    site.respond(done(ref))
    figures, table = JobFigures(site.store.table), cast(MemoryTable, site.store.table)
    right = figures.counts(ref.job_id)
    figures.store_counts(ref.job_id, Counts(images=1))  # by an earlier holder of the lease

    def refuse_puts(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "PutItem":
            raise client_error(503)
        return effect()

    table.call = refuse_puts
    site.pass_time(3 * LOST_AFTER)
    assert OpenJobs(table).is_open(ref.job_id)
    table.call = run_effect
    site.pass_time(20)
    assert (OpenJobs(table).is_open(ref.job_id), figures.counts(ref.job_id)) == (False, right)


def test_an_image_that_the_web_tier_withdrew_does_not_keep_its_job_open(site: ResultsSite) -> None:
    withdrawn, *others = site.add_job(3)
    site.reconciler.tick()
    site.store.delete_images([withdrawn])
    site.respond(*(done(ref) for ref in others))
    site.reconciler.tick()
    status = site.store.status(withdrawn.job_id)
    assert (status.state, status.counts.images) == ("finished", 2)


def test_a_finished_job_is_closed_after_a_while_and_an_unfinished_one_is_not(site: ResultsSite) -> None:
    [finished], [unfinished] = site.add_job(1), site.add_job(1)
    site.respond(done(finished))
    site.pass_time(CLOSE_AFTER * LOST_AFTER)
    assert len(OpenJobs(site.store.table).find_all()) == 2
    site.pass_time(20)
    assert [job.job_id for job in OpenJobs(site.store.table).find_all()] == [unfinished.job_id]


def test_nothing_is_written_once_the_lease_is_lost(site: ResultsSite) -> None:
    dead, answered = site.add_job(2, request=False)
    site.letters.send([message(site.store.image(dead))])
    site.active = False
    site.respond(done(answered))
    site.pass_time(2 * LOST_AFTER)
    assert statuses_of(site.store, dead.job_id) == {}
    assert site.requests.sent == []
    assert (site.responses.counts().total, site.letters.counts().total) == (1, 1)


# Retries


def test_a_retry_whose_request_was_lost_is_requested_again_with_its_attempt(site: ResultsSite) -> None:
    """Row 46."""
    [ref] = site.add_job(1, request=False)
    site.results.record([refused(ref)])
    site.retry(ref, request=False)
    site.pass_time(2 * LOST_AFTER)
    assert site.requests.requests() == [(ref.image_id, 1)]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_retry_that_died_before_anything_but_its_record_was_written_is_requested(
    site: ResultsSite, restarted: bool
) -> None:
    [ref] = site.add_job(1, request=False)
    site.results.record([refused(ref)])
    record = site.store.image(ref)
    assert site.store.replace_image(record, replace(record, attempt=1))
    if restarted:
        site.start()
    site.pass_time((CLOSE_AFTER + 2) * LOST_AFTER)
    assert site.requests.requests() == [(ref.image_id, 1)]
    assert OpenJobs(site.store.table).is_open(ref.job_id)


class Busy:
    """A loop that uses every open job."""

    def is_done_with(self, _job_id: str) -> bool:
        return False


def test_a_retry_whose_web_process_ended_is_requested_while_the_file_waits_for_it(
    site: ResultsSite,
) -> None:
    [ref] = site.add_job(1, request=False)
    site.results.record([refused(ref)])
    site.pass_time(2 * LOST_AFTER)
    site.reconciler.users = (Busy(),)
    record = site.store.image(ref)
    OpenJobs(site.store.table).reopen(ref.job_id, EPOCH + timedelta(seconds=site.clock.now))
    assert site.store.replace_image(record, replace(record, attempt=1))
    site.pass_time(3 * LOST_AFTER)
    assert site.requests.requests() == [(ref.image_id, 1)]


@pytest.mark.parametrize("again", [done, lambda ref: refused(ref, 1, "worse")], ids=["done", "failed"])
def test_a_retry_whose_response_was_lost_is_read_from_the_output_bucket(
    site: ResultsSite, again: Callable[[ImageRef], ClassificationResult]
) -> None:
    """Row 46."""
    [ref] = site.add_job(1, request=False)
    site.store_output(refused(ref))
    site.results.record([refused(ref)])
    site.retry(ref, request=False)
    answer = again(ref).model_copy(update={"attempt": 1})
    site.store_output(answer)
    site.pass_time(2 * LOST_AFTER)
    assert (site.result(ref).status, site.result(ref).attempt) == (answer.status, 1)
    assert site.requests.sent == []
    assert site.images.missing(ref.job_id) == {}


def test_a_retry_that_the_web_tier_took_back_is_not_waited_for(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    site.results.record([refused(ref)])
    before = site.store.image(ref)
    after = site.retry(ref, request=False)
    site.pass_time(10)
    assert site.store.replace_image(after, before)
    site.pass_time(2 * LOST_AFTER)
    assert (site.images.missing(ref.job_id), site.requests.sent) == ({}, [])


# Results that appear meanwhile


def test_a_result_that_is_stored_while_its_image_is_searched_for_stays(site: ResultsSite) -> None:
    """A worker stores its result, the collector records it and deletes the image: all between two calls."""

    class Racing(MemoryBucket):
        def exists(self, key: str) -> bool:
            answer = done(parse_key(key)).model_copy(update={"key": key})
            site.store_output(answer)
            site.results.record([answer])
            return super().exists(key)

    site.inputs = Racing()
    site.start()
    [ref] = site.add_job(1, request=False, keep=False)
    site.pass_time(LOST_AFTER)
    assert site.inputs.objects == {}
    assert (site.stored(ref).status, site.result(ref).status) == ("done", "done")


def test_a_result_that_is_stored_just_before_a_failure_stays(site: ResultsSite) -> None:
    class Racing(MemoryBucket):
        def put_new(self, key: str, body: bytes, content_type: str) -> bool:
            site.store_output(done(parse_key(key)))
            return super().put_new(key, body, content_type)

    site.outputs = Racing()
    site.start()
    [ref] = site.add_job(1, request=False)
    site.inputs.delete_all([site.store.image(ref).key])
    site.pass_time(LOST_AFTER)
    assert (site.stored(ref).status, site.result(ref).status) == ("done", "done")


def test_an_image_that_is_gone_fails_with_the_attempt_that_was_asked_for(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    site.store_output(refused(ref))
    site.results.record([refused(ref)])
    site.inputs.delete_all([site.retry(ref, request=False).key])
    site.pass_time(2 * LOST_AFTER)
    result = site.result(ref)
    assert (result.attempt, result.attempts, result.error and result.error.code) == (1, 0, "gone")
    assert total_of(site.reconciler.metrics.repairs, {"object_gone"}) == 1


# Dead letters


def test_a_dead_letter_that_comes_twice_gives_one_failed_result(site: ResultsSite) -> None:
    ref, _ = site.add_job(2, request=False)
    for _ in range(2):
        site.letters.send([message(site.store.image(ref))])
        site.reconciler.tick()
    result = site.result(ref)
    assert result.error == crashed_worker(MAX_RECEIVES)
    assert result.error.message == "could not be classified after 5 tries: the worker stopped or failed each time"
    assert site.stored(ref).status == "failed"
    counts = JobFigures(site.store.table).counts(ref.job_id)
    assert (counts.done, counts.failed, site.letters.messages) == (0, 1, [])


def test_the_failure_of_a_dead_letter_counts_the_tries_that_earlier_requests_had(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    request = RequestMessage.from_json(message(site.store.image(ref)).body).model_copy(update={"crashes": 2})
    site.letters.send([OutgoingMessage(ref.image_id, request.to_json())])
    site.reconciler.tick()
    assert (site.result(ref).error, site.result(ref).attempts) == (crashed_worker(MAX_RECEIVES + 2), MAX_RECEIVES + 2)


def test_malformed_dead_letters_and_those_of_unknown_images_are_dropped(site: ResultsSite) -> None:
    unknown = RequestMessage.about(ImageRef(new_id(), new_id()), "a/b.jpg", EPOCH)
    site.letters.send([OutgoingMessage(new_id(), body) for body in ("not JSON", unknown.to_json())])
    site.reconciler.tick()
    assert (site.letters.messages, site.outputs.objects) == ([], {})


def test_a_dead_letter_of_a_retry_is_a_failure_of_that_attempt(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    site.store_output(refused(ref, 0, "first"))
    site.results.record([refused(ref, 0, "first")])
    site.letters.send([message(site.retry(ref, request=False))])
    site.reconciler.tick()
    result = site.result(ref)
    assert (result.attempt, result.error and result.error.message != "first") == (1, True)
    assert site.images.missing(ref.job_id) == {}


def test_a_dead_letter_of_an_image_that_is_done_stores_no_failure(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    site.store.put_each_done([done(ref)])
    site.letters.send([message(site.store.image(ref))])
    site.reconciler.tick()
    assert (site.outputs.objects, site.letters.messages) == ({}, [])


def test_a_dead_letter_of_the_first_attempt_does_not_end_a_retry(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    site.results.record([refused(ref)])
    site.letters.send([message(site.store.image(ref))])
    site.retry(ref)
    site.pass_time(10)
    assert site.result(ref).attempt == 0
    assert site.images.missing(ref.job_id) == {ref.image_id: 1}


def letters(site: ResultsSite) -> list[ImageRef]:
    return [letter.record.ref for letter in DeadLetterStore(site.store).page(limit=100).letters]


def test_every_image_that_is_given_up_is_a_dead_letter_however_it_is_known(site: ResultsSite) -> None:
    buried, answered, lost, damaged = site.add_job(4, request=False)
    site.letters.send([message(site.store.image(buried))])
    worker = refused(answered)
    site.responses.send([OutgoingMessage("answer", worker.to_json())])
    site.store_output(refused(lost))
    site.store_output(
        refused(damaged).model_copy(update={"error": Failure(code="truncated", message="it ends early")})
    )
    site.collector.tick()
    site.pass_time(LOST_AFTER)
    assert [site.result(ref).status for ref in (buried, answered, lost, damaged)] == ["failed"] * 4
    assert letters(site) == [lost, answered, buried]


def test_a_controller_that_dies_before_recording_a_failure_leaves_it_to_the_next(
    site: ResultsSite,
) -> None:
    """The output bucket holds the failure; no message is left that would bring it again."""
    [ref] = site.add_job(1, request=False)
    site.store_output(refused(ref))
    table, calls = site.store.table, list[str]()
    assert isinstance(table, MemoryTable)

    def killed_after_the_result(operation: str, effect: Callable[[], T]) -> T:
        result = effect()
        calls.append(operation)
        if operation == "PutItem":
            raise KeyboardInterrupt
        return result

    table.call = killed_after_the_result
    with pytest.raises(KeyboardInterrupt):
        site.results.record([refused(ref)])
    table.call = run_effect
    site.start()
    site.pass_time(2 * LOST_AFTER)
    assert "PutItem" in calls
    assert letters(site) == [ref]


def test_a_dead_letter_ends_with_a_label_that_comes_later(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    site.letters.send([message(site.store.image(ref))])
    site.reconciler.tick()
    assert letters(site) == [ref]
    site.results.record([done(ref)])
    assert letters(site) == []


# One job at a time


def test_a_job_that_cannot_be_swept_delays_no_other(site: ResultsSite) -> None:
    """Row 49."""
    broken, whole = site.add_job(1, request=False), site.add_job(1, request=False)
    table = site.store.table
    assert isinstance(table, MemoryTable)
    table.items["JOB#" + broken[0].job_id, "IMAGE#" + broken[0].image_id] = {"pk": "no", "sk": "fields"}
    site.start()
    site.pass_time(LOST_AFTER)
    assert [image_id for image_id, _ in site.requests.requests()] == [whole[0].image_id]


def test_a_job_that_is_being_read_is_swept_later_and_delays_no_other(site: ResultsSite) -> None:
    """A controller that takes over reads a job of a million images for a minute."""
    large, small = site.add_job(1), site.add_job(1)
    for [ref] in (large, small):
        site.respond(done(ref))
    site.start()
    may_read, images = threading.Event(), JobStore.images

    def slow(store: JobStore, job_id: str, *arguments: Any, **named: Any) -> Any:
        if job_id == large[0].job_id:
            may_read.wait(DEADLINE_SECONDS)
        return images(store, job_id, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as readers:
        patch.setattr(JobStore, "images", slow)
        patch.setattr(job_cache, "LOAD_SECONDS", 0.05)
        site.jobs.readers = readers
        site.pass_time(CLOSE_AFTER * LOST_AFTER + 20)
        assert [job.job_id for job in OpenJobs(site.store.table).find_all()] == [large[0].job_id]
        may_read.set()
        wait_until(lambda: site.jobs.is_read(large[0].job_id), "the large job is read")
        site.pass_time(20)
    assert OpenJobs(site.store.table).find_all() == []


def test_an_image_that_cannot_be_repaired_delays_no_other(site: ResultsSite) -> None:
    broken, *others = site.add_job(3, request=False)
    table = site.store.table
    assert isinstance(table, MemoryTable)
    key = ("JOB#" + broken.job_id, "RESULT#" + broken.image_id)
    site.pass_time(LOST_AFTER / 2)
    table.items[key] = {"pk": key[0], "sk": key[1], "status": "done", "response": "not JSON"}
    site.letters.send([message(site.store.image(ref)) for ref in (broken, others[0])])
    site.pass_time(LOST_AFTER)
    assert site.result(others[0]).status == "failed"
    assert len(site.letters.messages) == 1, "the dead letter of the broken image is received again"
    assert total_of(site.reconciler.dead_letters.metrics.repairs, {"dead_letter"}) == 1
    assert [image_id for image_id, _ in site.requests.requests()] == [others[1].image_id]


# Traces


def test_images_that_are_requested_again_belong_to_a_new_trace_that_the_line_has(
    site: ResultsSite, caplog: pytest.LogCaptureFixture
) -> None:
    refs = site.add_job(3, request=False)
    lines = list[tuple[str, str | None, object]]()

    def keep(record: logging.LogRecord) -> bool:
        lines.append((record.getMessage(), current_traceparent(), vars(record).get("images")))
        return True

    caplog.handler.addFilter(keep)
    site.pass_time(2 * LOST_AFTER)
    sent = [RequestMessage.from_json(each.body) for each in site.requests.messages]
    [traceparent] = {each.traceparent for each in sent}
    assert traceparent is not None
    assert ("requested images again", traceparent, [ref.image_id for ref in refs]) in lines


def test_the_line_about_a_dead_letter_belongs_to_the_trace_of_its_request(
    site: ResultsSite, caplog: pytest.LogCaptureFixture
) -> None:
    [ref] = site.add_job(1, request=False)
    parent, lines = new_traceparent(), list[tuple[str, str | None]]()
    with use_traceparent(parent):
        letter = message(site.store.image(ref))
    site.letters.send([letter])
    caplog.handler.addFilter(lambda record: bool(lines.append((record.getMessage(), current_traceparent())) or True))  # type: ignore[func-returns-value]
    site.reconciler.tick()
    assert ("an image failed", parent) in lines
