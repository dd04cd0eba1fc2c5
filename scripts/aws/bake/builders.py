"""Builders: instances that make themselves into an image, report, and stop. They have no role and no way in."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

import ami
from scripts.aws.account import TAG
from scripts.aws.bake.errors import BakeError
from scripts.aws.bake.network import provide_group, subnets_for_builders
from scripts.aws.bake.recipe import (
    ARCHIVE_TAG,
    BASE_TAG,
    ROLE_TAG,
    RUN_TAG,
    Recipe,
    Site,
    disk_gib,
    filters,
    specifications,
)
from scripts.aws.bake.store import address, log_key, report_key, source_key
from services.ec2 import console_of

if TYPE_CHECKING:
    from mypy_boto3_ec2.literals import InstanceTypeType
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

SCRIPT = Path(next(iter(ami.__path__))) / "builder.py"
PROVISION_SECONDS = 3000
LIFE_MINUTES = 55
"""After which a builder ends itself in each case; its addresses are good for longer."""
GONE_SECONDS = 300.0
NOT_HERE = {"InsufficientInstanceCapacity", "InvalidParameterCombination", "Unsupported"}
"""What EC2 answers where another zone or another type may do: it has none left, never has any, or the account may not
launch it, as on AWS's Free plan.
"""
THERE = ("pending", "running", "stopping", "stopped")


@dataclass(frozen=True)
class Builder:
    """A builder that is there; `run` tells its report from those of others."""

    instance_id: str
    role: str
    run: str
    state: str


@dataclass(frozen=True)
class Machines:
    """What builders are launched as.

    Attributes:
        new_run: makes the name of a run, up to 64 ASCII characters.
        instance_type: of a builder; the image runs on others as well.
        subnet_ids: where, all of one VPC, the first that has room for it; empty for the default subnets.
    """

    new_run: Callable[[], str]
    instance_type: str = "c7a.large"
    subnet_ids: tuple[str, ...] = ()


def builders(site: Site, roles: Sequence[str], recipe: Recipe | None = None) -> list[Builder]:
    """Return the builders of these roles that are there: all of them, or those that work by a recipe."""
    same = {} if recipe is None else {key: recipe.tags()[key] for key in (ROLE_TAG, ARCHIVE_TAG, BASE_TAG)}
    wanted = filters({TAG: site.prefix, **same}, tag_key=[RUN_TAG], instance_state_name=THERE)
    pages = site.account.ec2.get_paginator("describe_instances").paginate(Filters=wanted)
    found = [_builder(each) for page in pages for group in page["Reservations"] for each in group["Instances"]]
    return [builder for builder in found if builder.role in roles]


def look_at(site: Site, builder: Builder) -> Builder:
    """Return the builder as it is now; as it was, while EC2 does not know it yet."""
    try:
        found = site.account.ec2.describe_instances(InstanceIds=[builder.instance_id])["Reservations"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "InvalidInstanceID.NotFound":
            return builder
        raise
    return _builder(found[0]["Instances"][0])


def launch(site: Site, recipe: Recipe, machines: Machines) -> Builder:
    """Launch a builder that works by `recipe`, in the first zone that has room for it.

    Raises:
        BakeError: no zone has, or there is no network to launch it in.
    """
    vpc_id, subnet_ids = subnets_for_builders(site, machines.subnet_ids)
    group_id = provide_group(site, recipe.role, vpc_id)
    refused = ""
    for subnet_id in subnet_ids:
        try:
            builder = _launch(site, recipe, machines, group_id, subnet_id)
        except ClientError as error:
            if error.response["Error"]["Code"] not in NOT_HERE:
                raise
            refused = str(error)
        else:
            site.done(f"launched {builder.instance_id}, which builds the {recipe.role}'s image")
            return builder
    raise BakeError(f"no zone has a {machines.instance_type}: name another --instance-type ({refused})")


def _launch(site: Site, recipe: Recipe, machines: Machines, group_id: str, subnet_id: str) -> Builder:
    run = machines.new_run()
    tags = {TAG: site.prefix, "Name": site.builder_name(recipe.role), RUN_TAG: run, **recipe.tags()}
    instance_type: InstanceTypeType = machines.instance_type  # type: ignore[assignment]  # EC2 knows which there are
    reply = site.account.ec2.run_instances(
        ImageId=recipe.base.image_id,
        InstanceType=instance_type,
        MinCount=1,
        MaxCount=1,
        ClientToken=run,
        SubnetId=subnet_id,
        SecurityGroupIds=[group_id],
        UserData=user_data(site, recipe, run),  # type: ignore[arg-type]  # bytes are encoded as text is
        InstanceInitiatedShutdownBehavior="stop",
        MetadataOptions={"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        BlockDeviceMappings=[
            {
                "DeviceName": recipe.base.root_device,
                "Ebs": {
                    "VolumeType": "gp3",
                    "VolumeSize": disk_gib(recipe.role, recipe.source.facts.engine),
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        TagSpecifications=specifications(tags, "instance", "volume"),
    )
    return _builder(reply["Instances"][0])


def user_data(site: Site, recipe: Recipe, run: str) -> bytes:
    """Return the script that makes a builder build, with the addresses that it may use for an hour.

    It is packed, which cloud-init undoes: addresses that are signed with a session's credentials hold its long token,
    and EC2 takes 16 KB. https://cloudinit.readthedocs.io/en/latest/explanation/format.html
    """
    settings = {
        "role": recipe.role,
        "archive": recipe.source.facts.sha256,
        "source_url": address(site, "get_object", source_key(recipe.source)),
        "report_url": address(site, "put_object", report_key(recipe.role, run)),
        "log_url": address(site, "put_object", log_key(recipe.role, run)),
        "options": ["--agents"],
        "apt": "/etc/apt",
        "version_file": "/opt/fleetsight/version.json",
        "provision_seconds": PROVISION_SECONDS,
        "life_minutes": LIFE_MINUTES,
    }
    return gzip.compress(script(settings).encode(), mtime=0)


def script(settings: Mapping[str, object]) -> str:
    """Return `ami/builder.py` as a program that runs with these settings."""
    return f"#!/usr/bin/env python3\n{SCRIPT.read_text()}\n\nmain(json.loads({json.dumps(settings)!r}))\n"


def end_builders(site: Site, roles: Sequence[str]) -> None:
    """End every builder of these roles, and wait until they have.

    Raises:
        TimedOutError: they have not ended.
    """
    ending = builders(site, roles)
    for builder in ending:
        site.account.ec2.terminate_instances(InstanceIds=[builder.instance_id])
        site.done(f"ended the builder {builder.instance_id}")
    if ending:
        site.waiting.until(
            lambda: None if builders(site, roles) else True, "the builders to be gone", seconds=GONE_SECONDS
        )


def console(site: Site, builder: Builder) -> str:
    """Return what the machine last wrote to its console, which is all there is of one that does not report."""
    return console_of(site.account.ec2, builder.instance_id)


def _builder(described: "InstanceTypeDef") -> Builder:
    tags = {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])}
    return Builder(described["InstanceId"], tags.get(ROLE_TAG, ""), tags.get(RUN_TAG, ""), described["State"]["Name"])
