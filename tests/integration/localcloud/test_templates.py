"""Launches by launch template, and of Spot instances, as the product makes them."""

import base64
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.launch import LocalCloud
from tests.integration.localcloud.conftest import Clients
from tests.integration.localcloud.test_instances import becomes, describe

pytestmark = pytest.mark.processes
SPOT = {"MarketType": "spot"}
_names = count()


@pytest.fixture
def name(clients: Clients) -> Iterator[str]:
    """Of a template and an instance profile of this test's own."""
    name = f"worker-{next(_names)}"
    clients("iam").create_instance_profile(InstanceProfileName=name)
    yield name
    clients("iam").delete_instance_profile(InstanceProfileName=name)


def create(ec2: Any, name: str, **data: Any) -> str:
    """Create a launch template with all that a worker needs; return its id."""
    data = {
        "ImageId": "ami-12c6146b",
        "InstanceType": "c7a.large",
        "UserData": base64.b64encode(b"#!/bin/sh\necho works\n").decode(),
        "IamInstanceProfile": {"Name": name},
        "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "TagSpecifications": [{"ResourceType": "instance", "Tags": tags(Name="template", Team="signs")}],
        **data,
    }
    created = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    return str(created["LaunchTemplate"]["LaunchTemplateId"])


def tags(**values: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in values.items()]


def launch(ec2: Any, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Launch one instance, or up to `MaxCount`, by a template, and return what the reply says of them."""
    template = {"LaunchTemplateName": name, "Version": "$Default"}
    reply = ec2.run_instances(**{"MinCount": 1, "MaxCount": 1, "LaunchTemplate": template, **parameters})
    return list(reply["Instances"])


def security_group(ec2: Any, name: str) -> str:
    return str(ec2.create_security_group(GroupName=name, Description="of a test")["GroupId"])


def subnet_in(ec2: Any, zone: str) -> str:
    found = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [zone]}])["Subnets"]
    return str(found[0]["SubnetId"])


def test_a_worker_gets_everything_from_its_template(clients: Clients, name: str, tmp_path: Path) -> None:
    ec2 = clients("ec2")
    group, market = security_group(ec2, name), {"InstanceMarketOptions": SPOT}
    # It runs until it has been described: a terminated instance has no profile any more.
    described = tmp_path / "described"
    script = f"#!/bin/sh\nuntil [ -e '{described}' ]; do sleep 0.05; done\necho works\n"
    user_data = {"UserData": base64.b64encode(script.encode()).decode()}
    create(ec2, name, SecurityGroupIds=[group], **market, **user_data)
    launched = launch(ec2, name, MaxCount=2, TagSpecifications=[{"ResourceType": "instance", "Tags": tags(Name="w")}])
    assert len(launched) == 2
    for instance in (launched[1], describe(ec2, launched[1]["InstanceId"])):
        assert (instance["ImageId"], instance["InstanceType"]) == ("ami-12c6146b", "c7a.large")
        assert instance["InstanceLifecycle"] == "spot"
        assert instance["IamInstanceProfile"]["Arn"].endswith(f"/{name}")
        assert [one["GroupId"] for one in instance["SecurityGroups"]] == [group]
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        assert instance["MetadataOptions"]["InstanceMetadataTags"] == "enabled"
        told = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert (told["Name"], told["Team"]) == ("w", "signs")
    described.touch()
    instance_id = launched[1]["InstanceId"]
    becomes(ec2, instance_id, "terminated")  # its shutdown behaviour; by default it would be stopped
    assert ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"] == "works\n"


def test_the_latest_version_counts_where_it_is_asked_for_and_the_call_wins(clients: Clients, name: str) -> None:
    ec2 = clients("ec2")
    template_id = create(ec2, name)
    changed = {"InstanceType": "c7a.xlarge", "ImageId": "ami-12c6146b"}
    ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData=changed)
    latest = {"LaunchTemplateId": template_id, "Version": "$Latest"}
    assert launch(ec2, name, LaunchTemplate=latest)[0]["InstanceType"] == "c7a.xlarge"
    assert launch(ec2, name)[0]["InstanceType"] == "c7a.large"
    assert launch(ec2, name, InstanceType="c7a.2xlarge")[0]["InstanceType"] == "c7a.2xlarge"


def test_network_interfaces_of_a_template_bring_subnet_and_groups(clients: Clients, name: str) -> None:
    ec2 = clients("ec2")
    group, subnet = security_group(ec2, name), subnet_in(ec2, "us-east-1c")
    create(ec2, name, NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group]}])
    (launched,) = launch(ec2, name)
    assert (launched["SubnetId"], launched["Placement"]["AvailabilityZone"]) == (subnet, "us-east-1c")
    assert [one["GroupId"] for one in launched["SecurityGroups"]] == [group]
    for parameters in ({"SubnetId": subnet}, {"SecurityGroupIds": [group]}):
        with pytest.raises(ClientError, match="InvalidParameterCombination"):
            launch(ec2, name, **parameters)


def test_an_instance_without_market_is_not_a_spot_instance(clients: Clients, name: str) -> None:
    ec2 = clients("ec2")
    create(ec2, name)
    (launched,) = launch(ec2, name)
    assert "InstanceLifecycle" not in launched
    assert "InstanceLifecycle" not in describe(ec2, launched["InstanceId"])


def test_a_one_time_spot_instance_cannot_stop(cloud: LocalCloud, clients: Clients, name: str) -> None:
    ec2 = clients("ec2")
    create(ec2, name)
    with pytest.raises(ClientError, match="InvalidParameterCombination"):
        launch(ec2, name, InstanceMarketOptions=SPOT, InstanceInitiatedShutdownBehavior="stop")
    (instance_id,) = [
        i["InstanceId"]
        for i in ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, InstanceMarketOptions=SPOT)[
            "Instances"
        ]
    ]
    attribute = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="instanceInitiatedShutdownBehavior")
    assert attribute["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
