"""EC2: the instances of one fleet, known by their `Name` tag.

States as EC2 names them; `pending` and `running` are alive, `stopped` ones can be started again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from services.errors import LaunchError
from services.metadata import DRAIN_TAG

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

ALIVE = ("pending", "running")
ShutdownBehavior = Literal["terminate", "stop"]


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as DescribeInstances tells it; `draining` when it has been asked to end."""

    instance_id: str
    state: str
    instance_type: str
    zone: str
    launched_at: datetime
    draining: bool = False


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What to launch.

    Attributes:
        user_data: a script; the instance runs it at boot. It must hold no secret.
        shutdown_behavior: what EC2 does when the instance powers itself off.
        instance_profile: name of the instance profile whose role the instance gets; None for none.
        subnet_id: where to launch; None for the default subnet.
    """

    image_id: str
    instance_type: str
    user_data: str
    shutdown_behavior: ShutdownBehavior
    instance_profile: str | None = None
    subnet_id: str | None = None
    security_group_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fleet:
    """The instances whose `Name` tag is `name`."""

    client: "EC2Client"
    name: str

    def instances(self, states: Sequence[str] = (*ALIVE, "stopping", "stopped")) -> list[Instance]:
        """Return the fleet's instances in any of `states`, oldest first."""
        pages = self.client.get_paginator("describe_instances").paginate(
            Filters=[
                {"Name": "tag:Name", "Values": [self.name]},
                {"Name": "instance-state-name", "Values": list(states)},
            ]
        )
        found = [
            _instance(described)
            for page in pages
            for reservation in page["Reservations"]
            for described in reservation["Instances"]
        ]
        return sorted(found, key=lambda instance: (instance.launched_at, instance.instance_id))

    def launch(self, spec: LaunchSpec, count: int, token: str) -> list[Instance]:
        """Launch up to `count` instances, at least one.

        Args:
            spec: what to launch.
            count: how many at most; EC2 launches fewer where capacity is short.
            token: ClientToken, up to 64 ASCII characters; the same token launches only once.

        Raises:
            LaunchError: when EC2 refuses: capacity, quota, throttling, a wrong parameter.
        """
        optional: dict[str, Any] = {}
        if spec.instance_profile:
            optional["IamInstanceProfile"] = {"Name": spec.instance_profile}
        if spec.subnet_id:
            optional["SubnetId"] = spec.subnet_id
        if spec.security_group_ids:
            optional["SecurityGroupIds"] = list(spec.security_group_ids)
        try:
            reply = self.client.run_instances(
                ImageId=spec.image_id,
                InstanceType=spec.instance_type,  # type: ignore[arg-type]  # any type that EC2 has
                MinCount=1,
                MaxCount=count,
                UserData=spec.user_data,
                ClientToken=token,
                InstanceInitiatedShutdownBehavior=spec.shutdown_behavior,
                MetadataOptions={"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
                TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": self.name}]}],
                **optional,
            )
        except ClientError as error:
            raise LaunchError(error.response["Error"]["Code"], error.response["Error"].get("Message", "")) from error
        return [_instance(described) for described in reply["Instances"]]

    def start(self, instance_ids: Sequence[str]) -> None:
        """Start stopped instances.

        Raises:
            LaunchError: when EC2 refuses, as for want of capacity.
        """
        try:
            self.client.start_instances(InstanceIds=list(instance_ids))
        except ClientError as error:
            raise LaunchError(error.response["Error"]["Code"], error.response["Error"].get("Message", "")) from error

    def ask_to_drain(self, instance_ids: Sequence[str]) -> None:
        """Ask the workers on these instances to finish what they have and end; asking again changes nothing."""
        if instance_ids:
            self.client.create_tags(Resources=list(instance_ids), Tags=[{"Key": DRAIN_TAG, "Value": "asked"}])

    def terminate(self, instance_ids: Sequence[str]) -> None:
        """End instances for good."""
        if instance_ids:
            self.client.terminate_instances(InstanceIds=list(instance_ids))

    def console_output(self, instance_id: str) -> str:
        """Return what the instance last wrote to its console."""
        return self.client.get_console_output(InstanceId=instance_id).get("Output", "")


def _instance(described: Any) -> Instance:
    return Instance(
        instance_id=described["InstanceId"],
        state=described["State"]["Name"],
        instance_type=described["InstanceType"],
        zone=described.get("Placement", {}).get("AvailabilityZone", ""),
        launched_at=described["LaunchTime"],
        draining=any(tag["Key"] == DRAIN_TAG for tag in described.get("Tags", [])),
    )
