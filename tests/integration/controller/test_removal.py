"""Deleted jobs go away from real buckets and a real table, whatever still arrives and whoever dies in between."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from core.ids import ImageRef, output_key
from core.jobs.models import AcceptedCount, Counts
from services.errors import NotFoundError
from services.table import LAST
from tests.conftest import keys_in
from tests.integration.controller.conftest import Scene, done
from tests.support.waiting import wait_until
from web_tier.controller import cleanup
from web_tier.controller.cleanup import LINGER_SECONDS, JobCleanup
from web_tier.controller.result_recorder import ResultRecorder

pytestmark = pytest.mark.processes


@dataclass
class Remover:
    """A cleanup with a clock that goes forward when told, and the recorder of the same controller."""

    scene: Scene
    now: float = 0.0
    active: Callable[[], bool] = lambda: True
    recorder: ResultRecorder = field(init=False)
    cleanup: JobCleanup = field(init=False)

    def __post_init__(self) -> None:
        """Wire them as the controller does."""
        wiring = self.scene.wiring
        self.recorder = ResultRecorder(wiring.store, wiring.inputs.delete_all)
        self.cleanup = JobCleanup(
            store=wiring.store,
            recorder=self.recorder,
            inputs=wiring.inputs,
            outputs=wiring.outputs,
            every_seconds=10.0,
            active=self.active,
            clock=lambda: self.now,
        )


def store_results(scene: Scene, refs: list[ImageRef], recorder: ResultRecorder) -> None:
    """Put the images' predictions and record their results, as worker and collector do."""
    for ref in refs:
        scene.wiring.outputs.put(output_key(ref), b"{}", "application/json")
    recorder.record([done(ref) for ref in refs])


def delete(scene: Scene, job_id: str) -> None:
    """Delete a job, as its owner does."""
    scene.wiring.store.delete(scene.wiring.store.job(job_id))


def left(scene: Scene, job_id: str) -> list[str]:
    """Return what there is of a job in buckets and table."""
    wiring = scene.wiring
    partitions = [("JOBS", job_id, job_id), ("OPEN", job_id, job_id), ("DELETED", job_id, job_id)]
    partitions += [(f"JOB#{job_id}", "0", LAST), (f"COUNTS#{job_id}", "0", LAST)]
    items = [f"{item['pk']} {item['sk']}" for key in partitions for item in wiring.store.table.query(*key)]
    return keys_in(wiring.inputs, job_id) + keys_in(wiring.outputs, job_id) + items


def test_nothing_is_left_of_a_deleted_job_and_all_of_the_others(scene: Scene) -> None:
    deleted, kept = scene.add_job(4), scene.add_job(2)
    remover = Remover(scene)
    store_results(scene, deleted + kept, remover.recorder)
    before = left(scene, kept[0].job_id)
    delete(scene, deleted[0].job_id)
    remover.cleanup.tick()
    assert left(scene, deleted[0].job_id) == [f"DELETED {deleted[0].job_id}"]
    remover.now = LINGER_SECONDS
    remover.cleanup.tick()
    assert left(scene, deleted[0].job_id) == []
    assert left(scene, kept[0].job_id) == before


def test_a_deleted_job_is_gone_at_once_for_everybody(scene: Scene) -> None:
    [image] = scene.add_job(1)
    store = scene.wiring.store
    delete(scene, image.job_id)
    with pytest.raises(NotFoundError):
        store.status(image.job_id)
    assert image.job_id not in {job.job_id for job in store.jobs(100)}
    assert image.job_id not in {job.job_id for job in store.open_jobs()}


def test_results_that_still_arrive_for_a_deleted_job_are_dropped(scene: Scene) -> None:
    refs = scene.add_job(3)
    remover = Remover(scene)
    remover.recorder.record([done(refs[0])])  # so that the recorder remembers the job
    delete(scene, refs[0].job_id)
    remover.cleanup.tick()
    remover.recorder.record([done(ref) for ref in refs])
    assert scene.wiring.store.results(refs[0].job_id) == {}
    assert scene.wiring.store.counts(refs[0].job_id) == Counts()


def test_what_is_written_after_the_first_look_is_removed_by_the_last(scene: Scene) -> None:
    [image] = scene.add_job(1)
    remover = Remover(scene)
    delete(scene, image.job_id)
    remover.cleanup.tick()
    scene.wiring.outputs.put(output_key(image), b"{}", "application/json")  # by a worker that was at it
    scene.wiring.store.put_accepted_count(image.job_id, "writer", AcceptedCount(1))  # by an upload that was under way
    remover.now = LINGER_SECONDS
    remover.cleanup.tick()
    assert left(scene, image.job_id) == []


def test_a_removal_that_is_cut_short_is_finished_by_a_successor(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "PORTION", 2)
    refs = scene.add_job(7)
    job_id = refs[0].job_id
    delete(scene, job_id)
    turns = iter([True, False])
    Remover(scene, active=lambda: next(turns)).cleanup.tick()
    assert len(keys_in(scene.wiring.inputs, job_id)) == 5
    Remover(scene).cleanup.tick()
    assert left(scene, job_id) == [f"DELETED {job_id}"]


def test_a_job_whose_deletion_died_after_its_mark_is_removed_all_the_same(scene: Scene) -> None:
    [image] = scene.add_job(1)
    scene.wiring.store.table.put_all([{"pk": "DELETED", "sk": image.job_id}])
    Remover(scene).cleanup.tick()
    with pytest.raises(NotFoundError):
        scene.wiring.store.job(image.job_id)


def test_a_controller_that_is_killed_at_it_leaves_nothing_behind(scene: Scene) -> None:
    refs = scene.add_job(300, request=False)
    job_id = refs[0].job_id
    scene.start_controller()
    wait_until(lambda: scene.acts(0), "the controller acts")
    delete(scene, job_id)
    wait_until(lambda: len(keys_in(scene.wiring.inputs, job_id)) < 300, "the removal has begun")
    scene.kill_controller(0)
    scene.start_controller()
    wait_until(lambda: left(scene, job_id) == [f"DELETED {job_id}"], "only the mark is left")
