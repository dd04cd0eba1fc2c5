"""Checks whether web instances, workers and builders can be launched in the network of the stack."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from scripts.aws.bake.spec import (
    DEBIAN_OWNER,
    ENGINE_TAG,
    BakeError,
    disk_gib,
    newest_debian,
    tag_specifications,
)
from scripts.aws.context import DENIED_CODES, TAG, explain_error
from scripts.aws.deploy.network import route_tables
from scripts.aws.preflight.findings import Finding, Level, PreflightCheck, StackPlan
from services.clock import utc_now

if TYPE_CHECKING:
    from mypy_boto3_ec2.literals import InstanceTypeType
    from mypy_boto3_ec2.type_defs import FilterTypeDef

STANDARD = {"on_demand": "L-1216C47A", "spot": "L-34B43A08"}

GRAPHICS = {"on_demand": "L-DB2E81BA", "spot": "L-3819A6DF"}
"""Codes of EC2's quotas, which count vCPUs, by market.

https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
"""

FAMILIES = {
    **dict.fromkeys(("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"), STANDARD),
    **dict.fromkeys(("g", "gr", "vt"), GRAPHICS),
}
"""The quotas of an instance type, by the first letters of its name."""

TRANSIENT_CODES = {"InsufficientInstanceCapacity", "InternalError", "RequestLimitExceeded", "Unavailable"}
"""Error codes of EC2 that may disappear a moment later."""

DISK_GIB = disk_gib("worker", "torch")
"""Disk of a trial launch, in GiB: EC2 rejects a disk that is smaller than the image, and this is our largest."""

OTHER_TYPE = "--set WebInstanceType=TYPE, --config fleet.instance_types=[TYPE]"


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
        remedy = "" if level == Level.OK else "Name subnets with a route to an internet gateway by --subnets"
        yield Finding(level, f"{', '.join(subnet_ids)}: {words}", remedy)


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
            yield Finding(level, words, f"Name another type or other subnets: {OTHER_TYPE}, --subnets")


def check_launch(plan: StackPlan) -> Iterable[Finding]:
    """Find types that the account may not launch, by dry runs of launches.

    EC2 answers DryRunOperation if it would launch. AWS promises that such a launch checks the caller's rights, which
    an organisation's policy may limit. EC2 also refuses images and types that it does not allow the account.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
    """
    ec2, images = plan.account.ec2, plan.images
    refused = {}
    for kind in plan.types:
        image_id = images.get("web" if kind == plan.web_type else "worker")
        if image_id is None:
            try:
                image_id = newest_debian(ec2, plan.instance_types[kind]).image_id
            except BakeError as error:
                yield Finding(
                    Level.STOP, str(error), f"If the account has Allowed AMIs, allow those of {DEBIAN_OWNER}"
                )
                return
        if refusal := _launch_error(plan, kind, image_id):
            refused[kind] = refusal
    for kind, refusal in refused.items():
        code = refusal.response["Error"]["Code"]
        is_unknown = code in TRANSIENT_CODES or "default security group" in str(refusal)  # the stack has its own
        level = Level.WARNING if is_unknown else _launch_level(plan, kind, list(refused))
        remedy = f"Name another type: {OTHER_TYPE}"
        if code == "InvalidParameterCombination":
            remedy = f"On AWS's Free plan name a type of it, such as c7i-flex.large: {OTHER_TYPE}"
        elif code in TRANSIENT_CODES:
            remedy = "Try again"
        elif code in DENIED_CODES or "architecture" in str(refusal) or is_unknown:
            remedy = ""  # which the explanation, or the finding of `check_images`, holds
        yield Finding(level, f"EC2 would not launch {kind}: {explain_error(refusal)}", remedy)
    if launched := [kind for kind in plan.types if kind not in refused]:
        yield Finding(Level.OK, f"EC2 would launch {', '.join(launched)}")


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
            wrong.append(Finding(Level.WARNING, words, "`fleetsight bake` takes the security fixes since"))
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


def check_quota(plan: StackPlan) -> Iterable[Finding]:
    """Find quotas that are too small for the web instances, the builders, or the largest fleet.

    A quota counts the vCPUs of all instances of the account in the region. Only for a stack that exists, the check
    reads which instances run.
    """
    fleet, web = plan.fleet, plan.web_type
    cpus = {name: kind.vcpus for name, kind in plan.instance_types.items()}
    codes = {(web, "on_demand"), *((kind, market) for kind in fleet.instance_types for market in plan.markets)}
    quotas = {each: code for each in codes if (code := quota_code(*each))}
    limits = {
        code: int(plan.account.quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
        for code in sorted(set(quotas.values()))
    }
    for kind, market in sorted(codes - set(quotas)):
        yield Finding(Level.WARNING, f"unknown: which quota counts the vCPUs of {kind} ({market})")
    web_code = quotas.get((web, "on_demand"))
    if web_code:
        # An update of the stack launches the first new web instance before it ends an old one; a bake on a small
        # quota builds one image after the other.
        at_once = cpus[web] * (plan.web_instances + (not plan.is_new))
        if limits[web_code] < at_once:
            words = f"{limits[web_code]} vCPUs may run on demand; the web tier or a builder needs {at_once} at once"
            yield Finding(Level.STOP, words, _increase_command(web_code, at_once))
            return
        if not plan.is_new and (used := _used_vcpus(plan, web_code)) + cpus[web] > limits[web_code]:
            words = f"{used} of {limits[web_code]} vCPUs are in use, so no new web instance can replace an old one"
            increase = _increase_command(web_code, used + cpus[web])
            yield Finding(Level.WARNING, words, f"Let workers end before a change that replaces it. {increase}")
        limits[web_code] -= cpus[web] * plan.web_instances
    workers = {
        (kind, market): limits[quotas[kind, market]] // cpus[kind]
        for kind in fleet.instance_types
        for market in plan.markets
        if (kind, market) in quotas
    }
    first = (fleet.instance_types[0], fleet.market)
    if first not in workers or not fleet.max_workers:
        return
    words = f"enough for {workers[first]} of {fleet.max_workers} workers (fleet.max_workers) of the type {first[0]}"
    if workers[first] >= fleet.max_workers:
        yield Finding(Level.OK, words)
        return
    level = Level.WARNING if max(workers.values()) > 0 else Level.STOP
    vcpus = fleet.max_workers * cpus[first[0]] + (cpus[web] * plan.web_instances if quotas[first] == web_code else 0)
    yield Finding(level, words, _increase_command(quotas[first], vcpus))


def _used_vcpus(plan: StackPlan, code: str) -> int:
    """Return the vCPUs of the account's running on-demand instances that a quota counts."""
    running: FilterTypeDef = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    pages = plan.account.ec2.get_paginator("describe_instances").paginate(Filters=[running])
    instances = (each for page in pages for group in page["Reservations"] for each in group["Instances"])
    return sum(
        cpu.get("CoreCount", 0) * cpu.get("ThreadsPerCore", 0)
        for each in instances
        for cpu in [each.get("CpuOptions", {})]
        if "InstanceLifecycle" not in each and quota_code(each["InstanceType"], "on_demand") == code
    )


def quota_code(instance_type: str, market: str) -> str | None:
    """Return the code of the quota that counts the vCPUs of a type, or None if it is unknown."""
    letters = re.match("[a-z]*", instance_type)
    return FAMILIES.get(letters[0] if letters else "", {}).get(market)


def _increase_command(code: str, vcpus: int) -> str:
    command = "aws service-quotas request-service-quota-increase --service-code ec2"
    return f"Ask for more: `{command} --quota-code {code} --desired-value {vcpus}`"


NETWORK_CHECKS: Mapping[str, PreflightCheck] = {
    "network": check_network,
    "types": check_types,
    "images": check_images,
    "gpus": check_gpus,
    "launch": check_launch,
}
"""The checks that need the network of the stack."""
