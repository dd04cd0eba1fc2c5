"""Real controllers and their fleets on the local cloud: launches, limits, pauses, and what is shown of them."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from core.fleet.models import FleetSnapshot
from core.fleet.store import FleetStore
from localcloud.launch import LocalCloud
from tests.integration.controller.conftest import Scene, SceneMaker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes


@pytest.fixture
def patient(make_scene: SceneMaker) -> Scene:
    """A scene with images that are not requested again."""
    return make_scene(controller={"lost_after_seconds": 60})


@pytest.fixture
def switched(cloud: LocalCloud) -> Iterator[LocalCloud]:
    """The cloud, without faults again at the end of the test."""
    yield cloud
    cloud.set_switches(lost_launch_replies=0, describe_lag_seconds=0, spot_capacity=None)


def stored(scene: Scene) -> FleetStore:
    return FleetStore(scene.wiring.store.table)


def shown(scene: Scene, text: str) -> FleetSnapshot | None:
    """Return the snapshot if its reason or its problem has this text."""
    snapshot = scene.snapshot()
    return snapshot if snapshot and text in f"{snapshot.reason}\n{snapshot.problem}" else None


def test_a_controller_killed_before_a_launch_replied_has_a_successor_that_repeats_it(
    make_scene: SceneMaker, switched: LocalCloud
) -> None:
    scene = make_scene()
    scene.start_controller()
    wait_until(lambda: scene.acts(0), "the first controller acts")
    # The successor can know of the instances from the journal alone.
    switched.set_switches(lost_launch_replies=1, describe_lag_seconds=60)
    scene.add_job(100)
    wait_until(lambda: "workers could not be started" in scene.log(0), "the launch's reply is lost")
    scene.kill_controller(0)
    [entry] = stored(scene).journal().entries
    assert entry.count > 0
    assert entry.instance_ids is None
    scene.start_controller()
    wait_until(lambda: "workers are launching" in scene.log(1), "the successor has called again")
    wait_until(lambda: (seen := scene.snapshot()) and seen.pending == 5, "five count as capacity")
    switched.set_switches(describe_lag_seconds=0)
    assert scene.workers() == 5
    launched = {each.client_token for each in scene.wiring.fleet.instances()}
    assert entry.token in launched


def test_a_pause_in_the_middle_of_a_batch_ends_no_worker(patient: Scene) -> None:
    scene, fleet = patient, stored(patient)
    scene.start_controller()
    scene.add_job(40)
    wait_until(lambda: scene.workers() == 2, "two workers run")
    fleet.pause(datetime(2026, 3, 1, 12, 3, tzinfo=UTC), "new model")
    pause = "paused by ops since 12:03 UTC (new model): "
    wait_until(lambda: shown(scene, pause), "the pause is in force")
    scene.add_job(100)
    words = f"{pause}140 images waiting, 2 workers finish what they have"
    wait_until(lambda: shown(scene, words), "the pause is shown")
    scene.kill_controller(0)
    scene.add_job(20)
    scene.start_controller()
    wait_until(lambda: shown(scene, f"{pause}160 images"), "the pause is in force under the next controller")
    assert scene.workers() == 2
    fleet.resume("ada@example.org")
    wait_until(lambda: scene.workers() == 8, "eight workers run for 160 images")
    wait_until(lambda: fleet.decisions().decisions[0].words.startswith("starting 6"), "the launch is shown")
    events = [decision.words for decision in fleet.decisions().decisions]
    assert any(each.startswith(pause) for each in events)
    assert events.count("resumed by ada@example.org") == 1
