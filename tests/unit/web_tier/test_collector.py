"""The collector between a queue and a writer of results that fail."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from botocore.exceptions import ClientError

from core.ids import ImageRef, new_id
from core.jobs.keys import output_key
from core.jobs.models import ImageRecord
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Heartbeat, Prediction, Response, StoredResults
from services.lease import Tenure
from services.sqs import BATCH, OutgoingMessage
from tests.support.autoscaler import Clock
from tests.support.jobs import statuses_of
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.result_path import IMAGES, JOBS, REFS, InlineExecutor, ResultPath, done, figures, stored_jobs
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.controller.collector import (
    COUNT_AGE_SECONDS,
    COUNT_SECONDS,
    EMPTY_POLLS,
    FIRST_DELAY_SECONDS,
    MAX_RECEIVES,
)

ONE, OTHER = JOBS


class UnrecordableError(Exception):
    """A write that fails."""


@dataclass
class Site:
    """A collector and its queue; each tick moves the clock."""

    store: JobStore = field(default_factory=stored_jobs)
    active: bool = True
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.queue, self.registry = MemoryQueue(clock=self.clock), WorkerRegistry(self.clock)
        self.outputs, tenure = MemoryBucket(), Tenure(active=lambda: self.active)
        path = ResultPath(self.store, tenure, buckets=(MemoryBucket(), self.outputs))
        self.writer = path.results
        self.collector = path.collector(self.queue, registry=self.registry)

    def send(self, *messages: ClassificationResult | Response | StoredResults | Heartbeat) -> None:
        for each in messages:
            body = Response(results=(each,)) if isinstance(each, ClassificationResult) else each
            self.queue.send([OutgoingMessage(new_id(), body.to_json())])

    def tick(self, times: int = 1, seconds: float = 1.0) -> None:
        for _ in range(times):
            self.collector.tick()
            self.clock.now += seconds


def beat(worker: str = "i-1") -> Heartbeat:
    return Heartbeat(worker=worker, at=EPOCH, state="ready", images=0, in_hand=0)


def test_a_queue_is_empty_after_several_long_polls_without_a_message() -> None:
    site = Site()
    begun, read = site.clock.now, list[float | None]()
    for _ in range(EMPTY_POLLS + 1):
        site.tick()
        read.append(site.registry.read_until)
    assert read == [*[None] * (EMPTY_POLLS - 1), begun, begun + 1]
    site.send(beat())
    site.tick()
    assert site.registry.read_until == begun + 1, "it never goes back"


def test_fewer_messages_than_were_asked_for_do_not_mean_that_there_are_no_more() -> None:
    """Row 55: a receive of SQS may bring any number."""
    site = Site()
    site.queue.max_received = 3
    site.send(*[beat(f"i-{number}") for number in range(100)])
    site.tick()
    assert site.registry.read_until is None
    assert len(site.registry.statuses()) == 3


def test_while_polls_are_never_empty_the_count_of_the_queue_shows_what_was_read() -> None:
    site = Site()
    begun = site.clock.now
    for _ in range(int(COUNT_SECONDS) + 1):
        site.send(beat())
        site.tick()
    assert site.registry.read_until == begun + COUNT_SECONDS - COUNT_AGE_SECONDS
    site.queue.max_received = 1
    site.send(*[beat()] * 1000)
    site.tick(30)
    assert site.registry.read_until == begun + COUNT_SECONDS - COUNT_AGE_SECONDS, "there are more"


def stored(ref: ImageRef, attempt: int = 0) -> StoredResults:
    return StoredResults(job_id=ref.job_id, pack_id=ref.image_id, places=(0,), attempt=attempt)


def test_a_result_that_was_too_large_for_the_queue_is_read_from_the_output_bucket() -> None:
    site = Site()
    prediction = Prediction(**dict(done(REFS[0])))
    site.outputs.put(output_key(REFS[0]), prediction.to_json().encode(), "application/json")
    repeated = stored(REFS[0], attempt=2).model_copy(update={"places": (0, 1), "repeated": (0,)})
    site.send(repeated, stored(REFS[1]), done(REFS[2]), beat())
    site.tick()
    found = site.store.results(ONE)
    assert set(found) == {REFS[0].image_id, REFS[2].image_id}, "predictions of the others were deleted with their job"
    assert (found[REFS[0].image_id].label, found[REFS[0].image_id].attempt) == (prediction.label, 2)
    assert (site.queue.messages, len(site.registry.statuses())) == ([], 1)
    assert (site.registry.answers, site.registry.produced) == (2, 1)


def test_a_prediction_that_cannot_be_read_delays_its_own_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()

    def refuse(_key: str) -> tuple[bytes, str]:
        raise ClientError({"Error": {"Code": "SlowDown"}}, "GetObject")

    monkeypatch.setattr(site.outputs, "get_with_etag", refuse)
    site.send(stored(REFS[0]), done(REFS[1]))
    site.tick()
    assert set(site.store.results(ONE)) == {REFS[1].image_id}
    [left] = site.queue.messages
    assert left.visible_at >= site.clock.now + FIRST_DELAY_SECONDS - 2
    monkeypatch.undo()
    site.outputs.put(output_key(REFS[0]), Prediction(**dict(done(REFS[0]))).to_json().encode(), "application/json")
    site.clock.now += FIRST_DELAY_SECONDS
    site.tick()
    assert set(site.store.results(ONE)) == {REFS[0].image_id, REFS[1].image_id}


def failing(monkeypatch: pytest.MonkeyPatch, bad: set[str]) -> Site:
    """Return a site with a writer that cannot record results of some jobs or images."""
    site = Site()
    store_each = site.writer.store_each

    def fail(
        responses: Iterable[ClassificationResult],
    ) -> tuple[dict[ImageRef, Exception], list[ImageRecord]]:
        received = list(responses)
        refused = {each.ref for each in received if bad & {each.job_id, each.image_id}}
        errors, settled = store_each([each for each in received if each.ref not in refused])
        return errors | dict.fromkeys(refused, UnrecordableError()), settled

    monkeypatch.setattr(site.writer, "store_each", fail)
    return site


def test_a_job_that_cannot_be_recorded_delays_no_other_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 49."""
    site = failing(monkeypatch, bad := {ONE})
    site.send(*[done(ref) for refs in IMAGES.values() for ref in refs[:12]])
    site.tick()
    assert figures(site.store, OTHER) == (12, 0, 40)
    assert len(site.queue.messages) == 12, "the others are deleted"
    bad.clear()
    site.tick()
    assert statuses_of(site.store, ONE) == {}, "hidden for a while"
    site.tick(2, seconds=FIRST_DELAY_SECONDS)
    assert figures(site.store, ONE) == (12, 0, 40)
    assert site.queue.messages == []


