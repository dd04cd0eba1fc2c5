"""Groups launch as anybody does, and count only what has not ended."""

import pytest

from services.embedded.scaling.groups import GROUP_TAG, drop_ended, launch, lifecycle_of, numbered_version
from tests.unit.services.embedded.scaling.played import Group


def test_a_group_launches_the_version_that_it_names_with_its_tags() -> None:
    group = Group()
    launch(group, 2, group.client_of)
    assert group.requests == [
        {
            "LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": "2"},
            "MinCount": 1,
            "MaxCount": 2,
            "SubnetId": "subnet-a",
            "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "fleetsight", "Value": "p"}]}],
        }
    ]
    assert group.members() == ["i-0", "i-1"]
    assert group.tags["i-0"] == {GROUP_TAG: "g"}
    assert group.instance_states[0].instance.launched_version == "2"


def test_a_launch_that_is_refused_leaves_the_group_as_it_is() -> None:
    group = Group(refuses=True)
    launch(group, 1, group.client_of)
    assert group.members() == []


@pytest.mark.parametrize(("version", "number"), [("$Default", "1"), ("$Latest", "2"), ("7", "7")])
def test_a_version_is_known_by_its_number(version: str, number: str) -> None:
    group = Group()
    group.launch_template_version = version
    assert numbered_version(group) == number


@pytest.mark.parametrize("state", ["shutting-down", "terminated", "stopping", "stopped"])
def test_instances_that_have_ended_are_lacking(state: str) -> None:
    group = Group(desired_capacity=2)
    launch(group, 2, group.client_of)
    group.machines["i-0"].state = state
    assert drop_ended(group) == 1
    assert group.members() == ["i-1"]
    assert group.machines["i-0"].state in {"terminated", "shutting-down"}  # what has stopped would cost for ever


@pytest.mark.parametrize(
    ("state", "lifecycle"),
    [("pending", "Pending"), ("running", "InService"), ("shutting-down", "Terminating"), ("stopped", "Terminating")],
)
def test_a_group_shows_what_becomes_of_its_instances(state: str, lifecycle: str) -> None:
    assert lifecycle_of(state) == lifecycle
