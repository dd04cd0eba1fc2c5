"""The reconciler on real queues, buckets and a real table, with a clock of the test's own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from core.ids import ImageRef, new_id, output_key
from core.messages import Heartbeat, Prediction, RequestMessage, Response
from core.result_cache import ResultCache
from scripts.demo_model.signs import samples
from services.sqs import OutgoingMessage, Queue, ReceivedMessage
from tests.conftest import keys_in
from tests.integration.controller.conftest import Scene, SceneMaker, done
from tests.support.waiting import wait_until
from web_tier.controller.collector import Collector
from web_tier.controller.lost_images import BUSY_FACTOR
from web_tier.controller.reconciler import CLOSE_AFTER, DeadLetterConsumer, Reconciler, ResultRecovery
from web_tier.controller.result_recorder import ResultRecorder
from web_tier.results.query import all_results

pytestmark = pytest.mark.processes

LOST_AFTER = 60.0


@dataclass
class Sweeper:
    """A reconciler whose clock goes forward when told, and its collector."""

    scene: Scene
    now: float = 0.0
    active: bool = True
    reconciler: Reconciler = field(init=False)
    collector: Collector = field(init=False)

    def __post_init__(self) -> None:
        """Wire them as the controller does."""
        wiring, recorder = (
            self.scene.wiring,
            ResultRecorder(self.scene.wiring.store, self.scene.wiring.inputs.delete_all),
        )
        repair = ResultRecovery(wiring.store, recorder, wiring.outputs)
        may_act: Callable[[], bool] = lambda: self.active  # noqa: E731
        cache = ResultCache(wiring.store.table, timedelta(days=1))
        self.collector = Collector(wiring.responses, recorder, cache, may_act)
        registry = self.collector.registry
        self.reconciler = Reconciler(
            store=wiring.store,
            recorder=recorder,
            recovery=repair,
            dead_letters=DeadLetterConsumer(wiring.dead_letters, repair, recorder, 5, may_act),
            requests=wiring.requests,
            responses=wiring.responses,
            inputs=wiring.inputs,
            reconcile_seconds=10.0,
            lost_after_seconds=LOST_AFTER,
            active=may_act,
            clock=lambda: self.now,
            heartbeats=registry.active,
        )

    def sweep_until(self, seconds: float) -> None:
        """Sweep every ten seconds until the clock shows `seconds`."""
        while self.now < seconds:
            self.reconciler.tick()
            self.now += 10
        self.reconciler.tick()

    def beat(self, worker: str) -> None:
        """Send a heartbeat, as a worker does."""
        told = Heartbeat(worker=worker, at=self.reconciler.now(), state="ready", images=0, in_hand=0)
        assert not self.scene.wiring.responses.send([OutgoingMessage(new_id(), told.to_json())])

    def requested(self) -> list[str]:
        """Take everything from the request queue; return the ids of the images that are asked for."""
        ids: list[str] = []
        while batch := self.scene.wiring.requests.receive(wait_seconds=0):
            ids += [RequestMessage.from_json(message.body).image_id for message in batch]
            self.scene.wiring.requests.delete([message.receipt for message in batch])
        return ids

    def store_output(self, response: Response, at: ImageRef | None = None) -> None:
        """Store a prediction object, as a worker does."""
        body = Prediction(**response.model_dump(), probabilities=(0.5, 0.5)).to_json().encode()
        self.scene.wiring.outputs.put(output_key(at or response.ref), body, "application/json")

    def kill_by(self, ref: ImageRef) -> None:
        """Put the image's request into the dead-letter queue, as SQS does after too many receives."""
        request = RequestMessage.about(ref, self.scene.wiring.store.image(ref).key, self.reconciler.now())
        assert not self.scene.wiring.dead_letters.send([OutgoingMessage(new_id(), request.to_json())])

    def crash_workers(self) -> None:
        """Receive every request until the queue moves it to the dead-letter queue."""
        requests, left = self.scene.wiring.requests, self.scene.wiring.requests.counts().visible
        while requests.counts().total:
            if batch := requests.receive(wait_seconds=0):
                assert not requests.change_visibility([message.receipt for message in batch], 0)
        assert self.scene.wiring.dead_letters.counts().visible == left

    def redrive(self) -> int:
        """Move all dead letters back, as an operator does; return how many were moved."""
        names, sqs = self.scene.config.names, self.scene.wiring.dead_letters.client
        url = self.scene.wiring.dead_letters.url
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sqs.start_message_move_task(SourceArn=arn)

        def completed() -> bool:
            return sqs.list_message_move_tasks(SourceArn=arn)["Results"][0]["Status"] == "COMPLETED"

        wait_until(completed, f"the messages of {names.dead_letter_queue} have been moved")
        return sqs.list_message_move_tasks(SourceArn=arn)["Results"][0]["ApproximateNumberOfMessagesMoved"]

    def result(self, ref: ImageRef) -> Response:
        """Return the image's result, which there must be."""
        result = self.scene.wiring.store.result(ref)
        assert result is not None
        return result


