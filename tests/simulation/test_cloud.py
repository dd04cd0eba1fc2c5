"""The simulated EC2 keeps EC2's promises, or the schedules would prove nothing."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from simulator.faults.cloud import Cloud, Faults
from simulator.faults.machines import NEVER, FailureMode
from simulator.faults.queues import Queues


class Scene:
    """A cloud, its queues, and a clock."""

    def __init__(self, fate: FailureMode) -> None:
        self.now = 0.0
        self.queues = Queues(lambda: self.now)
        self.alive: list[int] = []
        self.cloud = Cloud(
            now=lambda: self.now,
            queue=self.queues,
            next_failure_mode=lambda: fate,
            before_call=lambda _operation: None,
            launched=self.alive.append,
            ended=lambda _instance: None,
            image_seconds=3.0,
            idle_seconds=10.0,
        )

    def launch(self, count: int, token: str = "a", **more: Any) -> list[str]:  # noqa: S107 (a ClientToken)
        call = {
            "InstanceType": "c7a.large",
            "MinCount": 1,
            "MaxCount": count,
            "ClientToken": token,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "TagSpecifications": [{"Tags": [{"Key": "Name", "Value": "worker"}]}],
        }
        return [each["InstanceId"] for each in self.cloud.run_instances(**call | more)["Instances"]]

    def described(self) -> dict[str, str]:
        states = ["pending", "running", "shutting-down", "terminated", "stopping", "stopped"]
        pages = self.cloud.paginate(Filters=[{"Name": "instance-state-name", "Values": states}])
        return {
            each["InstanceId"]: each["State"]["Name"]
            for page in pages
            for each in page["Reservations"][0]["Instances"]
        }

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.queues.live()
            self.cloud.live()


@pytest.fixture
def scene() -> Scene:
    return Scene(FailureMode(boots=10.0))


def test_a_token_launches_once_and_only_what_it_launched_first(scene: Scene) -> None:
    assert scene.launch(3) == scene.launch(3)
    assert len(scene.cloud.instances) == 3
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        scene.launch(4)


def test_a_launch_is_partial_where_room_ends_and_refused_without(scene: Scene) -> None:
    scene.cloud.faults = Faults(room={("c7a.large", False): 2})
    assert len(scene.launch(5)) == 2
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        scene.launch(1, token="b")
    assert len(scene.launch(1, token="c", InstanceMarketOptions={"MarketType": "spot"})) == 1


@pytest.mark.parametrize(("fault", "at_once", "later"), [("lost", 1, 1), ("timeout", 0, 0), ("late", 0, 1)])
def test_a_launch_without_a_reply_took_place_or_did_not_or_does_so_later(
    scene: Scene, fault: str, at_once: int, later: int
) -> None:
    scene.cloud.faults.launch = fault
    with pytest.raises((ClientError, ReadTimeoutError)):
        scene.launch(1)
    assert len(scene.cloud.instances) == at_once
    scene.run(10)
    assert len(scene.cloud.instances) == later


def test_descriptions_lag(scene: Scene) -> None:
    scene.run(100)
    (key,) = scene.launch(1)
    scene.cloud.faults.describe_lag = 8.0
    assert scene.described() == {}
    scene.run(8)
    assert scene.described() == {key: "pending"}
    scene.run(8)
    assert scene.described() == {key: "running"}


def test_a_worker_answers_everything_says_so_and_ends_itself_when_idle(scene: Scene) -> None:
    (key,) = scene.launch(1)
    scene.queues.send(4)
    scene.run(60)
    assert (scene.queues.answered, scene.described()) == (4, {key: "terminated"})
    heard, is_all = scene.queues.heard()
    assert is_all
    assert len(heard) >= 4


def test_what_a_dead_worker_had_in_hand_comes_again() -> None:
    scene = Scene(FailureMode(boots=10.0, dies=12.0))
    scene.launch(1)
    scene.queues.send(1)
    scene.run(20)
    assert (scene.queues.visible, scene.queues.answered) == (0, 0)
    scene.run(30)
    assert scene.queues.visible == 1


def test_a_hung_worker_is_there_and_silent() -> None:
    scene = Scene(FailureMode(boots=10.0, hangs=25.0))
    (key,) = scene.launch(1)
    scene.queues.send(50)
    scene.run(60)
    scene.queues.heard()
    scene.run(100)
    assert scene.described() == {key: "running"}
    assert scene.queues.heard() == ([], True)


def test_a_stopped_instance_starts_again_with_a_boot_of_its_own(scene: Scene) -> None:
    (key,) = scene.launch(1, InstanceInitiatedShutdownBehavior="stop")
    scene.run(60)
    assert scene.described() == {key: "stopped"}
    scene.cloud.start_instances([key])
    scene.queues.send(1)
    scene.run(14)
    assert (scene.described(), scene.queues.answered) == ({key: "running"}, 1)


def test_who_never_boots_is_there_until_somebody_ends_it() -> None:
    scene = Scene(FailureMode(boots=NEVER))
    (key,) = scene.launch(1)
    scene.run(1_000)
    assert scene.described() == {key: "running"}
    scene.cloud.terminate_instances([key])
    scene.run(6)
    assert scene.described() == {key: "terminated"}
