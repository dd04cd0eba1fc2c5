"""``fleetsight up``: creates or changes the stack, and waits until its page answers.

Every step reads the present state and does what is missing, so the command continues where an earlier run ended.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from ami.archive import ArchiveError, bundle_digest
from app_tier.bundle import DEMO_BUNDLE
from core.bundle_manifest import BundleError
from core.config import Config, EngineName, load_config
from core.ids import new_id
from scripts.aws.bake.bake import BakeOptions, bake, select_bundle, source_archive
from scripts.aws.bake.builders import BuilderConfig, builder_subnets
from scripts.aws.bake.images import stored_image
from scripts.aws.bake.spec import BUNDLE_TAG, ROLES, Role, base_image, disk_gib
from scripts.aws.buckets import bucket_exists, delete_bucket, delete_objects
from scripts.aws.context import TAG, AwsContext, DeclinedError
from scripts.aws.deploy.auth import (
    check_provider,
    ensure_session_key,
    has_sign_in,
    kept_pool_parameters,
    report_access,
)
from scripts.aws.deploy.change_set import (
    NEVER_COMPLETE,
    ChangeSetType,
    ProposedChangeSet,
    ResourceChange,
    change_table,
    create_change_set,
    delete_change_set,
    delete_stale_change_sets,
    deploy,
    prepare_stack,
    set_termination_protection,
)
from scripts.aws.deploy.demo import demo_bundles, offer_bundles
from scripts.aws.deploy.idle_cost import BilledParts, cost_table, monthly_cost
from scripts.aws.deploy.kept_settings import begin_adoption, deleted_stack, end_adoption, is_adopting
from scripts.aws.deploy.network import NETWORK_PARAMETERS, NetworkError, find_network
from scripts.aws.deploy.room import release_workers, room_for_web_instance
from scripts.aws.deploy.settings import (
    StackSettings,
    change_set_parameters,
    check_parameters,
    config_parameters,
    load_template,
    merge_config,
    parameter_values,
    source_parameters,
    stack_config,
    template_for,
    unkept_days,
    upload_template,
    validated_config,
)
from scripts.aws.deploy.stack import (
    AUTO_SCALING_GROUP,
    StackDescription,
    StackFailedError,
    find_stack,
    page_answers,
    stack_resources,
    template_versions,
    wait_for_page,
)
from scripts.aws.down import restart_web_tier
from scripts.aws.preflight.account import ACCOUNT_CHECKS
from scripts.aws.preflight.findings import Finding, Level, StackPlan, run_checks
from scripts.aws.preflight.instances import BUILDER_CHECKS, NETWORK_CHECKS
from scripts.aws.preflight.permissions import existing_boundary
from scripts.demo_model import DEMO_NAME
from scripts.home import MODELS_FOLDER
from services.errors import FleetsightError

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, ImageTypeDef

AMAZON_LINUX = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
"""A public parameter of AWS with an image id, for dry runs: https://docs.aws.amazon.com/linux/al2023/ug/ec2.html."""


def available_images(context: AwsContext) -> dict[Role, str]:
    """Return the ids of the existing images that the parameter store names, by role."""
    return {role: image["ImageId"] for role, image in _describe_images(context, ROLES).items()}


def worker_disk_gib(context: AwsContext, engine: EngineName) -> int:
    """Return the size of the workers' disk: the size of their image, or of the image that would be baked."""
    image = _describe_images(context, ["worker"]).get("worker")
    if image is None:
        return disk_gib("worker", engine)
    sizes = [mapping.get("Ebs", {}).get("VolumeSize", 0) for mapping in image.get("BlockDeviceMappings", [])]
    return max([disk_gib("worker", "openvino"), *sizes])


def _describe_images(context: AwsContext, roles: Sequence[Role]) -> "dict[Role, ImageTypeDef]":
    """Return EC2's descriptions of the existing images that the parameter store names for these roles."""
    stored = {role: stored_image(context, role) for role in roles}
    ids = [each for each in stored.values() if each]
    by_id: FilterTypeDef = {"Name": "image-id", "Values": ids}
    images = context.account.ec2.describe_images(Filters=[by_id])["Images"] if ids else []
    found = {each["ImageId"]: each for each in images}
    return {role: found[image_id] for role, image_id in stored.items() if image_id in found}


