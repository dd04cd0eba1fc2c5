"""``fleetsight up``: the stack made, or brought to what is wished, and its page answering.

Every step looks at what there is and does what is missing, so that the command run again goes on where it ended.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from core.config import Config, EngineName
from core.ids import new_id
from scripts.aws.bake.recipe import ROLES, Role
from scripts.aws.bake.store import remove
from scripts.aws.buckets import delete_bucket, exists
from scripts.aws.deploy import changes, idle_cost
from scripts.aws.deploy.baked import bake_missing, baked_images, snapshots_gb, worker_disk_gib
from scripts.aws.deploy.deploy import UNMADE, deploy, protect, ready
from scripts.aws.deploy.page import answers, wait_for_page
from scripts.aws.deploy.places import PARAMETERS, PlaceError, find_place
from scripts.aws.deploy.session_keys import provide
from scripts.aws.deploy.settings import (
    StackSettings,
    changed,
    checked,
    parameter_values,
    parameters,
    refuse_wrong_parameters,
    setting_parameters,
    settings_of,
)
from scripts.aws.deploy.sign_in import (
    complete_kept_pool,
    kept_accounts,
    refuse_unknown_sender,
    say_who_may_come_in,
    sign_in_hours,
    signs_in,
)
from scripts.aws.deploy.stacks import Stack, find, resources
from scripts.aws.deploy.template import template, upload
from scripts.aws.deploy.unkept import unkept_days
from scripts.aws.operation import Operation
from scripts.aws.preflight.account import CHECKS
from scripts.aws.preflight.findings import Finding, Level, StackPlan, run
from scripts.aws.preflight.machines import CHECKS_OF_MACHINES
from scripts.aws.teardown.drain import bring_back_web_tier
from scripts.aws.template_versions import template_versions
from services.errors import FleetsightError

if TYPE_CHECKING:
    from scripts.aws.bake.builders import Machines

AMAZON_LINUX = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
"""A public parameter of AWS that names an image: https://docs.aws.amazon.com/linux/al2023/ug/ec2.html."""


class NotWantedError(FleetsightError):
    """Raised when a person says no, or there are no images and none may be baked."""


class NotReadyError(FleetsightError):
    """Raised when the account lacks something without which there can be no stack."""


@dataclass(frozen=True)
class Order:
    """What a person wants.

    Attributes:
        wishes: parameters and configuration.
        vpc_id, subnet_ids: where a new stack goes, or where one moves to; empty for the default VPC, or for staying.
        bundle: what to bake, if it comes to that; as `fleetsight bake --bundle` takes it.
        bake: whether to bake images that are missing.
        dry_run: say what would be done, and leave everything as it is.
    """

    wishes: StackSettings = field(default_factory=StackSettings)
    vpc_id: str | None = None
    subnet_ids: tuple[str, ...] = ()
    bundle: str | None = None
    bake: bool = True
    dry_run: bool = False


@dataclass(frozen=True)
class Prompts:
    """What `up` asks of others: tests put in their own.

    Attributes:
        confirm: asks a person a question that is answered by yes or no.
        answers: whether the page at an address does.
        bake: makes images for these roles, with a bundle and an engine, on such machines.
    """

    confirm: Callable[[str], bool]
    answers: Callable[[str], bool] = answers
    bake: Callable[[Operation, Sequence[Role], str | None, EngineName, "Machines"], None] = bake_missing


def up(operation: Operation, order: Order, outside: Prompts) -> str | None:
    """Make the stack, or change it to what is wished; return the page's address, or None after a dry run.

    Raises:
        AccountError: AWS cannot be asked.
        NotWantedError: a person said no.
        NotReadyError: the account lacks something, which was shown.
        PlaceError, SettingError, BakeError, StackError: it cannot be done; the message says why.
        TimedOutError: the stack or the page took too long.
    """
    account, prefix = operation.account, operation.prefix
    operation.say(f"Account {account.id}, {account.region_name}: the stack {prefix}.")
    # Before anything is made.
    stack = find(account, prefix)
    config = _checked(order, stack)
    place = _place(operation, order, stack)
    plan = _plan(operation, order, config, stack, place)
    _show(operation, run(plan, {**CHECKS, **CHECKS_OF_MACHINES}), verbose=order.dry_run)
    lacking = tuple(role for role in ROLES if role not in plan.images)
    if order.dry_run:
        _dry_run(operation, order, config, stack, place, lacking)
        return None
    if lacking:
        _bake(operation, order, outside, lacking, plan)
    kind = ready(operation)
    stack = find(account, prefix) if kind == "UPDATE" else None  # it may have changed meanwhile
    proposed = _propose(operation, order, config, stack, place)
    if proposed is not None:
        _ask(operation, outside, proposed)
    if signs_in(order.wishes, stack):
        provide(operation)  # before there is an instance that reads it
    if proposed is not None:
        deploy(operation, proposed)
    else:
        operation.say(f"The stack {prefix} is as it should be.")
    return _arrive(operation, config, outside)


