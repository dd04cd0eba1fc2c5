"""An Auto Scaling group has its instances, real processes, and gets them back, changed or not."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from services.embedded.launch import REGION, EmbeddedCloud
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

GROUP = "web"
USER_DATA = "IyEvYmluL3NoCmV4ZWMgc2xlZXAgMzAwCg=="  # a script that sleeps


class Cloud:
    """A cloud with one group of one over a launch template of one version."""

    def __init__(self, endpoint_url: str) -> None:
        where: Any = {"endpoint_url": endpoint_url, "region_name": REGION}
        ec2: Any = boto3.client("ec2", **where)
        self.ec2 = ec2
        scaling: Any = boto3.client("autoscaling", **where)
        self.scaling = scaling
        data: Any = {"ImageId": "ami-12c6146b", "InstanceType": "c7a.large", "UserData": USER_DATA}
        made = self.ec2.create_launch_template(LaunchTemplateName=GROUP, LaunchTemplateData=data)
        template: Any = {"LaunchTemplateId": made["LaunchTemplate"]["LaunchTemplateId"], "Version": "$Latest"}
        self.scaling.create_auto_scaling_group(
            AutoScalingGroupName=GROUP,
            MinSize=1,
            MaxSize=2,
            LaunchTemplate=template,
            VPCZoneIdentifier=self.ec2.describe_subnets()["Subnets"][0]["SubnetId"],
            Tags=[{"Key": "fleetsight", "Value": "p", "PropagateAtLaunch": True}],
        )

    def members(self, state: str | None = None) -> list[dict[str, Any]]:
        """Return the group's instances, or those in a lifecycle state."""
        (group,) = self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
        return [one for one in group["Instances"] if state in {None, one["LifecycleState"]}]

    def state(self, instance_id: str) -> str:
        """Return an instance's state."""
        found = self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        return str(found[0]["Instances"][0]["State"]["Name"])

    def one_in_service(self, but: str = "") -> str:
        """Wait until the group's one instance is in service, and is not a certain one; return its id."""
        found = wait_until(
            lambda: [one["InstanceId"] for one in self.members("InService") if one["InstanceId"] != but],
            f"an instance but {but!r} in service",
        )
        assert len(found) == 1
        return str(found[0])


@pytest.fixture
def computing(tmp_path: Path) -> Iterator[EmbeddedCloud]:
    with EmbeddedCloud(tmp_path / "cloud") as cloud:
        yield cloud


def test_a_group_gets_its_instances_back_and_ends_with_them(computing: EmbeddedCloud) -> None:
    cloud = Cloud(computing.endpoint_url)
    first = cloud.one_in_service()
    end_the_process(computing, first)
    second = cloud.one_in_service(but=first)
    assert wait_until(lambda: cloud.state(first) == "terminated", "the first instance to end")

    cloud.scaling.terminate_instance_in_auto_scaling_group(InstanceId=second, ShouldDecrementDesiredCapacity=False)
    third = cloud.one_in_service(but=second)
    cloud.ec2.terminate_instances(InstanceIds=[third])
    fourth = cloud.one_in_service(but=third)
    with pytest.raises(ClientError, match="No managed instance found"):
        cloud.scaling.terminate_instance_in_auto_scaling_group(
            InstanceId=second, ShouldDecrementDesiredCapacity=False
        )

    cloud.scaling.update_auto_scaling_group(AutoScalingGroupName=GROUP, MinSize=2)
    wait_until(lambda: len(cloud.members("InService")) == 2, "two instances")
    cloud.scaling.update_auto_scaling_group(AutoScalingGroupName=GROUP, MinSize=0, DesiredCapacity=0)
    wait_until(lambda: cloud.state(fourth) == "terminated" and not cloud.members(), "no instances")
    cloud.scaling.delete_auto_scaling_group(AutoScalingGroupName=GROUP, ForceDelete=True)
    assert cloud.scaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []


def test_a_refresh_brings_instances_of_the_newest_version(computing: EmbeddedCloud) -> None:
    cloud = Cloud(computing.endpoint_url)
    first = cloud.one_in_service()
    newer = {"ImageId": "ami-12c6146b", "InstanceType": "c7a.xlarge", "UserData": USER_DATA}
    cloud.ec2.create_launch_template_version(LaunchTemplateName=GROUP, LaunchTemplateData=newer)
    begun = cloud.scaling.start_instance_refresh(
        AutoScalingGroupName=GROUP, Preferences={"MinHealthyPercentage": 100, "InstanceWarmup": 0}
    )

    def told() -> dict[str, Any]:
        wanted = {"AutoScalingGroupName": GROUP, "InstanceRefreshIds": [begun["InstanceRefreshId"]]}
        return dict(cloud.scaling.describe_instance_refreshes(**wanted)["InstanceRefreshes"][0])

    wait_until(lambda: told()["Status"] == "Successful", "the refresh to end")
    assert told()["PercentageComplete"] == 100
    (member,) = cloud.members()
    assert (member["LaunchTemplate"]["Version"], member["InstanceType"]) == ("2", "c7a.xlarge")
    assert member["InstanceId"] != first
    assert cloud.state(first) == "terminated"
    with pytest.raises(ClientError, match="No in progress or pending"):
        cloud.scaling.cancel_instance_refresh(AutoScalingGroupName=GROUP)


def end_the_process(cloud: EmbeddedCloud, instance_id: str) -> None:
    """Let an instance end by itself."""
    recorded = cloud.state_dir / "instances" / instance_id / "process"
    wait_until(lambda: recorded.exists() and recorded.read_text(), "the process of the instance")
    os.killpg(int(recorded.read_text().split()[0]), signal.SIGTERM)