def bake_images(
    context: AwsContext,
    roles: Sequence[Role],
    bundle: str | None,
    engine: EngineName,
    builder_config: BuilderConfig,
) -> None:
    """Bake the images of these roles, for the architecture of their builders.

    Raises:
        BakeError: an image could not be baked.
    """
    base = base_image(context.account.ec2, builder_config.instance_type, engine, roles)
    with source_archive(select_bundle(context.account, bundle, engine), engine) as source:
        bake(context, BakeOptions(builder_config, roles=tuple(roles)), source, base)


def snapshot_gb(context: AwsContext) -> float:
    """Return the size in GB of the snapshots of this prefix's images; EBS bills only the blocks that were written."""
    pages = context.account.ec2.get_paginator("describe_snapshots").paginate(
        OwnerIds=["self"], Filters=[{"Name": f"tag:{TAG}", "Values": [context.prefix]}]
    )
    return float(sum(each["VolumeSize"] for page in pages for each in page["Snapshots"]))


class NotReadyError(FleetsightError):
    """Raised when the account lacks something that the stack requires."""


@dataclass(frozen=True)
class UpOptions:
    """What the user has asked for.

    Attributes:
        vpc_id, subnet_ids: the new network of the stack; empty for the present one, or the default VPC.
        bundle: the bundle of images to bake; the value of `fleetsight bake --bundle`. With `DEMO_NAME` it is that
            for photos, and the demo's own is offered beside it. With None it is that of the present images, or the
            default bundle if there are none.
        rebake: bake images of the newest base and this source too, unless they exist.
        dry_run: report what would be done, and change nothing.
        service_role: ARN of the role that CloudFormation assumes; empty to keep that of the stack.
    """

    settings: StackSettings = field(default_factory=StackSettings)
    vpc_id: str | None = None
    subnet_ids: tuple[str, ...] = ()
    bundle: str | None = None
    bake: bool = True
    rebake: bool = False
    dry_run: bool = False
    service_role: str = ""


@dataclass(frozen=True)
class Prompts:
    """The functions by which `up` calls the user and slow services; tests replace them.

    Attributes:
        confirm: asks the user a question, and returns whether the answer is yes.
        answers: returns whether the page at an address answers.
        bake: bakes the images of these roles.
    """

    confirm: Callable[[str], bool]
    answers: Callable[[str], bool] = page_answers
    bake: Callable[[AwsContext, Sequence[Role], str | None, EngineName, BuilderConfig], None] = bake_images


def up(context: AwsContext, options: UpOptions, prompts: Prompts) -> str | None:
    """Create or change the stack; return the page's address, or None after a dry run.

    Raises:
        AccountError: AWS cannot be called.
        DeclinedError: the user declined.
        NotReadyError: the account lacks something, which was reported.
        NetworkError, SettingError, ModelNotBuiltError, BakeError, StackError: the stack cannot be created; the
            message says why.
        TimedOutError: the stack or the page took too long.
    """
    account, prefix = context.account, context.prefix
    context.report(f"Account {account.id}, {account.region_name}: the stack {prefix}.")
    # All checks come before the first change.
    stack = find_stack(account, prefix) or deleted_stack(context)
    if stack is not None and stack.is_deleted:
        context.report("The settings that the last `down` kept are used again, unless you give others.")
    config = _validate(context, options, stack)
    network = _find_network(context, options, stack)
    plan = _plan(context, options, config, stack, network)
    _report_findings(context, run_checks(plan, {**ACCOUNT_CHECKS, **NETWORK_CHECKS}), verbose=options.dry_run)
    lacking = tuple(role for role in ROLES if role not in plan.images)
    options = _with_bundle(context, options, lacking)
    if options.dry_run:
        _dry_run(plan, options, stack, lacking)
        return None
    offered = demo_bundles(config.worker.engine, context.report) if options.bundle == DEMO_NAME else ()
    if lacking or options.rebake:
        options = replace(options, bundle=str(offered[0])) if offered else options
        _bake_missing(plan, options, prompts, ROLES if options.rebake else lacking)
    prepare_stack(context)
    stack = find_stack(account, prefix) or deleted_stack(context)  # it may have changed meanwhile
    wanted = _wanted_parameters(plan, options, stack)
    proposed = _create_change_set(plan, options, stack, wanted)
    if proposed is not None:
        _report_changes(plan, wanted, stack, proposed.changes)
        if not prompts.confirm(f"Do this to the stack {context.prefix}?"):
            delete_change_set(context.account, proposed)
            raise DeclinedError("nothing was done")
    if has_sign_in(options.settings, stack):
        ensure_session_key(context)  # before an instance reads it
    if proposed is not None:
        if adopts := any(each.action == "Import" for each in proposed.changes):
            begin_adoption(context)
        _deploy(plan, proposed)
    else:
        context.report(f"The stack {prefix} is as it should be.")
        adopts = False
    if adopts or is_adopting(context):  # an earlier run may have died before it
        _revert_drift(plan, options, None if adopts else prompts)
    return _finish(context, prompts, offered)


