"""The reconciler over hours of a virtual clock: what is lost is found again, and no backlog is multiplied."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.keys import output_key
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Job, Resend
from core.messages import GONE, ClassificationResult, Failure, Heartbeat, Prediction, RequestMessage
from services.sqs import OutgoingMessage
from tests.support.jobs import put_results, resends_of, response_of, statuses_of
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.results_site import LOST_AFTER, ResultsSite, done, message, refused
from tests.support.worker import new_request
from web_tier.autoscaler.metrics import total_of
from web_tier.controller import reconciler
from web_tier.controller.reconciler import CLOSE_AFTER, LETTER_SECONDS

HOUR = 3_600.0


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


def test_a_controller_that_loses_its_lease_repairs_no_more_than_a_page(
    site: ResultsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "PAGE", 2)

    class LosesLease(MemoryQueue):
        def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
            site.active = False
            return super().send(messages)

    site.requests = LosesLease(clock=site.clock)
    site.start()
    refs = site.add_job(5, request=False)
    site.pass_time(LOST_AFTER)
    assert site.requests.requests() == [(ref.image_id, 0) for ref in refs[:2]]


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


# The records of resends


def test_a_request_that_is_sent_again_is_recorded_with_how_long_its_image_had_waited(site: ResultsSite) -> None:
    [lost] = site.add_job(1, request=False)
    site.pass_time(LOST_AFTER)
    at = site.clock.utc_now()
    assert resends_of(site.store, lost.job_id) == {lost.image_id: Resend(0, at, at, int(LOST_AFTER))}
    counts = JobFigures(site.store.table).counts(lost.job_id)
    assert (counts.system_retried, counts.resends) == (1, 1)


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
    assert (resends_of(site.store, ref.job_id), JobFigures(site.store.table).counts(ref.job_id).system_retried) == (
        {},
        0,
    )


def test_a_result_whose_response_was_lost_is_read_from_the_output_bucket(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    site.store_output(done(ref))
    site.pass_time(LOST_AFTER)
    assert (site.result(ref).status, resends_of(site.store, ref.job_id)) == ("done", {})
    assert total_of(site.reconciler.metrics.repairs, {"result_found"}) == 1


def test_lost_images_of_a_pack_are_repaired_by_few_calls_for_all_of_them(site: ResultsSite) -> None:
    refs, calls = site.add_job(6, request=False, pack=6), Counter[str]()

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        calls[operation] += 1
        return effect()

    for ref in refs[:2]:
        site.store_output(done(ref))
    site.inputs.call = site.outputs.call = call
    site.pass_time(LOST_AFTER)
    assert (statuses_of(site.store, refs[0].job_id), calls) == (
        {ref.image_id: "done" for ref in refs[:2]}, {"get": 1, "head": 1}
    )  # fmt: skip
    assert [RequestMessage.from_json(each.body).places for each in site.requests.sent] == [(2, 3, 4, 5)]
    site.inputs.delete_all([site.store.image(refs[0]).key])
    site.lose_messages()
    calls.clear()
    site.pass_time(2 * LOST_AFTER)
    assert [site.result(ref).error == site.stored(ref).error == GONE for ref in refs] == [False] * 2 + [True] * 4
    assert (calls["put"], len(site.outputs.objects)) == (2, 1), "a new object was refused, then the lines were added"


def test_a_prediction_of_another_image_or_an_unreadable_one_is_no_result(site: ResultsSite) -> None:
    damaged, other = site.add_job(2, request=False)
    site.outputs.put(output_key(damaged), b"half a pred", "application/json")
    site.outputs.put(
        output_key(other), Prediction(**done(damaged).model_dump()).to_json().encode(), "application/json"
    )
    site.pass_time(LOST_AFTER)
    assert statuses_of(site.store, damaged.job_id) == {}
    assert len(site.requests.sent) == 2


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
    assert site.store.still_missing([ref]) == []


# Results that appear meanwhile


def test_a_result_that_is_stored_while_its_image_is_searched_for_stays(site: ResultsSite) -> None:
    """A worker stores its result, the collector records it and deletes the image: all between two calls."""

    class Racing(MemoryBucket):
        def exists(self, key: str) -> bool:
            answer = done(ref).model_copy(update={"key": key})
            site.store_output(answer)
            site.results.record([answer])
            return super().exists(key)

    site.inputs = Racing()
    site.start()
    [ref] = site.add_job(1, request=False, keep=False)
    site.pass_time(LOST_AFTER)
    assert site.inputs.objects == {}
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


def test_row_9_a_dead_letter_requests_its_image_again_once_an_hour(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    letters = site.reconciler.dead_letters
    site.letters.send([message(site.store.image(ref), "user", site.clock.utc_now())])
    for requests in range(1, 4):
        site.clock.now += LETTER_SECONDS - 60
        letters.consume()
        assert (len(site.requests.sent), len(site.letters.messages)) == (requests - 1, 1)
        site.clock.now += 120
        letters.consume()
        assert (len(site.requests.sent), site.letters.messages) == (requests, [])
        assert site.requests.sent[-1].group == "user"
        site.letters.send(site.requests.sent[-1:])
    assert total_of(site.reconciler.metrics.repairs, {"dead_letter"}) == 3
    assert site.outputs.objects == {}


def test_a_dead_letter_of_a_pack_requests_those_of_its_images_without_a_result(site: ResultsSite) -> None:
    answered, waiting = site.add_job(2, request=False)
    put_results(site.store, done(answered))
    for ref in (answered, waiting):
        request = RequestMessage.from_json(message(site.store.image(ref), at=site.clock.utc_now()).body)
        pack = request.model_copy(update={"extension": "tar", "sizes": (1, 2)})
        site.letters.send([OutgoingMessage(new_id(), pack.to_json())])  # its second image was never accepted
    site.clock.now += LETTER_SECONDS + 60
    site.reconciler.dead_letters.consume()
    [again] = map(RequestMessage.from_json, site.requests.bodies)
    assert (again.refs, again.positions, site.letters.messages) == ([waiting], (0,), [])


def test_malformed_dead_letters_and_those_of_unknown_images_are_dropped(site: ResultsSite) -> None:
    site.letters.send([OutgoingMessage(new_id(), body) for body in ("not JSON", new_request().to_json())])
    site.reconciler.tick()
    assert (site.letters.messages, site.outputs.objects) == ([], {})


def test_a_dead_letter_of_an_image_that_is_done_stores_no_failure(site: ResultsSite) -> None:
    [ref] = site.add_job(1, request=False)
    put_results(site.store, done(ref))
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
    assert [image.attempt for image in site.store.still_missing([ref])] == [1]


def test_every_image_that_is_given_up_is_reported_as_that_however_it_is_known(site: ResultsSite) -> None:
    answered, lost, damaged = site.add_job(3, request=False)
    worker = refused(answered)
    site.responses.send([response_of(worker)])
    site.store_output(refused(lost))
    site.store_output(
        refused(damaged).model_copy(update={"error": Failure(code="truncated", message="it ends early")})
    )
    site.collector.tick()
    site.pass_time(LOST_AFTER)
    assert [site.result(ref).status for ref in (answered, lost, damaged)] == ["failed"] * 3
    assert site.given_up == {lost, answered}


# One job at a time


def test_a_job_that_cannot_be_swept_delays_no_other(site: ResultsSite) -> None:
    """Row 49."""
    broken, whole = site.add_job(1, request=False), site.add_job(1, request=False)
    table = site.store.table
    assert isinstance(table, MemoryTable)
    table.items["JOB#" + broken[0].job_id, "PACK#" + broken[0].image_id] = {"pk": "no", "sk": "fields"}
    site.start()
    site.pass_time(LOST_AFTER)
    assert [image_id for image_id, _ in site.requests.requests()] == [whole[0].image_id]


def test_an_image_that_cannot_be_repaired_delays_no_other(site: ResultsSite) -> None:
    broken, *others = site.add_job(3, request=False)
    table = site.store.table
    assert isinstance(table, MemoryTable)
    key = ("JOB#" + broken.job_id, "RESULT#" + broken.image_id)
    site.pass_time(LOST_AFTER / 2)
    table.items[key] = {"pk": key[0], "sk": key[1], "version": 1, "states": "0:d:0:1", "results": "not JSON"}
    site.letters.send([message(site.store.image(ref)) for ref in (broken, others[0])])
    site.pass_time(LETTER_SECONDS)
    assert len(site.letters.messages) == 1, "the dead letter of the broken image is received again"
    assert total_of(site.reconciler.dead_letters.metrics.repairs, {"dead_letter"}) == 1
    assert {image_id for image_id, _ in site.requests.requests()} == {ref.image_id for ref in others}
