"""An Auto Scaling group holds its number of instances, which are real processes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from localcloud.launch import REGION, LocalCloud
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

    def running(self) -> list[str]:
        """Return the ids of the group's instances that run."""
        (group,) = self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
        members = [str(one["InstanceId"]) for one in group["Instances"]]
        return [one for one in members if self.state(one) == "running"]

    def state(self, instance_id: str) -> str:
        """Return an instance's state."""
        found = self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        return str(found[0]["Instances"][0]["State"]["Name"])

    def one_running(self, other_than: str = "") -> str:
        """Wait until the group's one instance runs and is another one; return its id."""
        what = f"an instance other than {other_than!r} to run"
        found = wait_until(lambda: [one for one in self.running() if one != other_than], what)
        assert len(found) == 1
        return found[0]


@pytest.fixture
def computing(tmp_path: Path) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path / "cloud") as cloud:
        yield cloud


def test_a_group_replaces_its_instances_and_ends_with_them(computing: LocalCloud) -> None:
    cloud = Cloud(computing.endpoint_url)
    first = cloud.one_running()
    end_the_process(computing, first)
    second = cloud.one_running(other_than=first)
    assert wait_until(lambda: cloud.state(first) == "terminated", "the first instance to end")
    cloud.ec2.terminate_instances(InstanceIds=[second])
    third = cloud.one_running(other_than=second)

    cloud.scaling.update_auto_scaling_group(AutoScalingGroupName=GROUP, MinSize=2)
    wait_until(lambda: len(cloud.running()) == 2, "two instances")
    cloud.scaling.update_auto_scaling_group(AutoScalingGroupName=GROUP, MinSize=0, DesiredCapacity=0)
    wait_until(lambda: cloud.state(third) == "terminated" and not cloud.running(), "no instances")
    cloud.scaling.delete_auto_scaling_group(AutoScalingGroupName=GROUP, ForceDelete=True)
    assert cloud.scaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []


def end_the_process(cloud: LocalCloud, instance_id: str) -> None:
    """Let an instance end by itself."""
    recorded = cloud.state_dir / "instances" / instance_id / "process"
    wait_until(lambda: recorded.exists() and recorded.read_text(), "the process of the instance")
    os.killpg(int(recorded.read_text().split()[0]), signal.SIGTERM)