def check_account(context: AwsContext, options: UpOptions) -> None:
    """Report what the account lacks for the stack, and change nothing.

    Raises:
        AccountError: AWS cannot be called.
        NotReadyError: the account lacks something that the stack requires.
        SettingError: a parameter or a key of the configuration is invalid.
    """
    context.report(f"Account {context.account.id}, {context.account.region_name}: the stack {context.prefix}.")
    stack = find_stack(context.account, context.prefix)
    config, found, network = _validate(context, options, stack), [], {}
    try:
        network = _find_network(context, options, stack)
    except NetworkError as error:
        found = [("network", Finding(Level.STOP, str(error)))]
    checks = {**ACCOUNT_CHECKS, **NETWORK_CHECKS} if network else ACCOUNT_CHECKS
    _report_findings(
        context, found + run_checks(_plan(context, options, config, stack, network), checks), verbose=True
    )


def check_builders(context: AwsContext, builder_config: BuilderConfig, *, verbose: bool) -> None:
    """Report what keeps the account from launching builders, and change nothing.

    Raises:
        BakeError: there is no network for builders.
        NotReadyError: the account lacks something that builders require.
    """
    kind, config = builder_config.instance_type, load_config()
    vpc_id, subnet_ids = builder_subnets(context, builder_config.subnet_ids)
    fleet = config.fleet.model_copy(update={"instance_types": (kind,), "market": "on_demand", "max_workers": 0})
    plan = StackPlan(
        context,
        {"VpcId": vpc_id, "SubnetIds": ",".join(subnet_ids)},
        config.model_copy(update={"fleet": fleet}),
        parameter_values(StackSettings({"WebInstanceType": kind}), None),
        images={},
        is_new=True,
        type_option="--instance-type TYPE",
        subnet_option="--subnet",
    )
    found = run_checks(plan, BUILDER_CHECKS)
    # A builder needs no address that others reach.
    _report_findings(
        context, [each for each in found if each[0] != "network" or each[1].level == Level.STOP], verbose=verbose
    )


def _plan(
    context: AwsContext,
    options: UpOptions,
    config: Config,
    stack: StackDescription | None,
    network: Mapping[str, str],
) -> StackPlan:
    wanted = parameter_values(options.settings, stack)
    if not wanted["PermissionsBoundaryArn"] and "PermissionsBoundaryArn" not in options.settings.parameters:
        wanted["PermissionsBoundaryArn"] = existing_boundary(context.account, context.prefix)
    if wanted["Issuer"]:
        wanted["CreateUserPool"] = "false"  # the template makes none, and its rights are not needed
    is_new = stack is None or stack.is_deleted
    role = options.service_role or ("" if stack is None else stack.service_role)  # which the stack keeps
    return StackPlan(
        context, network, config, wanted, available_images(context), is_new, role, bool(options.service_role)
    )


def _report_findings(context: AwsContext, findings: Sequence[tuple[str, Finding]], *, verbose: bool) -> None:
    levels = list(Level)
    for name, finding in sorted(findings, key=lambda each: levels.index(each[1].level)):
        if verbose or finding.level != Level.OK:
            context.report(finding.line(name))
    if any(finding.level == Level.STOP for _, finding in findings):
        raise NotReadyError("the account is not ready, as the lines above that begin with stop say: nothing was made")


def _validate(context: AwsContext, options: UpOptions, stack: StackDescription | None) -> Config:
    check_parameters(options.settings, stack)
    config = validated_config(merge_config(stack_config(stack), options.settings.config))
    unkept_days(config.retention, options.settings, stack)
    source_parameters(config, context.account.partition)
    check_provider(context.prefix, options.settings, stack)
    return config


def _find_network(context: AwsContext, options: UpOptions, stack: StackDescription | None) -> dict[str, str]:
    """Return the parameters of the stack's network: a new one, or the present one."""
    has_network = stack is not None and stack.status not in NEVER_COMPLETE and "VpcId" in stack.parameters
    if stack is None or not has_network or options.vpc_id or options.subnet_ids:
        return find_network(context.account, context.prefix, options.vpc_id, options.subnet_ids).parameters()
    # A deleted stack had gateway endpoints of its own; an earlier version created a stack with fewer parameters.
    if stack.is_deleted or any(name not in stack.parameters for name in NETWORK_PARAMETERS):
        vpc_id, subnet_ids = stack.parameters["VpcId"], stack.parameters["SubnetIds"].split(",")
        return find_network(context.account, context.prefix, vpc_id, subnet_ids).parameters()
    return {name: stack.parameters[name] for name in NETWORK_PARAMETERS}


