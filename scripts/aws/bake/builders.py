"""Builders: instances that turn themselves into an image, report, and stop. They have no role, and no port is open.

A builder stands in a public subnet, in a security group that allows only HTTPS out.
"""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, ValidationError

import ami
from scripts.aws.bake.spec import (
    ARCHIVE_TAG,
    BASE_TAG,
    ROLE_TAG,
    RUN_TAG,
    BakeError,
    BuilderError,
    ImageSpec,
    disk_gib,
    role_tags,
    tag_filters,
    tag_specifications,
)
from scripts.aws.buckets import log_key, presigned_url, report_key, source_key
from scripts.aws.context import TAG, AwsContext

if TYPE_CHECKING:
    from mypy_boto3_ec2.literals import InstanceTypeType
    from mypy_boto3_ec2.type_defs import InstanceTypeDef, IpPermissionTypeDef, SecurityGroupTypeDef

HTTPS_OUT: "IpPermissionTypeDef" = {
    "IpProtocol": "tcp",
    "FromPort": 443,
    "ToPort": 443,
    "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "S3, packages"}],
}
"""The only traffic that a builder may send; security groups do not filter requests to the VPC's own DNS server."""

GROUP_SECONDS = 120.0
"""The longest wait until a security group exists, and until EC2 lets go of a deleted builder's group."""

BUILDER_SCRIPT = Path(next(iter(ami.__path__))) / "builder.py"
PROVISION_SECONDS = 3000

MAX_LIFE_MINUTES = 55
"""A builder shuts itself down after this time in any case, before its presigned URLs expire."""

TERMINATE_SECONDS = 300.0

UNAVAILABLE = {"InsufficientInstanceCapacity", "InvalidParameterCombination", "Unsupported"}
"""Error codes after which another zone or another type may work: EC2 has no capacity left, does not offer the type,
or the account may not launch it, as on AWS's Free plan.
"""

QUOTA_CODES = {"VcpuLimitExceeded", "InstanceLimitExceeded"}
"""Error codes of a launch for which the vCPUs of running instances leave no room, in whichever zone.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

BUILDER_STATES = ("pending", "running", "stopping", "stopped")
MAX_LOG_LINES = 20


def builder_subnets(context: AwsContext, subnet_ids: Sequence[str]) -> tuple[str, list[str]]:
    """Return a VPC and its subnets to try: the given ones, or the default subnets of the default VPC.

    Raises:
        BakeError: no subnet is given, and the region has no default VPC.
    """
    ec2 = context.account.ec2
    if subnet_ids:
        return ec2.describe_subnets(SubnetIds=[subnet_ids[0]])["Subnets"][0]["VpcId"], list(subnet_ids)
    found = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    if not found:
        raise BakeError(
            f"{context.account.region_name} has no default VPC: name a subnet with a way to the internet by --subnet"
        )
    found.sort(key=lambda subnet: subnet["AvailabilityZone"])
    return found[0]["VpcId"], [subnet["SubnetId"] for subnet in found]


def ensure_security_group(context: AwsContext, role: str, vpc_id: str) -> str:
    """Return the id of the security group of a role's builder; create or complete the group if necessary."""
    group = find_security_group(context, role)
    if group is not None and group["VpcId"] != vpc_id:
        delete_security_group(context, role)
        group = None
    if group is None:
        name = context.builder_name(role)
        context.account.ec2.create_security_group(
            GroupName=name,
            Description="A builder of machine images, which calls and is never called",
            VpcId=vpc_id,
            TagSpecifications=tag_specifications(role_tags(context, role, {"Name": name}), "security-group"),
        )
        context.report_change(f"made the security group {name}")
        group = context.waiter.until(
            lambda: find_security_group(context, role), f"the security group {name}", seconds=GROUP_SECONDS
        )
    _allow_https_only(context, group)
    return group["GroupId"]


def find_security_group(context: AwsContext, role: str) -> "SecurityGroupTypeDef | None":
    """Return the security group of a role's builder, or None if it does not exist."""
    wanted = tag_filters(role_tags(context, role), group_name=[context.builder_name(role)])
    return next(iter(context.account.ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]), None)


