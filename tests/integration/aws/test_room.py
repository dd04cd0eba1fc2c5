"""The upgrade of a running stack in an account of five vCPUs: instances of ministack, EC2's quota, and a fleet
that wants a worker at all times.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from core.fleet.store import FleetStore
from scripts.aws import rollout
from scripts.aws.context import AwsAccount
from scripts.aws.deploy import room
from scripts.aws.deploy import up as ups
from scripts.aws.deploy.change_set import ProposedChangeSet, ResourceChange
from scripts.aws.deploy.stack import AUTO_SCALING_GROUP, StackFailedError
from scripts.aws.instances import StackInstance, instances_named, web_name, worker_name
from scripts.aws.preflight.quotas import running_vcpus
from scripts.aws.rollout import roll_session_keys
from services.clock import utc_now
from services.ec2 import Fleet
from services.table import Table
from tests.support.aws_stage import IMAGE, Stage, Time, tagged
from tests.support.clocks import PlayedClock

QUOTA, VCPUS = 5, 2
"""vCPUs of a new account, and of each instance."""


@dataclass
class World(Time):
    """Plays EC2's quota, workers, their controller, and the replacement of a web instance while a command waits.

    Attributes:
        others: vCPUs of instances that are not Fleetsight's.
        is_replacing: whether CloudFormation replaces the web instance.
        refused, replaced: how often EC2 has refused the new one, and how often the old one was replaced.
        spot: ids of Spot Instances, which have a quota of their own.
    """

    stage: Stage | None = None
    others: int = 0
    is_replacing: bool = False
    refused: int = 0
    replaced: int = 0
    drained: list[str] = field(default_factory=list)
    spot: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.play()

    def instances(self, name: str) -> list[StackInstance]:
        assert self.stage is not None
        return instances_named(self.stage.account, name, states=["pending", "running"])

    @property
    def web(self) -> list[StackInstance]:
        assert self.stage is not None
        return self.instances(web_name(self.stage.prefix))

    @property
    def workers(self) -> list[StackInstance]:
        assert self.stage is not None
        return self.instances(worker_name(self.stage.prefix))

    @property
    def has_room(self) -> bool:
        counted = [each for each in self.web + self.workers if each.instance_id not in self.spot]
        used = VCPUS * len(counted) + self.others
        assert used <= QUOTA
        return used + VCPUS <= QUOTA

    @property
    def store(self) -> FleetStore:
        assert self.stage is not None
        return FleetStore(Table(self.stage.account.dynamodb, f"{self.stage.prefix}-jobs"))

    def launch(self, name: str, **options: Any) -> str:
        assert self.stage is not None
        tags = tagged(self.stage, "instance", Name=name)
        launched = self.stage.account.ec2.run_instances(
            ImageId=IMAGE, InstanceType="c7a.large", MinCount=1, MaxCount=1, TagSpecifications=tags, **options
        )
        return launched["Instances"][0]["InstanceId"]

    def play(self) -> None:
        assert self.stage is not None
        ec2 = self.stage.account.ec2
        if draining := [each.instance_id for each in self.workers if each.draining]:
            ec2.terminate_instances(InstanceIds=draining)
            self.drained += draining
        if self.store.commands().pause is None and not self.workers and self.has_room:
            self.launch(worker_name(self.stage.prefix))
        if self.is_replacing and self.has_room:
            new = self.launch(self.web[0].name)
            # The old one ends. Here the new one does: the local Auto Scaling group would replace the old one.
            ec2.terminate_instances(InstanceIds=[new])
            self.is_replacing, self.replaced = False, self.replaced + 1
        elif self.is_replacing:
            self.refused += 1  # VcpuLimitExceeded; Auto Scaling tries again


@pytest.fixture(scope="module")
def deployed(account: AwsAccount) -> Iterator[Stage]:
    stage = Stage(account)
    stage.store_images()
    stage.up()
    yield stage
    stage.time = Time()
    stage.down(delete_data=True)


@pytest.fixture
def world(deployed: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A stack with a worker, which uses four of five vCPUs; the next `up` replaces its web instance."""
    account = deployed.account
    quotas = SimpleNamespace(get_service_quota=lambda **_: {"Quota": {"Value": float(QUOTA)}})
    monkeypatch.setitem(account._clients, "service-quotas", quotas)
    mine = running_vcpus

    world = World()
    world.stage, deployed.time = deployed, world
    world.play()
    assert (len(world.web), len(world.workers)) == (1, 1)

    def own_vcpus(account: Any, code: str) -> dict[str, int]:  # other tests use the same cloud
        own = {each.instance_id for each in world.web + world.workers}
        return {name: cpus for name, cpus in mine(account, code).items() if name in own} | {"other": world.others}

    def replaces(context: Any, _: Any, make_room: Any = None, **__: Any) -> None:
        world.is_replacing = True
        if make_room is not None and not world.has_room:
            make_room()  # as the deployment does when Auto Scaling reports the quota
        context.waiter.until(lambda: not world.is_replacing or world.refused > 3, "a web instance", seconds=900)
        if world.refused > 3:
            world.is_replacing = False
            raise StackFailedError("Received 0 SUCCESS signal(s) out of 1")

    changes = (ResourceChange("Modify", "WebGroup", AUTO_SCALING_GROUP),)
    monkeypatch.setattr(room, "running_vcpus", own_vcpus)
    monkeypatch.setattr(ups, "deploy", replaces)
    monkeypatch.setattr(rollout, "refresh_web_group", replaces)
    monkeypatch.setattr(ups, "create_change_set", lambda *_, **__: ProposedChangeSet("id", "id", "UPDATE", changes))
    yield world
    if left := [each.instance_id for each in world.workers]:
        account.ec2.terminate_instances(InstanceIds=left)