def check(operation: Operation, order: Order) -> None:
    """Show what the account lacks for what a person wants, and do nothing.

    Raises:
        AccountError: AWS cannot be asked.
        NotReadyError: it lacks something without which there can be no stack.
        SettingError: a parameter or a key of the configuration is wrong.
    """
    operation.say(f"Account {operation.account.id}, {operation.account.region_name}: the stack {operation.prefix}.")
    stack = find(operation.account, operation.prefix)
    config, found, place = _checked(order, stack), [], {}
    try:
        place = _place(operation, order, stack)
    except PlaceError as error:
        found = [("network", Finding(Level.STOP, str(error)))]
    checks = {**CHECKS, **CHECKS_OF_MACHINES} if place else CHECKS
    _show(operation, found + run(_plan(operation, order, config, stack, place), checks), verbose=True)


def _plan(
    operation: Operation, order: Order, config: Config, stack: Stack | None, place: Mapping[str, str]
) -> StackPlan:
    wanted = parameter_values(template(), order.wishes, stack)
    return StackPlan(operation, place, config, wanted, baked_images(operation), is_new=stack is None)


def _show(operation: Operation, findings: Sequence[tuple[str, Finding]], *, verbose: bool) -> None:
    levels = list(Level)
    for name, finding in sorted(findings, key=lambda each: levels.index(each[1].level)):
        if verbose or finding.level != Level.OK:
            operation.say(finding.line(name))
    if any(finding.level == Level.STOP for _, finding in findings):
        raise NotReadyError("the account is not ready, as the lines above that begin with stop say: nothing was made")


def _checked(order: Order, stack: Stack | None) -> Config:
    refuse_wrong_parameters(template(), order.wishes, stack)
    config = checked(changed(settings_of(stack), order.wishes.config))
    unkept_days(config.retention, order.wishes, stack)
    refuse_unknown_sender(order.wishes, stack)
    return config


def _place(operation: Operation, order: Order, stack: Stack | None) -> dict[str, str]:
    """Return the parameters that say where the stack goes, or stays."""
    if stack is None or stack.status in UNMADE or order.vpc_id or order.subnet_ids:
        return find_place(operation.account, operation.prefix, order.vpc_id, order.subnet_ids).parameters()
    if any(name not in stack.parameters for name in PARAMETERS):  # it was made by a version that had fewer
        vpc_id, subnet_ids = stack.parameters["VpcId"], stack.parameters["SubnetIds"].split(",")
        return find_place(operation.account, operation.prefix, vpc_id, subnet_ids).parameters()
    return {name: stack.parameters[name] for name in PARAMETERS}


def _bake(operation: Operation, order: Order, outside: Prompts, roles: tuple[Role, ...], plan: StackPlan) -> None:
    """Bake where the stack goes."""
    lacking = " and ".join(roles)
    if not order.bake:
        raise NotWantedError(f"there is no image for {lacking}: run `fleetsight bake`, or this without --no-bake")
    operation.say(f"There is no image for {lacking}: it is baked first, which takes some minutes.")
    # Here, since with images there is no need to wait for what makes them.
    from scripts.aws.bake.builders import Machines

    types = {role: plan.builder_type(role) for role in roles}
    for kind in dict.fromkeys(types.values()):
        machines = Machines(lambda: new_id().lower(), kind, tuple(plan.subnet_ids))
        of_kind = [role for role in roles if types[role] == kind]
        outside.bake(operation, of_kind, order.bundle, plan.config.worker.engine, machines)


def _propose(
    operation: Operation, order: Order, config: Config, stack: Stack | None, place: Mapping[str, str]
) -> changes.ChangeSet | None:
    wished = _wished(operation, order, config, stack, place)
    url = upload(operation, template())
    if stack is not None:
        changes.discard_all(operation.account, stack.stack_id)
    kind: changes.Kind = "CREATE" if stack is None else "UPDATE"
    return changes.propose(operation, kind, url, parameters(template(), wished, stack))


