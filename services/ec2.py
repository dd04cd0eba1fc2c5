"""EC2: the instances of one fleet, known by their `Name` tag.

States as EC2 names them; `pending` and `running` are alive, `stopped` ones can be started again.

Instances are launched by RunInstances, one type, subnet and market a call, and not by CreateFleet, which would choose
among several itself: RunInstances takes a ClientToken that makes every repeated call harmless; and
of what was asked for it launches as many as there is capacity for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from services.errors import LaunchError, readable
from services.metadata import DRAIN_TAG, PROTECTED_TAG

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef, TagTypeDef

ALIVE = ("pending", "running")
INSTANCE_ID_PATTERN = r"^i-[0-9a-f]{8,17}$"
METADATA_OPTIONS = {"HttpTokens": "required", "InstanceMetadataTags": "enabled"}
"""Session tokens only; and instances see their tags, by which workers are asked to end."""
ShutdownBehavior = Literal["terminate", "stop"]
Market = Literal["on_demand", "spot"]
TEMPLATE_VERSION = "$Default"

TEMPLATE_TAG = "aws:ec2launchtemplate:id"
VERSION_TAG = "aws:ec2launchtemplate:version"
"""EC2 sets these tags on each instance that it launches from a template."""

SHUT_ITSELF_DOWN = "Client.InstanceInitiatedShutdown"
"""Reason of an end that EC2 learns of when the system of the instance has powered off.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
"""

STACK_TAG = "fleetsight"
"""Tag of everything that a stack has; its value is the stack's prefix."""

DESCRIBED_AT_ONCE = 1_000
"""Instances in one reply of DescribeInstances, the maximum. Without a number EC2 may throttle a call that has to
describe many, or answer too late.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html
"""

FAILED_STARTS = frozenset(
    {
        "Client.InternalError",
        "Client.InvalidSnapshot.NotFound",
        "Client.VolumeLimitExceeded",
        "Server.InsufficientInstanceCapacity",
        "Server.InternalError",
    }
)
"""Reasons of an end while EC2 was still launching the instance, which it does not bill.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
"""

WORKER_SUFFIX = "-worker"
"""Follows the prefix in the `Name` tag of a stack's workers."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as DescribeInstances reports it.

    Attributes:
        draining: whether its worker was asked to finish its images and end.
        protected: whether its worker is protected from scale-in: it stays when it is idle.
        client_token: of the call that launched it; empty when that had none.
        failed_to_start: whether EC2 has ended it because it could not start it.
        has_ended: whether no process runs on it any more. One that a call terminates or stops may still shut down.
        template_version: id and version of the launch template that it was launched from, as `lt-1:2`; or empty.
    """

    instance_id: str
    state: str
    instance_type: str
    zone: str
    launched_at: datetime
    draining: bool = False
    protected: bool = False
    spot: bool = False
    client_token: str = ""
    failed_to_start: bool = False
    has_ended: bool = False
    template_version: str = ""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What to launch.

    Attributes:
        shutdown_behavior: what EC2 does when the instance shuts itself down.
        image_id: None with a launch template that has one.
        user_data: a script that the instance runs at boot; it must hold no secret. None for none, or the template's.
        subnet_id: where to launch; None for the default subnet.
        market: `spot` is a one-time Spot Instance at the on-demand price at most, which EC2 terminates when it takes
            it back.
        launch_template: name of the template; its default version applies to all parameters that are not given here,
            including metadata options.
    """

    instance_type: str
    shutdown_behavior: ShutdownBehavior
    image_id: str | None = None
    user_data: str | None = None
    subnet_id: str | None = None
    market: Market = "on_demand"
    launch_template: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of RunInstances; the template or EC2 decides what is None."""
        spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        template = {"LaunchTemplateName": self.launch_template, "Version": TEMPLATE_VERSION}
        every = {
            "InstanceType": self.instance_type,
            "InstanceInitiatedShutdownBehavior": self.shutdown_behavior,
            "ImageId": self.image_id,
            "UserData": self.user_data,
            "SubnetId": self.subnet_id,
            "InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": spot} if self.market == "spot" else None,
            "LaunchTemplate": template if self.launch_template else None,
            "MetadataOptions": None if self.launch_template else METADATA_OPTIONS,
        }
        return {name: value for name, value in every.items() if value}


