"""Auto Scaling groups count and launch instances."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.autoscaling import GROUP_TAG, drop_ended, launch


@dataclass
class Group:
    """A group of moto, and an EC2 with instances that run at once.

    Attributes:
        requests: of RunInstances.
        is_full: RunInstances fails.
    """

    desired_capacity: int = 2
    requests: list[dict[str, Any]] = field(default_factory=list)
    is_full: bool = False
    name: str = "g"
    region: str = "us-east-1"
    launch_template_version: str = "3"
    vpc_zone_identifier: str = "subnet-a,subnet-b"
    new_instances_protected_from_scale_in: bool = False
    instance_states: list[Any] = field(default_factory=list)
    machines: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ec2_launch_template, self.ec2_backend = SimpleNamespace(id="lt-1"), self

    def get_propagated_tags(self) -> dict[str, str]:
        return {"fleetsight": "p"}

    def client_of(self, _service: str, _region: str) -> Any:
        return self

    def run_instances(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request)
        if self.is_full:
            raise ClientError({"Error": {"Code": "InsufficientInstanceCapacity", "Message": "full"}}, "RunInstances")
        new = [f"i-{len(self.machines) + number}" for number in range(request["MaxCount"])]
        placement = SimpleNamespace(zone="z")
        for each in new:
            self.machines[each] = SimpleNamespace(id=each, state="running", instance_type="t", placement=placement)
        return {"Instances": [{"InstanceId": each} for each in new]}

    def get_instance(self, instance_id: str) -> Any:
        return self.machines[instance_id]

    def create_tags(self, ids: list[str], tags: dict[str, str]) -> None:
        self.tags |= dict.fromkeys(ids, tags)

    def terminate_instances(self, ids: list[str]) -> None:
        for one in ids:
            self.machines[one].state = "terminated"

    def members(self) -> list[str]:
        return [one.instance.id for one in self.instance_states]


def test_a_group_launches_the_version_that_it_names_with_its_tags() -> None:
    group = Group()
    launch(group, 2, group.client_of)
    assert group.requests == [
        {
            "LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": "3"},
            "MinCount": 1,
            "MaxCount": 2,
            "SubnetId": "subnet-a",
            "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "fleetsight", "Value": "p"}]}],
        }
    ]
    assert (group.members(), group.tags["i-0"]) == (["i-0", "i-1"], {GROUP_TAG: "g"})


def test_failed_launch_leaves_the_group_unchanged() -> None:
    group = Group(is_full=True)
    launch(group, 1, group.client_of)
    assert group.members() == []


@pytest.mark.parametrize("state", ["shutting-down", "terminated", "stopping", "stopped"])
def test_instances_that_have_ended_are_missing_and_none_stays_stopped(state: str) -> None:
    group = Group()
    launch(group, 2, group.client_of)
    group.machines["i-0"].state = state
    assert drop_ended(group) == 1
    assert group.members() == ["i-1"]
    assert group.machines["i-0"].state in {"terminated", "shutting-down"}
