"""Launches: launch templates, capacity, idempotency, EC2's errors, and machine images."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.launch_templates import LaunchTemplateBackend
from moto.ec2.models.tags import TagBackend

from localcloud.ec2.fleet import CapacityPool
from localcloud.ec2.launches import (
    Ec2ServerError,
    capacity_pool_of,
    count_to_start,
    with_template,
)

PLACE = CapacityPool("c7a.large", "us-east-1b", spot=True)


@pytest.mark.parametrize(
    ("minimum", "maximum", "room", "count"),
    [(1, 5, None, 5), (1, 5, 5, 5), (1, 5, 3, 3), (2, 5, 2, 2), (1, 1, 100, 1)],
)
def test_launch_starts_as_many_as_capacity_allows(minimum: int, maximum: int, room: int | None, count: int) -> None:
    assert count_to_start(minimum, maximum, room, PLACE) == count


@pytest.mark.parametrize(("minimum", "maximum"), [(5, 3), (0, 3)])
def test_an_impossible_range_is_the_callers_error(minimum: int, maximum: int) -> None:
    with pytest.raises(EC2ClientError) as refused:
        count_to_start(minimum, maximum, None, PLACE)
    assert refused.value.code == "InvalidParameterValue"


@pytest.mark.parametrize(("minimum", "maximum", "room"), [(3, 5, 2), (1, 1, 0)])
def test_want_of_capacity_is_ec2s_error_and_names_type_market_and_zone(minimum: int, maximum: int, room: int) -> None:
    with pytest.raises(Ec2ServerError) as refused:
        count_to_start(minimum, maximum, room, PLACE)
    assert (refused.value.error_code, refused.value.code) == ("InsufficientInstanceCapacity", 500)
    assert "c7a.large Spot capacity in the Availability Zone you requested (us-east-1b)" in str(refused.value)


SPOT = {"InstanceMarketOptions": {"MarketType": "spot"}}


@dataclass
class Templates:
    """moto's launch templates with one of three versions, of which the second is the default."""

    backend: LaunchTemplateBackend
    template: Any

    def read(self, version: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Return the parameters of a launch that names a version of the template."""
        named = {"LaunchTemplateName": "worker"} | ({"Version": version} if version else {})
        return with_template(self.backend, {"LaunchTemplate": named, **parameters})


class _Backend(LaunchTemplateBackend, TagBackend):  # type: ignore[misc]
    def __init__(self) -> None:
        LaunchTemplateBackend.__init__(self)
        TagBackend.__init__(self)


@pytest.fixture
def templates() -> Templates:
    backend = _Backend()
    template = backend.create_launch_template("worker", "", {"ImageId": "ami-1"}, {})
    data = {
        "ImageId": "ami-2",
        "InstanceType": "c7a.large",
        "KeyName": None,
        "UserData": Base64EncodedString("IyEvYmluL3NoCg=="),
        "IamInstanceProfile": {"Name": "worker"},
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "theirs"}, {"Key": "Team", "Value": "a"}]},
            {"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "disk"}]},
            {"ResourceType": "launch-template", "Tags": [{"Key": "Name", "Value": "of the template alone"}]},
        ],
    }
    template.create_version(data, "")
    template.create_version({"ImageId": "ami-3"}, "")
    backend.modify_launch_template("2", template_name="worker")
    return Templates(backend, template)


@pytest.mark.parametrize(
    ("version", "image"),
    [(None, "ami-2"), ("$Default", "ami-2"), ("$Latest", "ami-3"), ("1", "ami-1"), ("3", "ami-3")],
)
def test_the_version_that_is_named_counts(templates: Templates, version: str | None, image: str) -> None:
    assert templates.read(version)["ImageId"] == image


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ({"LaunchTemplateName": "nobody"}, "InvalidLaunchTemplateName.NotFoundException"),
        ({"LaunchTemplateName": "worker", "Version": "4"}, "InvalidLaunchTemplateId.VersionNotFound"),
        ({"Version": "1"}, "MissingParameter"),
    ],
)
def test_a_template_or_version_that_does_not_exist_is_refused(
    templates: Templates, named: dict[str, str], code: str
) -> None:
    with pytest.raises(EC2ClientError) as refused:
        with_template(templates.backend, {"LaunchTemplate": named})
    assert refused.value.code == code


def test_tags_of_both_are_one_set_for_each_type_in_which_the_call_wins(templates: Templates) -> None:
    ours = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "ours"}]}]
    assert templates.read(TagSpecifications=ours)["TagSpecifications"] == [
        {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "ours"}, {"Key": "Team", "Value": "a"}]},
        {"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "disk"}]},
    ]


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({}, CapacityPool("m1.small", "us-east-1a")),
        ({"InstanceType": "c7a.large", **SPOT}, CapacityPool("c7a.large", "us-east-1a", spot=True)),
        ({"SubnetId": "subnet-b"}, CapacityPool("m1.small", "us-east-1b")),
        ({"NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "subnet-b"}]}, CapacityPool("m1.small", "us-east-1b")),
        ({"Placement": {"AvailabilityZone": "us-east-1c"}}, CapacityPool("m1.small", "us-east-1c")),
    ],
)
def test_a_launch_is_for_a_type_in_the_zone_of_its_subnet(parameters: dict[str, Any], place: CapacityPool) -> None:
    subnets = {"subnet-b": SimpleNamespace(availability_zone="us-east-1b")}
    backend = SimpleNamespace(region_name="us-east-1", get_subnet=subnets.__getitem__)
    assert capacity_pool_of(backend, parameters) == place