def _with_bundle(context: AwsContext, options: UpOptions, lacking: Sequence[Role]) -> UpOptions:
    """Return the options with the bundle of the existing images, if images are baked and no bundle is given.

    The controller would roll the model of another bundle out to all new jobs, which only a user can decide.

    Raises:
        NotReadyError: the bundle is not on this machine.
    """
    bakes = options.bake and (options.rebake or lacking)
    images = _describe_images(context, ROLES) if bakes and options.bundle is None else {}
    image = images.get("worker") or images.get("web")
    if image is None:
        return options
    digest = {each["Key"]: each["Value"] for each in image.get("Tags", [])}.get(BUNDLE_TAG)
    for folder in (*sorted(MODELS_FOLDER.glob("*")), DEMO_BUNDLE):
        with suppress(ArchiveError, BundleError):
            if bundle_digest(folder) == digest:
                return replace(options, bundle=str(folder))
    raise NotReadyError(
        f"the image {image['ImageId']} has the model with the digest {digest or 'unknown'}, and no bundle in "
        f"{MODELS_FOLDER} has it: name its bundle by --bundle, or by --bundle or --demo the model to use instead"
    )


def _bake_missing(plan: StackPlan, options: UpOptions, prompts: Prompts, roles: Sequence[Role]) -> None:
    """Bake the images of these roles in the stack's network, unless those of this source and base exist."""
    lacking = " and ".join(roles)
    if not options.bake:
        raise DeclinedError(f"there is no image for {lacking}: run `fleetsight bake`, or this without --no-bake")
    if options.rebake:
        plan.context.report("Images of the newest Debian and this source are baked first, unless they exist.")
    else:
        plan.context.report(f"There is no image for {lacking}: it is baked first, which takes some minutes.")
    types = {role: plan.builder_type(role) for role in roles}
    for kind in dict.fromkeys(types.values()):
        builder_config = BuilderConfig(lambda: new_id().lower(), kind, tuple(plan.subnet_ids))
        of_kind = [role for role in roles if types[role] == kind]
        prompts.bake(plan.context, of_kind, options.bundle, plan.config.worker.engine, builder_config)


def _create_change_set(
    plan: StackPlan,
    options: UpOptions,
    stack: StackDescription | None,
    wanted: Mapping[str, str],
    *,
    reverts_drift: bool = False,
) -> ProposedChangeSet | None:
    context = plan.context
    url = upload_template(context, template_for(plan.parameters))
    kind: ChangeSetType = "CREATE" if stack is None or stack.is_deleted else "UPDATE"
    if stack is not None and kind == "UPDATE":
        delete_stale_change_sets(context.account, stack.stack_id)
    parameters = change_set_parameters(load_template(), wanted, stack)
    role = options.service_role
    return create_change_set(context, kind, url, parameters, reverts_drift=reverts_drift, service_role=role)


def _report_changes(
    plan: StackPlan, wanted: Mapping[str, str], stack: StackDescription | None, changes: Sequence[ResourceChange]
) -> None:
    """Report the changes, and what the changed stack costs a month without use."""
    context = plan.context
    context.report(change_table(changes))
    existing = [] if stack is None or stack.is_deleted else stack_resources(context.account, stack)
    removed = {each.name for each in changes if each.action == "Remove"}
    kinds = [kind for name, kind, _ in existing if name not in removed]
    kinds += [each.kind for each in changes if each.action in {"Add", "Import"}]
    known = parameter_values(StackSettings(wanted), stack)
    zones, web_instances = len(known["SubnetIds"].split(",")), int(known["WebInstances"])
    parts = BilledParts.from_resources(kinds, known["WebInstanceType"], zones, snapshot_gb(context), web_instances)
    context.report(cost_table(monthly_cost(parts, plan.config)))


def _deploy(plan: StackPlan, proposed: ProposedChangeSet) -> None:
    """Execute a change set, with room for the new web instance if one is replaced."""
    replaced = any(each.kind == AUTO_SCALING_GROUP and each.action != "Add" for each in proposed.changes)
    with room_for_web_instance(plan.context, plan.web_type) if replaced else nullcontext(None) as make_room:
        deploy(plan.context, proposed, make_room)


