"""Launches by a real controller on the local cloud: by template and choice, and through its death."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from core.fleet.store import FleetStore
from localcloud.launch import LocalCloud
from tests.integration.controller.conftest import Scene, SceneMaker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

USER_DATA = "IyEvYmluL3RydWU="


@pytest.fixture
def switched(cloud: LocalCloud) -> Iterator[LocalCloud]:
    """The cloud, without faults again at the end of the test."""
    yield cloud
    cloud.set_switches(lost_launch_replies=0, describe_lag_seconds=0, spot_capacity=None)


def journal(scene: Scene) -> FleetStore:
    return FleetStore(scene.wiring.store.table)


def test_killed_after_a_launch_that_it_never_heard_of_it_leaves_a_successor_that_launches_no_second_fleet(
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
    [entry] = journal(scene).journal().entries
    assert entry.count > 0
    assert entry.instance_ids is None
    scene.start_controller()
    wait_until(lambda: "workers are launching" in scene.log(1), "the successor has called again")
    wait_until(lambda: (seen := scene.snapshot()) and seen.pending == 5, "it counts on five")
    switched.set_switches(describe_lag_seconds=0)
    assert scene.workers() == 5
    launched = {each.client_token for each in scene.wiring.fleet.instances()}
    assert entry.token in launched


def test_workers_come_from_the_launch_template_on_spot_first_and_on_demand_where_spot_ends(
    make_scene: SceneMaker, switched: LocalCloud
) -> None:
    name = make_scene().config.names.worker_instance
    scene = make_scene(fleet={"launch_template": name, "market": "spot"})
    ec2 = scene.wiring.fleet.client
    data: Any = {"ImageId": "ami-12c6146b", "InstanceType": "m5.large", "UserData": USER_DATA}
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    switched.set_switches(spot_capacity=2)
    scene.add_job(100)
    scene.start_controller()
    wait_until(lambda: scene.workers() == 5, "five workers run")
    instances = scene.wiring.fleet.instances()
    assert Counter((each.instance_type, each.spot) for each in instances) == {
        ("c7a.large", True): 2,
        ("c7a.large", False): 3,
    }
    for each in instances:
        asked = ec2.describe_instance_attribute(InstanceId=each.instance_id, Attribute="userData")
        assert asked["UserData"]["Value"] == USER_DATA
    wait_until(lambda: (seen := scene.snapshot()) and seen.running == 5, "the fleet page shows five")
    wait_until(lambda: (seen := scene.snapshot()) and seen.problem is None, "and no problem any more")
    wait_until(
        lambda: Counter(each.spot for each in journal(scene).instances().instances) == {True: 2, False: 3},
        "two of the five workers are told as Spot instances",
    )
