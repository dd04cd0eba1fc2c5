"""What the controller tells of the fleet, and how ops pause it: on a real table, with real controllers."""

import re
from datetime import UTC, datetime

import pytest

from core.fleet.models import LimitsOverride
from core.fleet.store import FleetStore
from core.ids import new_id
from core.messages import Heartbeat, WorkerState
from services.sqs import OutgoingMessage
from tests.integration.controller.conftest import Scene, SceneMaker, done
from tests.support.waiting import wait_until
from web_tier.autoscaler.reporting import RESOLUTIONS

pytestmark = pytest.mark.processes


@pytest.fixture
def scene(make_scene: SceneMaker) -> Scene:
    """A scene of 20 images a worker whose images are not looked for."""
    return make_scene(controller={"lost_after_seconds": 60})


@pytest.fixture
def fleet(scene: Scene) -> FleetStore:
    """What is told of the scene's fleet."""
    return FleetStore(scene.wiring.store.table)


def reason(scene: Scene) -> str:
    """Return the last decision in words."""
    seen = scene.snapshot()
    return seen.reason if seen else ""


def problem(scene: Scene) -> str:
    """Return what is in the controller's way, if anything is."""
    seen = scene.snapshot()
    return (seen.problem or "") if seen else ""


def beat(scene: Scene, worker: str, images: int, state: WorkerState = "busy") -> None:
    """Send a heartbeat, as a worker does."""
    told = Heartbeat(worker=worker, at=datetime.now(UTC), state=state, images=images, in_hand=2)
    assert not scene.wiring.responses.send([OutgoingMessage(new_id(), told.to_json())])


def test_a_paused_fleet_launches_nothing_also_under_another_controller_and_a_resumed_one_does(
    scene: Scene, fleet: FleetStore
) -> None:
    fleet.pause(datetime(2026, 3, 1, 12, 3, tzinfo=UTC), "new model")
    scene.start_controller()
    scene.add_job(100)
    words = "paused by ops since 12:03 UTC (new model): 100 images waiting"
    wait_until(lambda: reason(scene) == words, "the controller says that it is paused")
    scene.kill_controller(0)
    scene.add_job(20)
    scene.start_controller()
    wait_until(lambda: "120 images waiting" in reason(scene), "the next controller says so too")
    assert scene.wiring.fleet.instances() == []
    fleet.resume()
    wait_until(lambda: scene.workers() == 6, "six workers run for 120 images")
    told = [decision.words for decision in fleet.decisions().decisions]
    assert told[-1].startswith("paused by ops since 12:03 UTC (new model): ")
    wait_until(lambda: fleet.decisions().decisions[0].words.startswith("starting 6"), "the launch is told")


def test_a_pause_in_the_middle_of_a_batch_ends_no_worker(scene: Scene, fleet: FleetStore) -> None:
    scene.start_controller()
    scene.add_job(40)
    wait_until(lambda: scene.workers() == 2, "two workers run")
    fleet.pause(datetime.now(UTC), "")
    wait_until(lambda: reason(scene).startswith("paused"), "the controller has seen the pause")
    scene.add_job(100)
    wait_until(lambda: "140 images waiting, 2 workers finish what they have" in reason(scene), "the pause is told")
    assert scene.workers() == 2


def test_ops_set_limits_and_take_them_back_and_drain_an_instance_which_is_replaced(
    scene: Scene, fleet: FleetStore
) -> None:
    fleet.set_limits(LimitsOverride(min_workers=0, max_workers=1, since=datetime.now(UTC), reason="budget"))
    scene.start_controller()
    scene.add_job(40)
    wait_until(lambda: len(fleet.instances().instances) == 1, "the one worker that is allowed is told")
    scene.config_file.write_text("fleet: [")
    wait_until(lambda: "last good limits stay" in problem(scene), "what is wrong with the file is told")
    assert (scene.workers(), getattr(scene.snapshot(), "max_workers", None)) == (1, 1)
    told = [decision.words for decision in fleet.decisions().decisions]
    assert len([words for words in told if words.startswith("limits 0..1, set by ops at ")]) == 1
    fleet.reset_limits()
    wait_until(lambda: scene.workers() == 2, "as many run as the last good file allows")

    [first, *_] = scene.wiring.fleet.instances()
    fleet.request_drain(first.instance_id, datetime.now(UTC))
    wait_until(lambda: fleet.commands().drain == (), "the order is carried out")
    wait_until(lambda: scene.workers() == 3, "another is launched in its place")
    asked = [each.instance_id for each in scene.wiring.fleet.instances() if each.draining]
    assert asked == [first.instance_id]
    wait_until(lambda: any(each.draining for each in fleet.instances().instances), "that it drains is told")


def test_instances_are_told_with_what_their_workers_say_and_a_boot_is_measured(
    scene: Scene, fleet: FleetStore
) -> None:
    scene.start_controller()
    wait_until(scene.snapshot, "the controller has looked")
    refs = scene.add_job(20)
    wait_until(lambda: fleet.instances().total == 1, "the instance is told")
    [before] = fleet.instances().instances
    assert (before.worker, before.images, before.heard_at) == (None, None, None)
    beat(scene, before.instance_id, images=7)
    wait_until(lambda: fleet.instances().instances[0].images == 7, "its heartbeat is told")
    answers = [done(ref).model_copy(update={"worker": before.instance_id}) for ref in refs]
    scene.respond(answers)
    wait_until(lambda: fleet.instances().instances[0].images == 27, "its answers are counted")
    [after] = fleet.instances().instances
    assert (after.worker, after.in_hand) == ("busy", 2)
    assert after.heard_at is not None
    wait_until(lambda: (seen := scene.snapshot()) and seen.boot_seconds is not None, "a boot was measured")
    assert scene.finished(refs[0].job_id)
    assert "malformed" not in scene.log()

    scene.kill_controller(0)
    scene.start_controller()
    wait_until(lambda: scene.acts(1), "the next controller acts")
    scene.respond(answers[:1])
    wait_until(lambda: fleet.instances().instances[0].images == 28, "it goes on counting")
    assert scene.snapshot() is not None


def test_history_and_decisions_are_told_in_a_few_items(scene: Scene, fleet: FleetStore) -> None:
    scene.start_controller()
    wait_until(scene.snapshot, "the controller has looked")
    scene.add_job(40)
    wait_until(lambda: scene.workers() == 2, "two workers run")
    wait_until(
        lambda: any(point[1:] == (2, 40) for block in fleet.blocks("hour") for point in block.points),
        "the history has two workers and 40 images",
    )
    assert len(fleet.blocks()) <= sum(each.blocks for each in RESOLUTIONS)
    # A look may fall between two requests of the same job.
    wait_until(
        lambda: any(
            re.match("starting [12] of at most 19: ", decision.words) for decision in fleet.decisions().decisions
        ),
        "the decision is told",
    )