@dataclass(frozen=True)
class Fleet:
    """The instances with `name` as their `Name` tag."""

    client: "EC2Client"
    name: str

    def instances(self, states: Sequence[str] = (*ALIVE, "stopping", "stopped")) -> list[Instance]:
        """Return the fleet's instances in any of `states`, oldest first."""
        pages = self.client.get_paginator("describe_instances").paginate(
            Filters=[
                {"Name": "tag:Name", "Values": [self.name]},
                {"Name": "instance-state-name", "Values": list(states)},
            ],
            PaginationConfig={"PageSize": DESCRIBED_AT_ONCE},
        )
        found = [
            _instance(described)
            for page in pages
            for reservation in page["Reservations"]
            for described in reservation["Instances"]
        ]
        return sorted(found, key=lambda instance: (instance.launched_at, instance.instance_id))

    def default_version(self, template: str) -> str:
        """Return id and default version of this launch template, as `lt-1:2`; empty if it does not exist."""
        by_name: FilterTypeDef = {"Name": "launch-template-name", "Values": [template]}
        found = self.client.describe_launch_templates(Filters=[by_name])["LaunchTemplates"]
        return _version(found[0]["LaunchTemplateId"], str(found[0]["DefaultVersionNumber"])) if found else ""

    def launch(self, spec: LaunchSpec, count: int, token: str) -> list[Instance]:
        """Launch up to `count` instances, at least one.

        Args:
            spec: what to launch.
            count: maximum; EC2 launches fewer if capacity is short.
            token: ClientToken, up to 64 ASCII characters; the same token launches only once.

        Raises:
            LaunchError: EC2 rejects the launch: capacity, quota, throttling, a wrong parameter.
        """
        # All tags of an instance and its disk, also those that the launch template has: parameters of a launch
        # "overwrite the corresponding parameters included in the launch template".
        # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
        prefix = self.name.removesuffix(WORKER_SUFFIX)
        tags: list[TagTypeDef] = [{"Key": STACK_TAG, "Value": prefix}, {"Key": "Name", "Value": self.name}]
        try:
            reply = self.client.run_instances(
                MinCount=1,
                MaxCount=count,
                ClientToken=token,
                TagSpecifications=[
                    {"ResourceType": "instance", "Tags": tags},
                    {"ResourceType": "volume", "Tags": tags},
                ],
                **spec.parameters(),
            )
        except ClientError as error:
            raise _refusal(error) from error
        return [_instance(described) for described in reply["Instances"]]

    def start(self, instance_ids: Sequence[str]) -> None:
        """Start stopped instances.

        Raises:
            LaunchError: EC2 rejects the start, for example for lack of capacity.
        """
        try:
            self.client.start_instances(InstanceIds=list(instance_ids))
        except ClientError as error:
            raise _refusal(error) from error

    def request_drain(self, instance_ids: Sequence[str]) -> None:
        """Ask the workers on these instances to finish their images and end; repeating it changes nothing."""
        if instance_ids:
            self.client.create_tags(Resources=list(instance_ids), Tags=[{"Key": DRAIN_TAG, "Value": "asked"}])

    def cancel_drain(self, instance_ids: Sequence[str]) -> None:
        """Remove the tag of these stopped instances; otherwise their workers would end again once started."""
        if instance_ids:
            self.client.delete_tags(Resources=list(instance_ids), Tags=[{"Key": DRAIN_TAG}])

    def protect(self, instance_ids: Sequence[str]) -> None:
        """Protect these instances from scale-in, so their workers stay when idle; repeating it changes nothing."""
        if instance_ids:
            self.client.create_tags(Resources=list(instance_ids), Tags=[{"Key": PROTECTED_TAG, "Value": "asked"}])

    def unprotect(self, instance_ids: Sequence[str]) -> None:
        """End the scale-in protection of these instances: their workers end when they are idle."""
        if instance_ids:
            self.client.delete_tags(Resources=list(instance_ids), Tags=[{"Key": PROTECTED_TAG}])

    def terminate(self, instance_ids: Sequence[str]) -> None:
        """Terminate instances."""
        if instance_ids:
            self.client.terminate_instances(InstanceIds=list(instance_ids))

    def console_output(self, instance_id: str) -> str:
        """Return the latest console output of an instance."""
        return console_of(self.client, instance_id)


def console_of(client: "EC2Client", instance_id: str) -> str:
    """Return the latest console output of an instance, or what EC2 has of it: up to 64 KB, or empty.

    Without `Latest`, EC2 returns the output shortly after the last change of state. Only Nitro instances support
    `Latest`.
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-console.html
    """
    try:
        return client.get_console_output(InstanceId=instance_id, Latest=True).get("Output", "")
    except ClientError as error:
        if error.response["Error"]["Code"] != "UnsupportedOperation":
            raise
    return client.get_console_output(InstanceId=instance_id).get("Output", "")


def _refusal(error: ClientError) -> LaunchError:
    details = error.response["Error"]
    retries = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
    return LaunchError(details["Code"], readable(details.get("Message", "")), retries)


def _version(template_id: str, version: str) -> str:
    return f"{template_id}:{version}" if template_id and version else ""


def _instance(described: Any) -> Instance:
    tags = {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])}
    state, reason = described["State"]["Name"], described.get("StateReason", {}).get("Code")
    return Instance(
        instance_id=described["InstanceId"],
        state=state,
        instance_type=described["InstanceType"],
        zone=described.get("Placement", {}).get("AvailabilityZone", ""),
        launched_at=described["LaunchTime"],
        draining=DRAIN_TAG in tags,
        protected=PROTECTED_TAG in tags,
        spot=described.get("InstanceLifecycle") == "spot",
        client_token=described.get("ClientToken", ""),
        failed_to_start=reason in FAILED_STARTS,
        has_ended=state in {"terminated", "stopped"} or (state not in ALIVE and reason == SHUT_ITSELF_DOWN),
        template_version=_version(tags.get(TEMPLATE_TAG, ""), tags.get(VERSION_TAG, "")),
    )