def _revert_drift(plan: StackPlan, options: UpOptions, prompts: Prompts | None) -> None:
    """Give adopted buckets and tables the settings of the template, which their import does not change.

    With `prompts` the user is asked first: an earlier run has adopted them, and other resources may differ by now.

    "After the import is complete and before performing subsequent stack operations, we recommend running drift
    detection on imported resources": https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/import-resources-automatically.html
    """
    context = plan.context
    try:
        stack = find_stack(context.account, context.prefix)
        wanted = _wanted_parameters(plan, options, stack)
        if proposed := _create_change_set(plan, options, stack, wanted, reverts_drift=True):
            context.report(change_table(proposed.changes))
            if prompts is not None and not prompts.confirm(
                f"Give the stack {context.prefix} its template's settings?"
            ):
                delete_change_set(context.account, proposed)
                return
            _deploy(plan, proposed)
        end_adoption(context)
    except StackFailedError as error:
        context.report(
            f"Adopted buckets and tables may keep settings of the last stack ({error}): see its drift in the console "
            "of CloudFormation."
        )


def _wanted_parameters(plan: StackPlan, options: UpOptions, stack: StackDescription | None) -> dict[str, str]:
    context, config, prefix = plan.context, plan.config, plan.context.prefix
    return {
        "Prefix": prefix,
        # Given at each update, so that CloudFormation reads the parameters' values again.
        "WorkerImage": f"/{prefix}/image/worker",
        "WebImage": f"/{prefix}/image/web",
        **config_parameters(merge_config(stack_config(stack), options.settings.config)),
        "WorkerDiskGiB": str(worker_disk_gib(context, config.worker.engine)),
        **source_parameters(config, context.account.partition),
        "UnkeptDays": unkept_days(config.retention, options.settings, stack),
        "SignInHours": str(ceil(config.auth.session_hours)),
        **kept_pool_parameters(context.account, prefix, options.settings, stack),
        **plan.network,
        "PermissionsBoundaryArn": plan.parameters["PermissionsBoundaryArn"],
        **options.settings.parameters,
    }


def _dry_run(plan: StackPlan, options: UpOptions, stack: StackDescription | None, lacking: Sequence[Role]) -> None:
    """Report the change set, delete it, and delete the bucket if it did not exist before.

    A change set needs existing images: an image of Amazon's replaces each missing one.
    """
    context, account = plan.context, plan.account
    if options.rebake:
        context.report("Images of the newest Debian and this source would be baked first, unless they exist.")
    if lacking:
        context.report(f"There is no image for {' and '.join(lacking)}: it would be baked first.")
        others = {f"{role.title()}Image": AMAZON_LINUX for role in lacking}
        options = replace(
            options, settings=replace(options.settings, parameters={**others, **options.settings.parameters})
        )
    if stack is not None and (stack.is_busy or stack.status in NEVER_COMPLETE):
        context.report(f"The stack is {stack.status}: it would be waited for, or deleted and made again.")
        return
    had_bucket = bucket_exists(account, context.bake_bucket)
    try:
        wanted = _wanted_parameters(plan, options, stack)
        proposed = _create_change_set(plan, options, stack, wanted)
        if proposed is None:
            context.report(f"The stack {context.prefix} is as it should be: nothing would be done.")
        else:
            _report_changes(plan, wanted, stack, proposed.changes)
            delete_change_set(account, proposed)
    finally:
        if had_bucket:
            delete_objects(context, "stack/")
        else:
            delete_bucket(account, context.bake_bucket)


def _finish(context: AwsContext, prompts: Prompts, offered: Sequence[Path]) -> str:
    stack = find_stack(context.account, context.prefix)
    assert stack is not None  # nosec B101 # noqa: S101 (it is complete)
    set_termination_protection(context, stack, wanted=stack.parameters.get("DeletionProtection") == "true")
    restart_web_tier(context, stack)
    release_workers(context, stack)  # which a run that died has held back
    if "SiteBucketName" in stack.outputs:
        # Imported here: it loads the whole web tier, which only stacks with a site need.
        from scripts.aws.site import publish_site

        publish_site(context.account, context.prefix, context.report_change)
    address = wait_for_page(context, stack, prompts.answers)
    if offered:
        offer_bundles(context, stack, offered)
    versions = template_versions(context.account, stack)
    if versions and versions[0] != versions[1]:
        context.report(
            f"Workers are launched from version {versions[0]} of their template; {versions[1]} is the newest: "
            "`fleetsight roll` takes them there."
        )
    report_access(context, stack)
    context.report(f"Fleetsight is at {stack.outputs.get('SiteAddress', address)}")
    return address
