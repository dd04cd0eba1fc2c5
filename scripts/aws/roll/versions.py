"""The versions of the workers' launch template: which the fleet launches, which is newest, and which was before.

What a roll is about is written on the template itself, in two tags, before anything else is done: so a roll that was
cut short goes on in the same direction, and one that is over can be taken back.
"""

from dataclasses import dataclass

from botocore.exceptions import ClientError

from scripts.aws.account import TAG
from scripts.aws.instances import worker_name
from scripts.aws.operation import Operation
from services.errors import FleetsightError

BEFORE_TAG = f"{TAG}-before"
"""The version that was the default before the last roll."""
BACK_TAG = f"{TAG}-back-to"
"""The version that a `--back` is on its way to; not there once it has arrived."""


class RollError(FleetsightError):
    """Raised when there is nothing to roll to, or what should come did not."""


@dataclass(frozen=True)
class Template:
    """The workers' launch template.

    Attributes:
        default: the version that the controller launches.
        newest: that the stack has made last.
        before: that was the default before; None while none was.
        back_to: that a `--back` which was cut short was on its way to.
    """

    template_id: str
    name: str
    default: int
    newest: int
    before: int | None = None
    back_to: int | None = None


def template_of(operation: Operation) -> Template:
    """Return the workers' launch template.

    Raises:
        RollError: there is none.
    """
    name = worker_name(operation.prefix)
    wanted = operation.account.ec2.describe_launch_templates(
        Filters=[{"Name": "launch-template-name", "Values": [name]}]
    )
    for found in wanted["LaunchTemplates"]:
        tags = _tags(operation, found["LaunchTemplateId"])
        return Template(
            found["LaunchTemplateId"],
            name,
            found["DefaultVersionNumber"],
            found["LatestVersionNumber"],
            tags.get(BEFORE_TAG),
            tags.get(BACK_TAG),
        )
    raise RollError(f"there is no launch template {name}: `fleetsight up` makes it")


def _tags(operation: Operation, template_id: str) -> dict[str, int]:
    wanted = operation.account.ec2.describe_tags(
        Filters=[{"Name": "resource-id", "Values": [template_id]}, {"Name": "key", "Values": [BEFORE_TAG, BACK_TAG]}]
    )
    return {tag["Key"]: int(tag["Value"]) for tag in wanted["Tags"] if tag["Value"].isdecimal()}


def image_of(operation: Operation, template: Template, version: int) -> str:
    """Return the id of the image that a version launches.

    Raises:
        RollError: there is no such version.
    """
    try:
        found = operation.account.ec2.describe_launch_template_versions(
            LaunchTemplateId=template.template_id, Versions=[str(version)]
        )["LaunchTemplateVersions"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidLaunchTemplateId.VersionNotFound":
            raise
        found = []
    if not found:
        raise RollError(f"{template.name} has no version {version}: the newest is {template.newest}")
    return found[0]["LaunchTemplateData"].get("ImageId", "")


def target(template: Template, to: int | None, *, back: bool) -> int:
    """Return the version to roll to: one that is named, the one before, or the newest.

    Raises:
        RollError: the one before is wanted and not known.
    """
    if to is not None:
        return to
    if not back:
        return template.newest
    # That of a roll which was cut short, even if the default is it already: what was before would lead away again.
    found = template.back_to or template.before
    if found is None:
        raise RollError(
            f"no roll is known before version {template.default} of {template.name}: name a version by --to"
        )
    return found


def make_default(operation: Operation, template: Template, version: int, *, back: bool) -> None:
    """Have the controller launch this version from now on, and remember the one before."""
    ec2, resource = operation.account.ec2, [template.template_id]
    if back and template.back_to != version:
        ec2.create_tags(Resources=resource, Tags=[{"Key": BACK_TAG, "Value": str(version)}])
        operation.done(f"noted that {template.name} goes back to version {version}")
    if not back:
        arrived(operation, template)
    if template.default != version:
        ec2.create_tags(Resources=resource, Tags=[{"Key": BEFORE_TAG, "Value": str(template.default)}])
        ec2.modify_launch_template(LaunchTemplateId=template.template_id, DefaultVersion=str(version))
        operation.done(f"new workers are launched from version {version} of {template.name}, not {template.default}")


def arrived(operation: Operation, template: Template) -> None:
    """Forget that a `--back` was on its way, so that the next one begins anew."""
    if template.back_to is not None:
        operation.account.ec2.delete_tags(Resources=[template.template_id], Tags=[{"Key": BACK_TAG}])
        operation.done(f"forgot that {template.name} went back to version {template.back_to}")