def delete_security_group(context: AwsContext, role: str) -> None:
    """Delete the security group of a role's builder, once no instance uses it.

    Raises:
        TimedOutError: something still uses it.
    """
    group = find_security_group(context, role)
    if group is None:
        return

    def deleted() -> bool | None:
        try:
            context.account.ec2.delete_security_group(GroupId=group["GroupId"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "DependencyViolation":
                return None
            if error.response["Error"]["Code"] != "InvalidGroup.NotFound":
                raise
        return True

    context.waiter.until(deleted, f"{group['GroupId']} to be of no more use", seconds=GROUP_SECONDS)
    context.report_change(f"deleted the security group {group['GroupName']}")


def _allow_https_only(context: AwsContext, group: "SecurityGroupTypeDef") -> None:
    """Allow the group to send HTTPS only; EC2 lets a new group send anything anywhere."""
    ec2, group_id = context.account.ec2, group["GroupId"]
    allowed = group["IpPermissionsEgress"]
    if (more := [each for each in allowed if each.get("FromPort") != 443]) != []:
        ec2.revoke_security_group_egress(GroupId=group_id, IpPermissions=more)
        context.report_change(f"took from {group_id} what it may send")
    if more == allowed:
        ec2.authorize_security_group_egress(GroupId=group_id, IpPermissions=[HTTPS_OUT])
        context.report_change(f"let {group_id} send by HTTPS")


class QuotaUsedError(BakeError):
    """Raised when the account's running instances leave no vCPUs for a builder."""


@dataclass(frozen=True)
class Builder:
    """An existing builder; `run` identifies its report."""

    instance_id: str
    role: str
    run: str
    state: str


@dataclass(frozen=True)
class BuilderConfig:
    """How builders are launched.

    Attributes:
        new_run: returns a new name of a run, up to 64 ASCII characters.
        instance_type: of a builder; the image runs on other types as well.
        subnet_ids: of one VPC, tried in this order; empty for the default subnets.
    """

    new_run: Callable[[], str]
    instance_type: str = "c7a.large"
    subnet_ids: tuple[str, ...] = ()


def list_builders(context: AwsContext, roles: Sequence[str], spec: ImageSpec | None = None) -> list[Builder]:
    """Return the existing builders of these roles: all of them, or those of one spec."""
    same = {} if spec is None else {key: spec.tags()[key] for key in (ROLE_TAG, ARCHIVE_TAG, BASE_TAG)}
    wanted = tag_filters({TAG: context.prefix, **same}, tag_key=[RUN_TAG], instance_state_name=BUILDER_STATES)
    pages = context.account.ec2.get_paginator("describe_instances").paginate(Filters=wanted)
    found = [_parse_builder(each) for page in pages for group in page["Reservations"] for each in group["Instances"]]
    return [builder for builder in found if builder.role in roles]


def describe_builder(context: AwsContext, builder: Builder) -> Builder:
    """Return the builder in its present state, or unchanged while EC2 does not list it yet."""
    try:
        found = context.account.ec2.describe_instances(InstanceIds=[builder.instance_id])["Reservations"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "InvalidInstanceID.NotFound":
            return builder
        raise
    return _parse_builder(found[0]["Instances"][0])


def launch_builder(context: AwsContext, spec: ImageSpec, builder_config: BuilderConfig) -> Builder:
    """Launch a builder for `spec` in the first zone that has capacity.

    Raises:
        QuotaUsedError: running instances use up the account's vCPUs.
        BakeError: no zone has capacity, or there is no network to launch it in.
    """
    vpc_id, subnet_ids = builder_subnets(context, builder_config.subnet_ids)
    group_id = ensure_security_group(context, spec.role, vpc_id)
    refused = ""
    for subnet_id in subnet_ids:
        try:
            builder = _run_instance(context, spec, builder_config, group_id, subnet_id)
        except ClientError as error:
            if error.response["Error"]["Code"] in QUOTA_CODES:
                raise QuotaUsedError(str(error)) from error
            if error.response["Error"]["Code"] not in UNAVAILABLE:
                raise
            refused = str(error)
        else:
            context.report_change(f"launched {builder.instance_id}, which builds the {spec.role}'s image")
            return builder
    raise BakeError(f"no zone has a {builder_config.instance_type}: name another --instance-type ({refused})")


def _run_instance(
    context: AwsContext, spec: ImageSpec, builder_config: BuilderConfig, group_id: str, subnet_id: str
) -> Builder:
    run = builder_config.new_run()
    tags = {TAG: context.prefix, "Name": context.builder_name(spec.role), RUN_TAG: run, **spec.tags()}
    instance_type: InstanceTypeType = builder_config.instance_type  # type: ignore[assignment]  # EC2 checks it
    reply = context.account.ec2.run_instances(
        ImageId=spec.base.image_id,
        InstanceType=instance_type,
        MinCount=1,
        MaxCount=1,
        ClientToken=run,
        SubnetId=subnet_id,
        SecurityGroupIds=[group_id],
        UserData=user_data(context, spec, run),  # type: ignore[arg-type]  # bytes are encoded as text is
        InstanceInitiatedShutdownBehavior="stop",
        MetadataOptions={"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        BlockDeviceMappings=[
            {
                "DeviceName": spec.base.root_device,
                "Ebs": {
                    "VolumeType": "gp3",
                    "VolumeSize": disk_gib(spec.role, spec.source.facts.engine),
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        TagSpecifications=tag_specifications(tags, "instance", "volume"),
    )
    return _parse_builder(reply["Instances"][0])


def user_data(context: AwsContext, spec: ImageSpec, run: str) -> bytes:
    """Return the script that builds the image, with presigned URLs that are valid for an hour.

    The script is compressed, and cloud-init unpacks it: URLs signed with temporary credentials contain a long token,
    and EC2 accepts 16 KB of user data. https://cloudinit.readthedocs.io/en/latest/explanation/format.html
    """
    settings = {
        "role": spec.role,
        "archive": spec.source.facts.sha256,
        "source_url": presigned_url(context, "get_object", source_key(spec.source)),
        "report_url": presigned_url(context, "put_object", report_key(spec.role, run)),
        "log_url": presigned_url(context, "put_object", log_key(spec.role, run)),
        "options": ["--agents"],
        "apt": "/etc/apt",
        "version_file": "/opt/fleetsight/version.json",
        "provision_seconds": PROVISION_SECONDS,
        "life_minutes": MAX_LIFE_MINUTES,
    }
    return gzip.compress(builder_script(settings).encode(), mtime=0)


def builder_script(settings: Mapping[str, object]) -> str:
    """Return `ami/builder.py` as a program with these settings."""
    return f"#!/usr/bin/env python3\n{BUILDER_SCRIPT.read_text()}\n\nmain(json.loads({json.dumps(settings)!r}))\n"


def terminate_builders(context: AwsContext, roles: Sequence[str]) -> None:
    """Terminate all builders of these roles, and wait until they no longer exist.

    Raises:
        TimedOutError: a builder still exists after five minutes.
    """
    builders = list_builders(context, roles)
    for builder in builders:
        context.account.ec2.terminate_instances(InstanceIds=[builder.instance_id])
        context.report_change(f"ended the builder {builder.instance_id}")
    if builders:
        context.waiter.until(
            lambda: not list_builders(context, roles), "the builders to be gone", seconds=TERMINATE_SECONDS
        )


def _parse_builder(described: "InstanceTypeDef") -> Builder:
    tags = {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])}
    return Builder(described["InstanceId"], tags.get(ROLE_TAG, ""), tags.get(RUN_TAG, ""), described["State"]["Name"])


class ImageVersion(BaseModel):
    """The `version.json` of an image."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    version: str
    commit: str
    role: str
    bundle: str
    engine: str


class BuilderReport(BaseModel):
    """A builder's report, as `ami/builder.py` writes it.

    Attributes:
        ok: whether it has built the image.
        problem: why it has not; else empty.
        seconds: how long the build took.
        archive: SHA-256 of the source archive that it was given.
        image: version of the image, or None if it was not built.
        log_tail: the last lines of its log.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    ok: bool
    problem: str = ""
    role: str
    archive: str
    seconds: float = 0.0
    image: ImageVersion | None = None
    log_tail: tuple[str, ...] = ()


def verify_report(text: bytes | None, spec: ImageSpec) -> BuilderReport:
    """Return the report of a builder that has built the image of `spec`.

    Raises:
        BuilderError: it has failed, has built another image, or has reported nothing.
    """
    if text is None:
        raise BuilderError(
            f"the {spec.role}'s builder has ended without a report. It reports to a presigned address that "
            "expires with the caller's credentials. If they are temporary (single sign-on, a role), sign in again, "
            "then bake again",
            "",
        )
    try:
        report = BuilderReport.model_validate_json(text)
    except ValidationError as error:
        raise BuilderError(f"the {spec.role}'s builder has reported {text[:200]!r}: {error}", "") from error
    log = "\n".join(report.log_tail[-MAX_LOG_LINES:])
    if not report.ok:
        raise BuilderError(f"the {spec.role}'s builder has failed: {report.problem}", log)
    facts = spec.source.facts
    image = report.image or ImageVersion(version="", commit="", role="", bundle="", engine="")
    compared = [
        ("source archive", report.archive, facts.sha256),
        ("role", image.role, spec.role),
        ("version", image.version, facts.version),
        ("commit", image.commit, facts.commit),
        ("bundle", image.bundle, facts.bundle_digest),
        ("engine", image.engine, facts.engine),
    ]
    if wrong := [f"{name} {actual!r} and not {wanted!r}" for name, actual, wanted in compared if actual != wanted]:
        raise BuilderError(f"the {spec.role}'s builder has made another image: {', '.join(wrong)}", log)
    return report