def test_one_response_that_cannot_be_recorded_delays_no_other_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 49."""
    bad = IMAGES[ONE][5]
    site = failing(monkeypatch, {bad.image_id})
    site.send(*[done(ref) for ref in IMAGES[ONE]], *[done(ref) for ref in IMAGES[OTHER]])
    site.tick(3)
    assert (figures(site.store, ONE), figures(site.store, OTHER)) == ((39, 0, 40), (40, 0, 40))
    assert [Response.from_json(each.body).results[0].ref for each in site.queue.messages] == [bad]


def test_a_response_stays_until_each_of_its_results_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    site = failing(monkeypatch, bad := {REFS[1].image_id})
    site.send(Response(results=tuple(map(done, REFS[:3]))))
    site.tick()
    assert set(site.store.results(ONE)) == {REFS[0].image_id, REFS[2].image_id}
    assert len(site.queue.messages) == 1
    bad.clear()
    site.tick(2, seconds=FIRST_DELAY_SECONDS)
    assert (figures(site.store, ONE), site.queue.messages) == ((3, 0, 40), [])


def test_a_response_that_cannot_be_recorded_is_hidden_longer_each_time_then_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = failing(monkeypatch, {REFS[0].image_id})
    site.send(done(REFS[0]))
    came_at = list[float]()
    while site.queue.messages:
        before = site.queue.messages[0].receive_count
        site.tick(seconds=FIRST_DELAY_SECONDS)
        if not site.queue.messages or site.queue.messages[0].receive_count > before:
            came_at.append(site.clock.now)
    gaps = [later - earlier for earlier, later in pairwise(came_at)]
    assert gaps == [FIRST_DELAY_SECONDS * 2**number for number in range(MAX_RECEIVES - 1)]


def test_without_the_lease_every_message_is_returned_at_once_and_nothing_written() -> None:
    site = Site(active=False)
    site.send(done(REFS[0]))
    site.tick()
    assert (site.queue.counts().visible, statuses_of(site.store, ONE)) == (1, {})
    assert site.registry.read_until is None


@pytest.mark.parametrize("number", [1, 100], ids=["alone", "with those received for the next round"])
def test_after_a_write_without_the_lease_the_messages_return_for_the_next_holder(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    site = Site()
    monkeypatch.setattr(site.collector, "beside", InlineExecutor())
    store_each = site.writer.store_each

    def lose_lease(
        responses: Iterable[ClassificationResult],
    ) -> tuple[dict[ImageRef, Exception], list[ImageRecord]]:
        stored = store_each(responses)
        site.active = False
        return stored

    monkeypatch.setattr(site.writer, "store_each", lose_lease)
    site.send(done(REFS[0]), *[beat("i-2")] * number)
    site.tick()
    assert statuses_of(site.store, ONE) == {REFS[0].image_id: "done"}
    assert site.queue.counts().visible == 1 + number


def test_messages_are_received_beside_a_round_and_the_queue_counts_as_read_since_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    monkeypatch.setattr(site.collector, "beside", InlineExecutor())
    site.send(*[beat(f"i-{number}") for number in range(2 * BATCH)])
    begun = site.clock.now
    site.tick(EMPTY_POLLS)
    assert len(site.registry.statuses()) == 2 * BATCH
    assert site.registry.read_until == begun - COUNT_AGE_SECONDS, "by the count of the queue"
    site.tick()
    assert site.registry.read_until == begun, "the first empty poll was made beside the first round"


def test_malformed_responses_are_dropped_with_a_reason_each(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    bodies = ("", "null", "[]", '{"version": 2}', done(REFS[0]).to_json(), '{"job_id": "<script>"}')
    site.send(done(REFS[0]))
    site.queue.send([OutgoingMessage(new_id(), body) for body in bodies])
    site.tick()
    assert (site.queue.messages, set(site.store.results(ONE))) == ([], {REFS[0].image_id})
    reasons = [vars(record)["reason"] for record in caplog.records]
    assert len(reasons) == 6
    assert all(reason.startswith("not a Response: ") for reason in reasons)
