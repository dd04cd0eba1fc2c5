"""Rolls on ministack with instances that compute nothing; the test simulates workers and controller."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from core.ids import new_id
from localcloud.launch import REGION
from scripts.aws.context import TAG, AwsAccount, AwsContext, TimedOutError, Waiter
from scripts.aws.rollout import RolloutError, RolloutOptions, roll_out
from services.ec2 import VERSION_TAG
from tests.support.aws_builders import BuildersClock, Killed, MortalAccount
from tests.support.iam.commands import PrintedPolicy


@dataclass
class Fleet:
    """A stack's templates and fleet, with simulated workers and a simulated controller, which replaces one at a time.

    Attributes:
        wanted: number of workers that the controller keeps.
        obedient: whether the controller replaces workers.
    """

    account: MortalAccount
    observer: AwsAccount
    prefix: str
    wanted: int = 0
    obedient: bool = True
    reported: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    die_after: int | None = None

    def __post_init__(self) -> None:
        self.clock = BuildersClock(self.work)
        self.template = self.observer.ec2.create_launch_template(
            LaunchTemplateName=f"{self.prefix}-worker", LaunchTemplateData=self.data(1)
        )["LaunchTemplate"]["LaunchTemplateId"]

    def data(self, version: int, behavior: str = "terminate") -> Any:
        tags = [{"Key": TAG, "Value": self.prefix}, {"Key": "Name", "Value": f"{self.prefix}-worker"}]
        return {
            "ImageId": f"ami-{version:08}",
            "InstanceInitiatedShutdownBehavior": behavior,
            "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}],
        }

    def new_version(self, version: int) -> None:
        self.observer.ec2.create_launch_template_version(
            LaunchTemplateId=self.template, LaunchTemplateData=self.data(version)
        )

    def launch(self, count: int, version: str = "$Default") -> None:
        template = {"LaunchTemplateId": self.template, "Version": version}
        self.observer.ec2.run_instances(LaunchTemplate=template, MinCount=count, MaxCount=count)  # type: ignore[arg-type]

    def workers(self, *states: str) -> list[Any]:
        found = self.observer.ec2.describe_instances(
            Filters=[
                {"Name": "tag:Name", "Values": [f"{self.prefix}-worker"]},
                {"Name": "instance-state-name", "Values": list(states) or ["pending", "running"]},
            ]
        )
        return [each for reservation in found["Reservations"] for each in reservation["Instances"]]

    def versions(self) -> list[int]:
        return sorted(version_of(each) for each in self.workers())

    def default(self) -> int:
        found = self.observer.ec2.describe_launch_templates(LaunchTemplateIds=[self.template])["LaunchTemplates"]
        return found[0]["DefaultVersionNumber"]

    def work(self) -> None:
        """End a worker of another version than the default, and launch the workers that are then missing."""
        drifted = [each["InstanceId"] for each in self.workers() if version_of(each) != self.default()]
        if drifted and self.obedient:
            self.observer.ec2.terminate_instances(InstanceIds=drifted[:1])
        if (missing := self.wanted - len(self.workers())) > 0:
            self.launch(missing)

    def done(self, sentence: str) -> None:
        self.reported.append(sentence)
        if self.die_after == len(self.reported):
            self.account.dead = True
            raise Killed

    @property
    def context(self) -> AwsContext:
        waiter = Waiter(self.clock, self.said.append)
        say: Any = self.said.append
        return AwsContext(self.account, self.prefix, self.done, say, waiter)

    def roll_out(self, **order: Any) -> None:
        roll_out(self.context, RolloutOptions(**order))

    def roll_again(self, **order: Any) -> None:
        """Roll in a new process."""
        self.account.reborn()
        self.die_after = None
        self.roll_out(**order)


def version_of(described: Any) -> int:
    return int({tag["Key"]: tag["Value"] for tag in described["Tags"]}[VERSION_TAG])


@pytest.fixture
def fleet(accounts: tuple[MortalAccount, AwsAccount]) -> Fleet:
    accounts[0].reborn()
    return Fleet(*accounts, f"t{new_id().lower()[-12:]}")


@pytest.fixture
def rolling(fleet: Fleet) -> Fleet:
    """Two workers of version 1, and a version 2 that is not launched yet."""
    fleet.wanted = 2
    fleet.launch(2)
    fleet.new_version(2)
    return fleet


def test_a_roll_makes_the_newest_version_the_default_and_waits_for_the_controller(rolling: Fleet) -> None:
    rolling.launch(6)
    rolling.wanted = 8
    rolling.roll_out()
    assert rolling.default() == 2
    assert rolling.versions() == [2] * 8
    assert "1 workers of other versions are left" in rolling.said


def test_roll_makes_no_call_that_the_printed_policy_denies(accounts: tuple[MortalAccount, AwsAccount]) -> None:
    account = MortalAccount(REGION, endpoint_url=accounts[1].endpoint_url)
    rolling = Fleet(account, accounts[1], f"t{new_id().lower()[-12:]}", wanted=2)
    printed = PrintedPolicy(account, rolling.prefix)
    rolling.launch(2)
    rolling.new_version(2)
    rolling.roll_out()
    rolling.roll_out(back=True)
    assert {"ec2:CreateTags", "ec2:ModifyLaunchTemplate"} <= {check.action for check in printed.needed.values()}
    assert printed.denied() == []


def test_the_way_back_is_the_version_before_and_a_version_can_be_named(rolling: Fleet) -> None:
    rolling.new_version(3)
    rolling.roll_out()
    assert rolling.versions() == [3] * 2
    rolling.roll_out(back=True)
    assert rolling.default() == 1
    assert rolling.versions() == [1] * 2
    rolling.roll_out(back=True)
    assert rolling.versions() == [3] * 2
    rolling.roll_out(to=2)
    assert rolling.versions() == [2] * 2


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("step", [1])
def test_a_roll_that_is_killed_is_finished_or_taken_back_by_the_next(step: int, back: bool, rolling: Fleet) -> None:
    rolling.die_after = step
    with pytest.raises(Killed):
        rolling.roll_out()
    rolling.roll_again(back=back)
    assert rolling.default() == (1 if back else 2)
    assert rolling.versions() == [rolling.default()] * 2


@pytest.mark.parametrize("step", range(1, 4))
def test_a_way_back_that_is_killed_goes_on_back(step: int, rolling: Fleet) -> None:
    rolling.roll_out()
    rolling.reported.clear()
    rolling.die_after = step
    with pytest.raises(Killed):
        rolling.roll_out(back=True)
    arrived = step == 3
    rolling.roll_again(back=not arrived)
    assert rolling.default() == (2 if arrived else 1)
    assert len(set(rolling.versions())) == 1


def test_a_dry_run_says_old_and_new_and_changes_nothing(rolling: Fleet) -> None:
    rolling.roll_out(dry_run=True)
    assert rolling.reported == []
    assert rolling.default() == 1
    assert "launched from version 1 (ami-00000001); it shall be version 2 (ami-00000002)" in rolling.said[0]
    assert "2 workers are of other versions" in rolling.said[1]


def test_a_controller_that_replaces_no_worker_is_reported_with_the_reasons(rolling: Fleet) -> None:
    rolling.obedient, rolling.clock.pace = False, 20
    with pytest.raises(TimedOutError, match=r"to replace 2 workers: it does not while the fleet is paused"):
        rolling.roll_out()


@pytest.mark.parametrize(
    ("order", "prefix", "named"),
    [
        ({"to": 7}, "", "has no version 7: the newest is 1"),
        ({"back": True}, "", "no roll is known before version 1"),
        ({}, "nothing", "there is no launch template nothing-worker: `fleetsight up` makes it"),
    ],
    ids=["unknown", "nothing before", "no stack"],
)
def test_a_roll_without_a_target_is_rejected(order: dict[str, Any], prefix: str, named: str, fleet: Fleet) -> None:
    fleet.prefix = prefix or fleet.prefix
    with pytest.raises(RolloutError, match=named):
        fleet.roll_out(**order)
    assert fleet.reported == []