def _wished(
    operation: Operation, order: Order, config: Config, stack: Stack | None, place: Mapping[str, str]
) -> dict[str, str]:
    prefix = operation.prefix
    return {
        "Prefix": prefix,
        # Named each time, so that CloudFormation looks again at what they are.
        "WorkerImage": f"/{prefix}/image/worker",
        "WebImage": f"/{prefix}/image/web",
        **setting_parameters(changed(settings_of(stack), order.wishes.config)),
        "WorkerDiskGiB": str(worker_disk_gib(operation, config.worker.engine)),
        "UnkeptDays": unkept_days(config.retention, order.wishes, stack),
        "SignInHours": sign_in_hours(config.auth),
        **kept_accounts(operation.account, prefix, order.wishes, stack),
        **place,
        **order.wishes.parameters,
    }


def _ask(operation: Operation, outside: Prompts, proposed: changes.ChangeSet) -> None:
    operation.say(changes.table(proposed.changes))
    if not outside.confirm(f"Do this to the stack {operation.prefix}?"):
        changes.discard(operation.account, proposed)
        raise NotWantedError("nothing was done")


def _dry_run(
    operation: Operation,
    order: Order,
    config: Config,
    stack: Stack | None,
    place: Mapping[str, str],
    lacking: tuple[Role, ...],
) -> None:
    """Show the change set and forget it, and the bucket with it if there was none.

    A change set needs images that exist: Amazon's stands for each one that is lacking.
    """
    if lacking:
        operation.say(f"There is no image for {' and '.join(lacking)}: it would be baked first.")
        others = {f"{role.title()}Image": AMAZON_LINUX for role in lacking}
        order = replace(order, wishes=replace(order.wishes, parameters={**others, **order.wishes.parameters}))
    account = operation.account
    if stack is not None and (stack.busy or stack.status in UNMADE):
        operation.say(f"The stack is {stack.status}: it would be waited for, or deleted and made again.")
        return
    had_bucket = exists(account, operation.site.bucket)
    try:
        proposed = _propose(operation, order, config, stack, place)
        kinds = [] if stack is None else [kind for _, kind, _ in resources(account, stack)]
        if proposed is None:
            operation.say(f"The stack {operation.prefix} is as it should be: nothing would be done.")
        else:
            operation.say(changes.table(proposed.changes))
            changes.discard(account, proposed)
            kinds += [each.kind for each in proposed.changes if each.action in {"Add", "Import"}]
        wished = _wished(operation, order, config, stack, place)
        operation.say(idle_cost.table(_cost(operation, config, kinds, wished, stack)))
    finally:
        if had_bucket:
            remove(operation.site, "stack/")
        else:
            delete_bucket(account, operation.site.bucket)


def _arrive(operation: Operation, config: Config, outside: Prompts) -> str:
    stack = find(operation.account, operation.prefix)
    assert stack is not None  # nosec B101 # noqa: S101 (it is complete)
    protect(operation, stack, wanted=stack.parameters.get("DeletionProtection") == "true")
    bring_back_web_tier(operation, stack)
    if "SiteBucketName" in stack.outputs:
        # Here, since it renders pages with the web tier, which stacks without a site need not load.
        from scripts.aws.site.publish import publish_site

        publish_site(operation.account, operation.prefix, operation.done)
    address = wait_for_page(operation, stack, outside.answers)
    kinds = [kind for _, kind, _ in resources(operation.account, stack)]
    operation.say(idle_cost.table(_cost(operation, config, kinds, {}, stack)))
    _say_what_is_left_to_do(operation, stack)
    complete_kept_pool(operation, stack)
    say_who_may_come_in(operation, stack)
    operation.say(f"Fleetsight is at {stack.outputs.get('SiteAddress', address)}")
    return address


def _cost(
    operation: Operation, config: Config, kinds: Sequence[str], wished: dict[str, str], stack: Stack | None
) -> list[idle_cost.Row]:
    known = parameter_values(template(), StackSettings(wished), stack)
    zones, web_instances = len(known["SubnetIds"].split(",")), int(known["WebInstances"])
    images_gb = snapshots_gb(operation)
    parts = idle_cost.Parts.of(kinds, known["WebInstanceType"], zones, images_gb, web_instances)
    return idle_cost.monthly(parts, config)


def _say_what_is_left_to_do(operation: Operation, stack: Stack) -> None:
    versions = template_versions(operation.account, stack)
    if versions and versions[0] != versions[1]:
        operation.say(
            f"Workers are launched from version {versions[0]} of their template; {versions[1]} is the newest: "
            "`fleetsight roll` takes them there."
        )
