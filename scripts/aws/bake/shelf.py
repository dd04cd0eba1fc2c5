"""Where the stack finds its images: their ids in the parameter store; and which of the older ones are kept."""

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from scripts.aws.account import TAG
from scripts.aws.bake.images import images, remove
from scripts.aws.bake.recipe import Site

if TYPE_CHECKING:
    from mypy_boto3_ssm.type_defs import PutParameterRequestTypeDef

KEPT = 3
"""Images of each role that stay: the present one, the one before, and one to be sure."""
STORED_SECONDS = 120.0
NO_TEMPLATE = {"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound"}


def stored_image(site: Site, role: str) -> str | None:
    """Return the id of the image that is in the parameter store, if there is one."""
    try:
        return site.account.ssm.get_parameter(Name=site.parameter(role))["Parameter"]["Value"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ParameterNotFound":
            return None
        raise


def store_image(site: Site, role: str, image_id: str) -> None:
    """Put an image's id into the parameter store, where the stack takes it from.

    Raises:
        TimedOutError: the parameter store does not take it: it first asks EC2 whether the image is there.
    """
    name, before = site.parameter(role), stored_image(site, role)
    if before == image_id:
        return
    asked: PutParameterRequestTypeDef = {
        "Name": name,
        "Description": f"Image of {site.prefix}'s {role} instances",
        "Value": image_id,
        "Type": "String",
        "DataType": "aws:ec2:image",
    }
    if before is None:
        asked["Tags"] = [{"Key": TAG, "Value": site.prefix}]
    else:  # which has its tags, and does not take any here
        asked["Overwrite"] = True
    site.account.ssm.put_parameter(**asked)
    # https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-ec2-aliases.html
    site.waiting.until(
        lambda: stored_image(site, role) == image_id or None, f"{name} to hold {image_id}", seconds=STORED_SECONDS
    )
    site.done(f"{name} is {image_id}" + (f", and was {before}" if before else ""))


def prune(site: Site, role: str) -> None:
    """Remove a role's oldest images, but none that the parameter store or a launch template would still launch."""
    needed = {stored_image(site, role), *launched_images(site, role)}
    available = [image for image in images(site, role) if image.state == "available"]
    for image in available[KEPT:]:
        if image.image_id not in needed:
            remove(site, image)


def launched_images(site: Site, role: str) -> set[str]:
    """Return the images of the default and the newest version of a role's launch template; none without one."""
    try:
        versions = site.account.ec2.describe_launch_template_versions(
            LaunchTemplateName=f"{site.prefix}-{role}", Versions=["$Default", "$Latest"]
        )["LaunchTemplateVersions"]
    except ClientError as error:
        if error.response["Error"]["Code"] in NO_TEMPLATE:
            return set()
        raise
    return {version["LaunchTemplateData"].get("ImageId", "") for version in versions}
