"""The roll, step by step; each is looked at before it is done, so that the command run again goes on."""

from dataclasses import dataclass

from scripts.aws.bake.shelf import stored_image
from scripts.aws.operation import Operation
from scripts.aws.roll.versions import RollError, Template, arrived, image_of, make_default, target, template_of
from scripts.aws.roll.web import Group, groups, refresh
from scripts.aws.roll.workers import old_workers, replace_workers


@dataclass(frozen=True)
class Order:
    """What a person wants.

    Attributes:
        to: a version of the workers' template; None for the newest, or with `back` for the one before.
        wait: until the last old instance is gone.
    """

    to: int | None = None
    back: bool = False
    wait: bool = True
    dry_run: bool = False


def roll(operation: Operation, order: Order) -> None:
    """Have the whole fleet run one version of the workers' template, and the web instance what its group launches.

    A version that is named, or the one before, is the workers' alone: the web instance stays as it is.

    Raises:
        RollError: there is nothing to roll to, or the web instance could not be replaced.
        TimedOutError: workers or the web instance take too long.
        botocore.exceptions.BotoCoreError, ClientError: AWS cannot be reached, or refuses.
    """
    template = template_of(operation)
    version = target(template, order.to, back=order.back)
    image = image_of(operation, template, version)
    named = order.back or order.to is not None
    of_web = [] if named else [group for group in groups(operation) if group.old]
    old = old_workers(operation, template, version)
    _say_what_is_to_come(operation, template, version, image, len(old), of_web)
    if not named:
        _check_newest(operation, image, settled=template.default == version and not old and not of_web)
    if order.dry_run:
        return
    make_default(operation, template, version, back=order.back)
    replace_workers(operation, template, version, wait=order.wait)
    for group in of_web:
        refresh(operation, group, wait=order.wait)
    if order.wait:
        template = template_of(operation)
        arrived(operation, template)
        operation.say(f"All workers are of version {version}{_way_on(template, back=order.back)}.")


def _way_on(template: Template, *, back: bool) -> str:
    """Return which command leads to where the fleet was, if one does."""
    if back and template.default != template.newest:
        return "; `fleetsight roll` brings the newest again"
    return "" if template.before is None else "; `fleetsight roll --back` is the way back"


def _say_what_is_to_come(
    operation: Operation, template: Template, version: int, image: str, old: int, of_web: list[Group]
) -> None:
    operation.say(
        f"{template.name}: workers are launched from version {template.default} "
        f"({image_of(operation, template, template.default)}); it shall be version {version} ({image})."
    )
    operation.say(f"{old} workers are of other versions, and are replaced a few at a time.")
    for group in of_web:
        operation.say(f"{group.name} launches version {group.version}: {', '.join(group.old)} is replaced.")


def _check_newest(operation: Operation, image: str, *, settled: bool) -> None:
    """Say so when the newest version does not have the newest image yet.

    Raises:
        RollError: and there is nothing else to roll.
    """
    stored = stored_image(operation.site, "worker")
    if stored is None or stored == image:
        return
    told = f"the newest image is {stored}, and no version has it yet: `fleetsight up` makes one"
    if settled:
        raise RollError(told)
    operation.say(f"Mind that {told}.")
