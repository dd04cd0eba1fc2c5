"""The reconciler on both kinds of queue, with the bucket and the table of the local cloud."""

from dataclasses import dataclass, field

import pytest

from core.config import MIN_RECEIVES
from core.fleet.store import FleetStore
from core.ids import ImageRef
from core.jobs.figures import JobFigures
from core.messages import ClassificationResult
from scripts.demo_model.signs import samples
from services.sqs import OutgoingMessage, Queue
from tests.integration.controller.conftest import Scene, SceneMaker
from tests.support.clocks import ManualClock
from tests.support.result_path import ResultPath
from web_tier.controller.collector import Collector
from web_tier.controller.reconciler import Reconciler

pytestmark = pytest.mark.processes

LOST_AFTER = 60.0


@dataclass
class Sweeper:
    """A reconciler with a clock that the test sets, and its collector."""

    scene: Scene
    clock: ManualClock = field(default_factory=lambda: ManualClock(0.0))
    reconciler: Reconciler = field(init=False)
    collector: Collector = field(init=False)

    def __post_init__(self) -> None:
        """Connect them as the controller does."""
        wiring = self.scene.wiring
        names = self.scene.config.names
        buckets = wiring.bucket_named(names.input_bucket), wiring.bucket_named(names.output_bucket)
        path = ResultPath(wiring.store, buckets=buckets)
        self.collector = path.collector(wiring.responses)
        self.reconciler = path.reconciler(
            wiring.dead_letters,
            wiring.requests,
            responses=wiring.responses,
            reconcile_seconds=10.0,
            lost_after_seconds=LOST_AFTER,
            fleet=FleetStore(wiring.store.table),
            clock=self.clock,
        )

    def crash_workers(self) -> None:
        """Receive every request until the queue moves it to the dead-letter queue."""
        requests, left = self.scene.wiring.requests, self.scene.wiring.requests.counts().visible
        while requests.counts().total:
            if batch := requests.receive(wait_seconds=0):
                assert not requests.change_visibility([message.receipt for message in batch], 0)
        assert self.scene.wiring.dead_letters.counts().visible == left

    def redrive(self) -> int:
        """Move all dead letters back, as an operator does; return how many were moved."""
        wiring, moved = self.scene.wiring, 0
        while letters := wiring.dead_letters.receive(wait_seconds=0):
            assert not wiring.requests.send([OutgoingMessage(each.id, each.body, each.group) for each in letters])
            assert not wiring.dead_letters.delete([each.receipt for each in letters])
            moved += len(letters)
        return moved

    def result(self, ref: ImageRef) -> ClassificationResult:
        """Return the image's result, which there must be."""
        result = self.scene.wiring.store.result(ref)
        assert result is not None
        return result


@pytest.mark.parametrize("kind", ["standard", "fifo"])
def test_row_32_dead_letters_that_an_operator_moves_back_twice_give_one_result_each(
    make_scene: SceneMaker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    sweeper = Sweeper(make_scene(queues={"kind": kind, "max_receive_count": MIN_RECEIVES}))
    wiring, signs = sweeper.scene.wiring, list(samples(3, seed=32))
    refs = sweeper.scene.add_job(len(signs))
    for ref, sign in zip(refs, signs, strict=True):
        wiring.inputs.put(wiring.store.image(ref), sign.data, is_kept=True)
    sweeper.crash_workers()
    assert sweeper.redrive() == 3, "before the controller has seen them"
    sweeper.crash_workers()
    with monkeypatch.context() as patch:  # the controller is killed before it deletes them
        patch.setattr(Queue, "delete", lambda queue, receipts: queue.change_visibility(receipts, 0))
        patch.setattr("web_tier.controller.reconciler.MAX_BATCHES", 1)
        patch.setattr("web_tier.controller.reconciler.LETTER_SECONDS", float("-inf"))
        sweeper.reconciler.tick()
    assert sweeper.redrive() == 3, "after it has requested each image again"
    sweeper.scene.work()
    sweeper.collector.tick()
    sweeper.reconciler.tick()
    assert [sweeper.result(ref).label for ref in refs] == [sign.label for sign in signs]
    for ref in refs:
        prediction = wiring.outputs.prediction(wiring.store.image(ref))
        assert prediction is not None
        assert prediction.label == sweeper.result(ref).label
    counts = JobFigures(wiring.store.table).counts(refs[0].job_id)
    assert (counts.done, counts.failed) == (3, 0)
    assert sweeper.redrive() == 0
    assert wiring.requests.counts().total == wiring.dead_letters.counts().total == 0