def new_session_key(stage: Stage) -> None:
    roll_session_keys(stage.context, dry_run=False)


def test_workers_end_and_wait_while_the_web_instance_of_a_small_quota_is_replaced(world: World) -> None:
    assert world.stage is not None
    (worker,) = world.workers
    world.stage.up()
    assert (world.replaced, world.refused, world.drained) == (1, 0, [worker.instance_id])
    assert world.store.paused() is None
    world.play()
    assert len(world.workers) == 1, "the fleet goes on"


@pytest.mark.parametrize("replace_web_instance", [Stage.up, new_session_key])
def test_an_unknown_quota_ends_one_worker_that_it_counts_after_a_refusal(
    world: World, monkeypatch: pytest.MonkeyPatch, replace_web_instance: Callable[[Stage], object]
) -> None:
    assert world.stage is not None
    fleet = Fleet(world.stage.account.ec2, worker_name(world.stage.prefix))
    fleet.protect([each.instance_id for each in world.workers])
    monkeypatch.setattr("tests.integration.aws.test_room.QUOTA", 6)
    world.spot.add(world.launch(fleet.name, InstanceMarketOptions={"MarketType": "spot"}))
    unprotected = world.launch(fleet.name)

    def unknown(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetServiceQuota")

    world.stage.account._clients["service-quotas"].get_service_quota = unknown
    replace_web_instance(world.stage)
    assert (world.replaced, world.refused, world.drained) == (1, 0, [unprotected])
    assert world.store.paused() is None


def test_workers_work_on_where_the_quota_has_room_and_the_pause_of_operators_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.stage is not None
    monkeypatch.setattr("tests.integration.aws.test_room.QUOTA", 6)
    world.stage.account._clients["service-quotas"].get_service_quota = lambda **_: {"Quota": {"Value": 6.0}}
    world.stage.up()
    assert (world.replaced, len(world.workers), world.drained) == (1, 1, [])
    world.store.pause(utc_now(), "mine")
    monkeypatch.setattr("tests.integration.aws.test_room.QUOTA", 5)
    world.stage.account._clients["service-quotas"].get_service_quota = lambda **_: {"Quota": {"Value": 5.0}}
    world.stage.up()
    assert len(world.drained) == 1
    pause = world.store.paused()
    assert (pause and pause.reason) == "mine"
    world.store.resume()


def test_workers_are_released_if_the_wait_for_room_is_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.stage is not None

    def interrupted(*_: object) -> bool:
        assert world.store.paused() is not None
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "_has_room", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.stage.up()
    assert world.store.paused() is None


def test_workers_are_released_after_a_failure_by_the_next_run_or_by_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.stage is not None
    world.others = 2
    monkeypatch.setattr(World, "has_room", False)
    monkeypatch.setattr(room, "DRAIN_SECONDS", 9.0)
    with pytest.raises(StackFailedError):
        world.stage.up()
    assert "leave no vCPUs for a c7a.large" in " ".join(world.stage.seen.split())
    assert world.store.paused() is None, "after a failure"
    monkeypatch.setattr(room, "release_workers", lambda *_: None)
    with pytest.raises(StackFailedError):
        world.stage.up()
    pause = world.store.paused()
    assert pause is not None
    assert "a new web instance needs the vCPUs; until " in pause.reason
    later = FleetStore(
        world.store.table, PlayedClock(utc_now=lambda: utc_now() + timedelta(minutes=room.HELD_MINUTES))
    )
    assert later.paused() is later.commands().pause is later.state().pause is None, "by time"
    monkeypatch.setattr(ups, "create_change_set", lambda *_, **__: None)
    world.stage.up()
    assert world.store.paused() is None, "by the next run"
