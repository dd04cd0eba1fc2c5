"""Real controllers and their fleets on the local cloud: launches, limits, pauses, and what is shown of them."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from core.fleet.models import FleetSnapshot
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.figures import JobFigures
from localcloud.launch import LocalCloud
from services.clients import Clients
from services.sqs import Queue
from tests.integration.controller.conftest import Scene, SceneMaker, done
from tests.support.waiting import wait_until
from web_tier.autoscaler.reporting import RESOLUTIONS

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


@pytest.mark.parametrize("kind", ["standard", "fifo"])
def test_a_batch_gets_its_fleet_is_shown_and_its_results_are_counted(make_scene: SceneMaker, kind: str) -> None:
    scene = make_scene(queues={"kind": kind}, fleet={"max_workers": 3}, controller={"lost_after_seconds": 60})
    scene.start_controller()
    wait_until(scene.snapshot, "the controller acts")
    refs = scene.add_job(65)
    wait_until(lambda: scene.workers() == 3, "three workers run")
    wait_until(
        lambda: any(point[1:] == (3, 65) for block in stored(scene).blocks("hour") for point in block.points),
        "the history has three workers and 65 images",
    )
    assert len(stored(scene).blocks()) <= sum(each.blocks for each in RESOLUTIONS)
    reason = "3 workers, the limit: 65 images left, 3 workers still booting"
    wait_until(
        lambda: (seen := scene.snapshot()) and (seen.running, seen.visible) == (3, 65), "three workers are shown"
    )
    snapshot = wait_until(lambda: shown(scene, reason), "the reason is shown")
    assert (snapshot.max_workers, snapshot.peak_workers, snapshot.pending) == (3, 3, 0)
    assert (snapshot.billed_seconds >= 180, snapshot.problem) == (True, None)
    # A round may fall between two requests of the same job.
    wait_until(
        lambda: any(
            re.match(r"starting [123] workers? \(\d → \d, limit 3\): ", each.words)
            for each in stored(scene).decisions().decisions
        ),
        "the decision is shown",
    )
    ended = [instance.instance_id for instance in scene.wiring.fleet.instances(("running",))]
    scene.wiring.fleet.terminate(ended[:2])
    wait_until(lambda: scene.workers() == 3, "two others replace workers that ended while images wait")
    scene.respond([done(ref) for ref in refs])
    wait_until(lambda: scene.finished(refs[0].job_id), "the job is finished")
    assert JobFigures(scene.wiring.store.table).counts(refs[0].job_id).done == 65


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


def test_a_reached_cap_that_one_controller_could_not_send_is_sent_by_the_next(
    make_scene: SceneMaker, clients: Clients
) -> None:
    name = new_id()
    topic = clients.sns.create_topic(Name=name)["TopicArn"]
    clients.sns.delete_topic(TopicArn=topic)
    alerts = Queue(clients.sqs, clients.sqs.create_queue(QueueName=new_id())["QueueUrl"])
    arn = clients.sqs.get_queue_attributes(QueueUrl=alerts.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    scene = make_scene(fleet={"dollars_per_day": 0.002}, notifications={"topic_arn": topic})
    scene.start_controller()
    wait_until(scene.snapshot, "the controller acts")
    scene.add_job(65)
    wait_until(lambda: "a message was not published" in scene.log(), "the cap is reached, and there is no such topic")
    scene.kill_controller(0)
    assert clients.sns.create_topic(Name=name)["TopicArn"] == topic
    clients.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    scene.start_controller()
    message_id = f"cap-day-{datetime.now(UTC):%Y-%m-%d}-reached"
    [published] = wait_until(lambda: alerts.receive(wait_seconds=1), "the next controller sends it")
    assert json.loads(published.body)["id"] == message_id
    assert scene.workers() <= 1
