"""Checks whether web instances, workers and builders can be launched in the network of the stack."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from scripts.aws.bake.spec import (
    ENGINE_TAG,
    BakeError,
    disk_gib,
    newest_debian,
    tag_specifications,
)
from scripts.aws.context import DENIED_CODES, TAG, explain_error
from scripts.aws.deploy.network import route_tables
from scripts.aws.preflight.findings import Finding, Level, PreflightCheck, StackPlan
from scripts.aws.preflight.quotas import check_quota
from services.clock import utc_now

if TYPE_CHECKING:
    from mypy_boto3_ec2.literals import InstanceTypeType

ACCOUNT_CODES = {"Blocked", "OptInRequired", "PendingVerification"}
"""Error codes of an account that EC2 does not allow to launch anything yet, or any more; the message says why."""

TRANSIENT_CODES = {"InsufficientInstanceCapacity", "InternalError", "RequestLimitExceeded", "Unavailable"}
"""Error codes of EC2 that may disappear a moment later."""

DISK_GIB = disk_gib("worker", "torch")
"""Disk of a trial launch, in GiB: EC2 rejects a disk that is smaller than the image, and this is our largest."""


def check_network(plan: StackPlan) -> Iterable[Finding]:
    """Find subnets without a route to the internet."""
    by_answer: dict[tuple[Level, str], list[str]] = {}
    for subnet_id, table in route_tables(plan.account, plan.network["VpcId"], plan.subnet_ids).items():
        routes: Sequence[Any] = [] if table is None else table["Routes"]
        active = [each for each in routes if each["State"] == "active"]
        out = [each for each in active if each.get("DestinationCidrBlock") == "0.0.0.0/0"]
        if table is None:
            answer = Level.WARNING, "unknown: EC2 shows no route table"
        elif not out:
            answer = Level.STOP, "no route to the internet, by which instances call AWS"
        elif not out[0].get("GatewayId", "").startswith("igw-"):
            answer = (
                Level.WARNING,
                "a route to the internet without an internet gateway, so the page cannot be reached",
            )
        else:
            answer = Level.OK, "a route to an internet gateway"
        by_answer.setdefault(answer, []).append(subnet_id)
    for (level, words), subnet_ids in by_answer.items():
        remedy = f"Name subnets with a route to an internet gateway by {plan.subnet_option}"
        yield Finding(level, f"{', '.join(subnet_ids)}: {words}", "" if level == Level.OK else remedy)


def check_types(plan: StackPlan) -> Iterable[Finding]:
    """Find instance types that the zones of the subnets do not offer."""
    ec2 = plan.account.ec2
    zones = {each["AvailabilityZone"] for each in ec2.describe_subnets(SubnetIds=plan.subnet_ids)["Subnets"]}
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": plan.types}, {"Name": "location", "Values": sorted(zones)}],
    )
    offers = {(each["InstanceType"], each["Location"]) for page in pages for each in page["InstanceTypeOfferings"]}
    offered = {kind: {zone for zone in zones if (kind, zone) in offers} for kind in plan.types}
    for kind, offering in offered.items():
        words = f"{kind} is offered in {', '.join(sorted(offering)) or 'no zone of the subnets'}"
        if offering < zones:
            words += f", and not in {', '.join(sorted(zones - offering))}"
        if offering == zones or len(offering) > 1:  # a launch that one zone rejects is repeated in another
            yield Finding(Level.OK, words)
        else:
            level = (
                Level.WARNING
                if offering
                else _launch_level(plan, kind, [each for each in offered if not offered[each]])
            )
            yield Finding(
                level, words, f"Name another type or other subnets: {plan.type_option}, {plan.subnet_option}"
            )


def check_launch(plan: StackPlan) -> Iterable[Finding]:
    """Find types that the account may not launch, by dry runs of launches.

    EC2 answers DryRunOperation to a valid request of a caller with the rights, which an organisation's policy may
    limit. Such an answer promises neither capacity nor room in a quota.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
    """
    try:
        images = _launch_images(plan)
    except BakeError as error:
        yield Finding(Level.STOP, str(error))
        return
    refused = {kind: refusal for kind in plan.types if (refusal := _launch_error(plan, kind, images[kind]))}
    for kind, refusal in refused.items():
        code = refusal.response["Error"]["Code"]
        is_unknown = code in TRANSIENT_CODES or "default security group" in str(refusal)  # the stack has its own
        level = Level.WARNING if is_unknown else _launch_level(plan, kind, list(refused))
        remedy = f"Name another type: {plan.type_option}"
        if code in TRANSIENT_CODES:
            remedy = "Try again"
        elif "Free Tier" in str(refusal):
            remedy = _free_plan_remedy(plan)
        elif code in {*DENIED_CODES, *ACCOUNT_CODES} or "architecture" in str(refusal) or is_unknown:
            remedy = ""  # which the explanation, or the finding of `check_images`, holds
        yield Finding(level, f"EC2 refuses a dry run of {kind}: {explain_error(refusal)}", remedy)
    if launched := [kind for kind in plan.types if kind not in refused]:
        words = f"EC2 accepts a dry run of {', '.join(launched)}, which promises neither capacity nor quota"
        yield Finding(Level.OK, words)


def check_free_plan(plan: StackPlan) -> Iterable[Finding]:
    """Find instance types and images that AWS's Free plan does not allow, if the account is on it.

    EC2 refuses both: "The specified instance type is not eligible for Free Tier", or "image".
    https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_freetier_GetAccountPlanState.html
    """
    if plan.account.partition != "aws":  # other partitions have no such plan
        return
    try:
        is_free = plan.account.freetier.get_account_plan_state()["accountPlanType"] == "FREE"
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        is_free = False
    if not is_free:
        yield Finding(Level.OK, "the account is not on AWS's Free plan, which limits types and images")
        return
    lost = [kind for kind in plan.types if not plan.instance_types[kind].is_in_free_plan]
    for kind in lost:
        words = f"AWS's Free plan does not have {kind}"
        yield Finding(_launch_level(plan, kind, lost), words, _free_plan_remedy(plan))
    ids = sorted(set(_launch_images(plan).values()))
    images = plan.account.ec2.describe_images(ImageIds=ids)["Images"]
    if refused := [each["ImageId"] for each in images if not each.get("FreeTierEligible")]:
        words = f"EC2 does not list {', '.join(refused)} as eligible for AWS's Free plan, and may refuse to launch it"
        yield Finding(Level.WARNING, words, "If so, leave the plan in the console of Billing")
    if not lost and not refused:
        yield Finding(Level.OK, "AWS's Free plan has the instance types and images")


def _free_plan_remedy(plan: StackPlan) -> str:
    types = f"name one of its types, such as c7i-flex.large: {plan.type_option}"
    return f"Leave AWS's Free plan in the console of Billing, or {types}"


def _launch_images(plan: StackPlan) -> dict[str, str]:
    """Return the id of the image that each type launches: that of its role, or Debian's for its builder.

    Raises:
        BakeError: Debian has no image for a type.
    """
    stored = {kind: plan.images.get("web" if kind == plan.web_type else "worker") for kind in plan.types}
    return {
        kind: image_id or newest_debian(plan.account.ec2, plan.instance_types[kind]).image_id
        for kind, image_id in stored.items()
    }


MAX_IMAGE_DAYS = 30
"""Age of a machine image above which the check recommends a new one: an instance installs no fixes of its kernel."""


def check_images(plan: StackPlan) -> Iterable[Finding]:
    """Find images with another architecture than their types, with another engine than configured, and old ones."""
    ids = list(plan.images.values())
    there = plan.account.ec2.describe_images(ImageIds=ids)["Images"] if ids else []
    of_image = {each["ImageId"]: each.get("Architecture", "") for each in there}
    engines = {
        each["ImageId"]: tag["Value"] for each in there for tag in each.get("Tags", []) if tag["Key"] == ENGINE_TAG
    }
    wanted = {"web": [plan.web_type], "worker": list(plan.fleet.instance_types)}
    wrong = []
    for role, image_id in plan.images.items():
        for kind in wanted[role]:
            found = plan.instance_types[kind].architecture
            if found != of_image.get(image_id, found):
                words = f"{kind} is {found}, and the {role}'s image {image_id} is {of_image[image_id]}"
                level = Level.STOP if kind == wanted[role][0] else Level.WARNING
                remedy = f"Bake on such a type: `fleetsight bake --role {role} --instance-type {kind}`"
                wrong.append(Finding(level, words, remedy))
    worker_image = plan.images.get("worker")
    if plan.config.worker.engine == "torch" and worker_image and engines.get(worker_image) != "torch":
        # An image without the tag may be one of the user's own.
        level = Level.STOP if worker_image in engines else Level.WARNING
        words = (
            f"the configuration has the engine torch, and the workers' image {worker_image} was baked without torch"
        )
        wrong.append(Finding(level, words, "Bake one: `fleetsight bake --role worker --engine torch`"))
    by_id = {image_id: role for role, image_id in plan.images.items()}
    for image in there:
        created = image.get("CreationDate")
        days = (utc_now() - datetime.fromisoformat(created)).days if created else 0
        if days > MAX_IMAGE_DAYS:
            words = f"the {by_id[image['ImageId']]}'s image {image['ImageId']} is {days} days old"
            wrong.append(Finding(Level.WARNING, words, "`fleetsight up --rebake` takes the fixes since"))
    yield from wrong or [
        Finding(Level.OK, "images are for the architecture of their instance types and for the engine")
    ]


def check_gpus(plan: StackPlan) -> Iterable[Finding]:
    """Find worker types with a GPU that the engine does not use, or without the GPU that it needs."""
    engine = plan.config.worker.engine
    kinds = [plan.instance_types[kind] for kind in plan.fleet.instance_types]
    wrong = [kind.name for kind in kinds if (kind.gpus > 0) != (engine == "torch")]
    names = ", ".join(wrong)
    if not wrong:
        yield Finding(Level.OK, f"the engine {engine} uses what the workers' instance types have")
    elif engine == "torch":
        words = f"{names} has no GPU of NVIDIA's: the engine torch computes on its CPU, where openvino is faster"
        yield Finding(Level.WARNING, words, "Name types such as g4dn.xlarge by --config fleet.instance_types=[TYPE]")
    else:
        words = f"{names} has a GPU, which the engine openvino does not use"
        yield Finding(Level.WARNING, words, "Give --config worker.engine=torch, or name types without a GPU")


def _launch_error(plan: StackPlan, kind: str, image_id: str) -> ClientError | None:
    """Return the error of a launch in all subnets, or None if EC2 would launch the instance in one of them."""
    instance_type: InstanceTypeType = kind  # type: ignore[assignment]  # EC2 checks it
    refusal = None
    for subnet_id in plan.subnet_ids:
        try:
            plan.account.ec2.run_instances(
                DryRun=True,
                ImageId=image_id,
                InstanceType=instance_type,
                MinCount=1,
                MaxCount=1,
                SubnetId=subnet_id,
                MetadataOptions={"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
                BlockDeviceMappings=[
                    {
                        "DeviceName": "/dev/xvda",
                        "Ebs": {"VolumeType": "gp3", "VolumeSize": DISK_GIB, "Encrypted": True},
                    }
                ],
                TagSpecifications=tag_specifications({TAG: plan.context.prefix}, "instance", "volume"),
            )
        except ClientError as error:
            refusal = error
        if refusal is None or refusal.response["Error"]["Code"] == "DryRunOperation":
            return None
        if refusal.response["Error"]["Code"] != "Unsupported":  # which says that the zone does not have the type
            break
    return refusal


def _launch_level(plan: StackPlan, kind: str, lost: Sequence[str]) -> Level:
    """Return the level of a type that cannot be launched: the stack can do without one of several worker types."""
    is_needed = kind == plan.web_type or all(each in lost for each in plan.fleet.instance_types)
    return Level.STOP if is_needed else Level.WARNING


NETWORK_CHECKS: Mapping[str, PreflightCheck] = {
    "network": check_network,
    "types": check_types,
    "images": check_images,
    "gpus": check_gpus,
    "launch": check_launch,
    "free plan": check_free_plan,
}
"""The checks that need the network of the stack."""

BUILDER_CHECKS: Mapping[str, PreflightCheck] = {
    "quota": check_quota,
    "network": check_network,
    "types": check_types,
    "launch": check_launch,
    "free plan": check_free_plan,
}
"""The checks whether builders can be launched."""
