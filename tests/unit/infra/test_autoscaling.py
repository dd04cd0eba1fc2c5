"""Auto Scaling groups of the rehearsals: they launch by RunInstances and replace instances that end."""

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.account.autoscaling import GROUP_TAG, drop_ended, launch


class Group(SimpleNamespace):
    """A group of moto, and an EC2 with instances that run at once; RunInstances fails if the group is full."""

    def __init__(self, *, is_full: bool = False) -> None:
        super().__init__(
            name="g", region="us-east-1", desired_capacity=2, launch_template_version="3", instance_states=[],
            vpc_zone_identifier="subnet-a,subnet-b", new_instances_protected_from_scale_in=False,
            ec2_launch_template=SimpleNamespace(id="lt-1"), ec2_backend=self,
        )  # fmt: skip
        self.is_full, self.machines, self.tags = is_full, dict[str, Any](), dict[str, Any]()
        self.requests: list[dict[str, Any]] = []
        launch(self, 2, lambda _service, _region: self)

    def get_propagated_tags(self) -> dict[str, str]:
        return {"fleetsight": "p"}

    def run_instances(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request)
        if self.is_full:
            raise ClientError({"Error": {"Code": "InsufficientInstanceCapacity", "Message": "full"}}, "RunInstances")
        rest = {"state": "running", "instance_type": "t", "placement": SimpleNamespace(zone="z")}
        new = {name: SimpleNamespace(id=name, **rest) for name in ("i-0", "i-1")}
        self.machines |= new
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
    assert Group(is_full=True).members() == [], "a failed launch leaves the group unchanged"


@pytest.mark.parametrize("state", ["shutting-down", "terminated", "stopping", "stopped"])
def test_instances_that_have_ended_are_missing_and_none_stays_stopped(state: str) -> None:
    group = Group()
    group.machines["i-0"].state = state
    assert drop_ended(group) == 1
    assert group.members() == ["i-1"]
    assert group.machines["i-0"].state in {"terminated", "shutting-down"}