@pytest.fixture
def sweeper(scene: Scene) -> Sweeper:
    """A sweeper of the test's scene."""
    return Sweeper(scene)


def test_an_accepted_image_whose_request_was_never_sent_is_requested_again(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(12, request=False)
    sweeper.sweep_until(LOST_AFTER - 10)
    assert sweeper.requested() == []
    sweeper.sweep_until(LOST_AFTER)
    assert sorted(sweeper.requested()) == sorted(ref.image_id for ref in refs)
    items = {item.record.ref: item for item in all_results(sweeper.scene.wiring.store, refs[0].job_id)}
    resends = [items[ref].resend for ref in refs]
    assert [(each.times, each.waited_seconds) for each in resends if each] == [(1, LOST_AFTER)] * len(refs)
    assert sweeper.scene.wiring.store.status(refs[0].job_id).counts.system_retried == len(refs)


def test_a_lost_request_is_found_on_a_fifo_queue_too(make_scene: SceneMaker) -> None:
    sweeper = Sweeper(make_scene(queues={"kind": "fifo"}))
    refs = sweeper.scene.add_job(3, request=False)
    sweeper.sweep_until(LOST_AFTER)
    assert sorted(sweeper.requested()) == sorted(ref.image_id for ref in refs)


def test_heartbeats_on_their_way_do_not_hide_that_a_request_was_lost(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(3, request=False)
    for worker in ("i-1", "i-2"):
        sweeper.beat(worker)
    sweeper.collector.tick()
    for worker in ("i-1", "i-2"):
        sweeper.beat(worker)
    sweeper.sweep_until(LOST_AFTER)
    assert sorted(sweeper.requested()) == sorted(ref.image_id for ref in refs)


def test_an_answer_on_its_way_is_no_heartbeat(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(3, request=False)
    sweeper.beat("i-1")
    sweeper.collector.tick()
    sweeper.scene.respond([done(ref) for ref in refs])
    sweeper.sweep_until(LOST_AFTER)
    assert sweeper.requested() == []


def test_an_image_is_not_requested_again_while_its_request_waits(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(3)
    sweeper.sweep_until(2 * LOST_AFTER)
    assert sorted(sweeper.requested()) == sorted(ref.image_id for ref in refs)


def test_an_image_in_a_workers_hands_is_not_requested_again(sweeper: Sweeper) -> None:
    sweeper.scene.add_job(2)
    in_hand: list[ReceivedMessage] = sweeper.scene.wiring.requests.receive(wait_seconds=0)
    sweeper.sweep_until(2 * LOST_AFTER)
    assert len(in_hand) == 2
    assert sweeper.scene.wiring.requests.counts().total == 2


def test_a_lost_request_is_found_in_the_end_although_others_keep_the_queue_busy(sweeper: Sweeper) -> None:
    lost = sweeper.scene.add_job(1, request=False)
    sweeper.scene.add_job(1)
    sweeper.sweep_until(BUSY_FACTOR * LOST_AFTER - 10)
    assert lost[0].image_id not in sweeper.requested()
    sweeper.scene.add_job(1)
    sweeper.sweep_until(BUSY_FACTOR * LOST_AFTER + 10)
    assert lost[0].image_id in sweeper.requested()


def test_a_result_whose_response_was_lost_is_read_from_the_output_bucket(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(30, request=False)
    for ref in refs:
        sweeper.store_output(done(ref, label="dog"))
    sweeper.sweep_until(LOST_AFTER)
    assert sweeper.scene.finished(refs[0].job_id)
    assert sweeper.scene.wiring.store.counts(refs[0].job_id).done == 30
    assert sweeper.result(refs[0]).label == "dog"
    assert sweeper.requested() == []


def test_a_prediction_that_is_another_images_or_unreadable_is_not_taken(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(2, request=False)
    sweeper.store_output(done(refs[0]), at=refs[1])
    sweeper.scene.wiring.outputs.put(output_key(refs[0]), b"half a pred", "application/json")
    sweeper.sweep_until(LOST_AFTER)
    assert sweeper.scene.wiring.store.statuses(refs[0].job_id) == {}
    assert len(sweeper.requested()) == 2


def test_a_result_that_was_put_but_not_counted_is_counted(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(2)
    sweeper.scene.wiring.store.put_done([done(refs[0])])
    sweeper.reconciler.tick()
    assert sweeper.scene.wiring.store.counts(refs[0].job_id).done == 1


def test_counts_that_a_former_holder_overwrote_are_put_right(sweeper: Sweeper) -> None:
    store, refs = sweeper.scene.wiring.store, sweeper.scene.add_job(2)
    store.put_done([done(ref) for ref in refs])
    sweeper.reconciler.tick()
    right = store.counts(refs[0].job_id)
    store.store_counts(refs[0].job_id, type(right)(done=1, images=1))
    sweeper.reconciler.tick()
    assert store.counts(refs[0].job_id) == right


def test_an_image_whose_object_is_gone_fails_with_that_reason(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(1, request=False)
    sweeper.scene.wiring.inputs.delete(sweeper.scene.wiring.store.image(refs[0]).key)
    sweeper.sweep_until(LOST_AFTER)
    result = sweeper.result(refs[0])
    assert (result.status, result.error and result.error.code) == ("failed", "gone")
    assert sweeper.scene.finished(refs[0].job_id)


def test_an_image_that_the_web_tier_took_back_does_not_keep_its_job_open(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(3)
    sweeper.reconciler.tick()
    sweeper.scene.wiring.store.delete_images(refs[:1])
    sweeper.scene.respond([done(ref) for ref in refs[1:]])
    sweeper.collector.tick()
    sweeper.reconciler.tick()
    assert sweeper.scene.finished(refs[0].job_id)
    assert sweeper.scene.wiring.store.counts(refs[0].job_id).images == 2


def test_a_dead_letter_becomes_a_failed_result_that_its_owner_understands(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(2, request=False)
    sweeper.kill_by(refs[0])
    sweeper.reconciler.tick()
    result = sweeper.result(refs[0])
    assert result.error is not None
    assert result.error.code == "crashed_worker"
    assert result.error.message == "could not be classified after 5 tries: the worker stopped or failed each time"
    stored = Prediction.from_json(sweeper.scene.wiring.outputs.get(output_key(refs[0])))
    assert stored.status == "failed"
    assert sweeper.scene.wiring.dead_letters.counts().total == 0
    assert sweeper.scene.wiring.store.counts(refs[0].job_id).failed == 1


def test_a_dead_letter_that_comes_twice_gives_one_result(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(1, request=False)
    for _ in range(2):
        sweeper.kill_by(refs[0])
        sweeper.reconciler.tick()
    counts = sweeper.scene.wiring.store.counts(refs[0].job_id)
    assert (counts.done, counts.failed) == (0, 1)


@pytest.mark.parametrize("kind", ["standard", "fifo"])
def test_row_32_dead_letters_that_an_operator_moves_back_twice_give_one_result_each(
    make_scene: SceneMaker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    sweeper = Sweeper(make_scene(queues={"kind": kind, "max_receive_count": 3}))
    wiring, signs = sweeper.scene.wiring, list(samples(3, seed=32))
    refs = sweeper.scene.add_job(len(signs))
    for ref, sign in zip(refs, signs, strict=True):
        wiring.inputs.put(wiring.store.image(ref).key, sign.data, "image/jpeg")
    sweeper.crash_workers()
    assert sweeper.redrive() == 3, "before the controller has seen them"
    sweeper.crash_workers()
    with monkeypatch.context() as patch:  # the controller is killed before it deletes them
        patch.setattr(Queue, "delete", lambda queue, receipts: queue.change_visibility(receipts, 0))
        patch.setattr("web_tier.controller.reconciler.MAX_BATCHES", 1)
        sweeper.reconciler.tick()
    assert {sweeper.result(ref).status for ref in refs} == {"failed"}
    assert sweeper.redrive() == 3, "after it has given each image a failed result"
    sweeper.scene.work()
    sweeper.collector.tick()
    sweeper.reconciler.tick()
    assert [sweeper.result(ref).label for ref in refs] == [sign.label for sign in signs]
    for ref in refs:
        assert Prediction.from_json(wiring.outputs.get(output_key(ref))).label == sweeper.result(ref).label
    counts = wiring.store.counts(refs[0].job_id)
    assert (counts.done, counts.failed) == (3, 0)
    assert sweeper.redrive() == 0
    assert wiring.requests.counts().total == wiring.dead_letters.counts().total == 0


def test_a_dead_letter_whose_image_has_a_result_or_a_prediction_changes_nothing_for_the_worse(
    sweeper: Sweeper,
) -> None:
    refs = sweeper.scene.add_job(2, request=False)
    sweeper.scene.wiring.store.put_done([done(refs[0])])
    sweeper.store_output(done(refs[1]))
    for ref in refs:
        sweeper.kill_by(ref)
    sweeper.reconciler.tick()
    counts = sweeper.scene.wiring.store.counts(refs[0].job_id)
    assert (counts.done, counts.failed) == (2, 0)
    assert sweeper.scene.wiring.dead_letters.counts().total == 0


def test_malformed_dead_letters_and_those_of_strangers_are_dropped(sweeper: Sweeper) -> None:
    stranger = RequestMessage.about(ImageRef(new_id(), new_id()), "a/b.jpg", sweeper.reconciler.now())
    bodies = ("not JSON", stranger.to_json())
    assert not sweeper.scene.wiring.dead_letters.send([OutgoingMessage(new_id(), body) for body in bodies])
    sweeper.reconciler.tick()
    assert sweeper.scene.wiring.dead_letters.counts().total == 0
    assert keys_in(sweeper.scene.wiring.outputs) == []


def test_a_finished_job_is_closed_after_a_while_and_an_unfinished_one_is_not(sweeper: Sweeper) -> None:
    finished, unfinished = sweeper.scene.add_job(1), sweeper.scene.add_job(1)
    sweeper.scene.respond([done(finished[0])])
    sweeper.collector.tick()
    sweeper.sweep_until(CLOSE_AFTER * LOST_AFTER)
    assert len(sweeper.scene.wiring.store.open_jobs()) == 2
    sweeper.sweep_until(CLOSE_AFTER * LOST_AFTER + 20)
    assert [job.job_id for job in sweeper.scene.wiring.store.open_jobs()] == [unfinished[0].job_id]


def test_nothing_is_written_once_the_lease_is_lost(sweeper: Sweeper) -> None:
    refs = sweeper.scene.add_job(2, request=False)
    sweeper.kill_by(refs[0])
    sweeper.scene.respond([done(refs[1])])
    sweeper.active = False
    sweeper.sweep_until(2 * LOST_AFTER)
    sweeper.collector.tick()
    assert sweeper.scene.wiring.store.statuses(refs[0].job_id) == {}
    assert sweeper.scene.wiring.responses.counts().visible == 1, "it was given back"
    assert sweeper.scene.wiring.dead_letters.counts().visible == 1
