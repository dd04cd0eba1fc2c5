"""The bake, step by step: the bundle and the source archive, builders, images, and the parameters that name them.

A process may die after any step: the next bake continues from what exists, or undoes it.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from ami.archive import write_archive
from app_tier.bundle import DEMO_BUNDLE, load_bundle
from app_tier.bundle_s3 import fetch_bundle, in_s3
from core.bundle_manifest import TORCH_NAME, BundleError
from core.config import EngineName
from scripts.aws import buckets
from scripts.aws.bake import images
from scripts.aws.bake.builders import (
    MAX_LIFE_MINUTES,
    MAX_LOG_LINES,
    Builder,
    BuilderConfig,
    QuotaUsedError,
    delete_security_group,
    describe_builder,
    launch_builder,
    list_builders,
    terminate_builders,
    verify_report,
)
from scripts.aws.bake.spec import ROLES, BakeError, BaseImage, BuilderError, ImageSpec, Role, SourceArchive
from scripts.aws.context import AwsAccount, AwsContext, TimedOutError
from scripts.demo_model import DEMO_NAME
from scripts.home import HOME, MODELS_FOLDER
from scripts.model.built_once import PHOTOS
from services.clock import CLOCK, Clock
from services.ec2 import console_of

ROOT = Path(__file__).parents[3]

AGENT_KEY = ROOT / "ami" / "keys" / "amazon-ssm-agent.asc"
KEY_WARNING = timedelta(days=90)
"""How long before the key expires each bake warns of it."""

QUOTA_SECONDS = 900.0
"""The longest wait for vCPUs of a builder: a worker ends once it has been idle."""

BUILD_SECONDS = (MAX_LIFE_MINUTES + 10) * 60.0
POLL_SECONDS = 10.0


@dataclass(frozen=True)
class BakeOptions:
    """What to bake.

    Attributes:
        builder_config: how builders are launched.
        force: bake even if an image of the same source and base exists.
        logs: folder for the logs of builders that fail.
        clock: for the image's tag.
    """

    builder_config: BuilderConfig
    roles: tuple[Role, ...] = ROLES
    force: bool = False
    logs: Path = HOME / "logs"
    clock: Clock = CLOCK


def select_bundle(account: AwsAccount, name: str | None, engine: EngineName, models: Path = MODELS_FOLDER) -> Path:
    """Return the folder of the bundle to bake, every digest verified.

    Args:
        account: of the S3 from which a bundle with an address is downloaded.
        name: a folder, a zip, an address in S3, or `DEMO_NAME`; None for the default bundle.
        engine: that is to run the bundle.
        models: the folder of built bundles.

    Raises:
        BakeError: the bundle does not exist, is not complete, or is not for this engine; the message says how to
            make one.
    """
    try:
        if name == DEMO_NAME:
            bundle = load_bundle(DEMO_BUNDLE)
        elif name is not None:
            address = in_s3(name)
            bundle = load_bundle(Path(name)) if address is None else fetch_bundle(account.s3, address)
        elif (models / PHOTOS).is_dir():
            bundle = load_bundle(models / PHOTOS)
        else:
            raise BakeError(
                f"there is no bundle in {models / PHOTOS}: make the one for photos with "
                f"`./scripts/fleetsight model build {PHOTOS}`, name another by --bundle, or take the one of "
                f"signs and everyday things by --{DEMO_NAME}"
            )
    except BundleError as error:
        raise BakeError(str(error)) from error
    if engine == "torch" and TORCH_NAME not in bundle.manifest.files:
        raise BakeError(
            f"the bundle {bundle.name} holds no network for torch: build it of a .pt2 file or a network of "
            "torchvision, or choose the engine openvino"
        )
    return bundle.folder


@contextmanager
def source_archive(bundle: Path, engine: EngineName) -> Iterator[SourceArchive]:
    """Archive this checkout and the bundle; the archive exists while the block runs."""
    with tempfile.TemporaryDirectory(prefix="fleetsight-bake-") as work:
        path = Path(work) / "source.tar.gz"
        yield SourceArchive(path, write_archive(path, bundle, ROOT, engine))


def bake(context: AwsContext, options: BakeOptions, source: SourceArchive, base: BaseImage) -> dict[Role, str]:
    """Bake the images, store their ids in the parameter store, and return the ids by role.

    An existing image of the same source and base is used; one that EC2 is still creating for another process is
    waited for. No builder, and nothing that only builders need, is left when the function ends.

    Raises:
        BakeError: an image could not be baked; the other one is, if two are ordered.
        TimedOutError: AWS takes too long.
        botocore.exceptions.BotoCoreError, ClientError: AWS cannot be reached, or refuses.
    """
    (expires,) = re.findall(r"^Expires: (\S+)$", AGENT_KEY.read_text(), re.MULTILINE)
    left = date.fromisoformat(expires) - options.clock.utc_now().date()
    if left < KEY_WARNING:  # AWS announces a new key on one page only
        context.report(
            f"The key of Session Manager's agent in {AGENT_KEY.relative_to(ROOT)} expires on {expires}, and nothing "
            "is baked from then on: put AWS's new one there. The file names the page that has it"
        )
    specs = [ImageSpec(role, source, base) for role in options.roles]
    ready = {} if options.force else ready_images(context, specs)
    failures: list[BuilderError] = []
    try:
        for role, image_id in ready.items():
            images.wait_until_available(context, image_id)
            context.report(f"{image_id} is the {role}'s image of this source and base already")
        if missing := [spec for spec in specs if spec.role not in ready]:
            ready |= _build_images(context, options, missing, failures)
        for role, image_id in ready.items():
            images.store_image(context, role, image_id)
            images.prune_images(context, role)
    finally:
        clean_up(context, options.roles)
    if failures:
        raise BakeError("\n".join(str(failure) for failure in failures))
    return ready


def ready_images(context: AwsContext, specs: Sequence[ImageSpec]) -> dict[Role, str]:
    """Return the existing images of these specs, and those that EC2 is creating, by role."""
    ready: dict[Role, str] = {}
    for spec in specs:
        found = [each for each in images.list_images(context, spec.role, spec) if each.state in images.USABLE_STATES]
        if found:
            ready[spec.role] = min(found, key=lambda image: image.state).image_id  # available before pending
    return ready


def clean_up(context: AwsContext, roles: Sequence[Role]) -> None:
    """Delete what bakes of these roles need only while they run, and what a bake that was cut short has left."""
    terminate_builders(context, roles)
    for role in roles:
        delete_security_group(context, role)
        buckets.delete_objects(context, f"{role}/")
    if not list_builders(context, ROLES):  # the builder of another role may still download the archive
        buckets.delete_objects(context, "source/")
    images.delete_incomplete_images(context, roles)


def _build_images(
    context: AwsContext, options: BakeOptions, specs: Sequence[ImageSpec], failures: list[BuilderError]
) -> dict[Role, str]:
    """Build the images of these specs side by side, or one after the other where the quota holds no more builders.

    The builders that failed are added to `failures`.
    """
    buckets.ensure_bucket(context)
    buckets.upload_source(context, specs[0].source)
    builders: dict[Role, Builder] = {}

    def launch(spec: ImageSpec) -> bool:
        with suppress(QuotaUsedError):
            builders[spec.role] = _resume_or_launch(context, options, spec)
        return spec.role in builders

    for spec in specs:
        launch(spec)
    created: dict[Role, str] = {}
    for spec in sorted(specs, key=lambda each: each.role not in builders):
        if spec.role not in builders:
            what = (
                f"the account's vCPUs to have room for a {options.builder_config.instance_type}: let workers end, or "
                "ask for more vCPUs as `fleetsight aws check` shows"
            )
            context.report(f"The {spec.role}'s image waits for {what}.")
            context.waiter.until(partial(launch, spec), what, seconds=QUOTA_SECONDS, every=POLL_SECONDS)
        builder = builders[spec.role]
        try:
            seconds = _await_build(context, options, spec, builder)
        except BuilderError as failure:
            failures.append(failure)
        else:
            context.report(f"{builder.instance_id} took {seconds:.0f} s to build the {spec.role}'s image")
            baked_at = f"{options.clock.utc_now():%Y-%m-%dT%H:%M:%SZ}"
            created[spec.role] = images.create_image(context, spec, builder, baked_at)
    for image_id in created.values():
        images.wait_until_available(context, image_id)
    return created


def _resume_or_launch(context: AwsContext, options: BakeOptions, spec: ImageSpec) -> Builder:
    """Return the builder of an earlier bake of this spec if it can still succeed, else a new one."""
    for builder in list_builders(context, [spec.role], spec):
        report = buckets.read_object(context, buckets.report_key(spec.role, builder.run))
        with suppress(BuilderError):
            if report is not None:
                verify_report(report, spec)
            if report is not None or builder.state in {"pending", "running"}:
                context.report(f"{builder.instance_id} builds the {spec.role}'s image already")
                return builder
    return launch_builder(context, spec, options.builder_config)


def _await_build(context: AwsContext, options: BakeOptions, spec: ImageSpec, builder: Builder) -> float:
    """Wait until a builder has stopped, and return how many seconds it took to build the image.

    Raises:
        BuilderError: it has not built the image; its log is saved.
    """

    def stopped() -> bool:
        return describe_builder(context, builder).state in {"stopped", "terminated"}

    try:
        try:
            what = f"{builder.instance_id}, which builds the {spec.role}'s image, to have built and stopped"
            context.waiter.until(stopped, what, seconds=BUILD_SECONDS, every=POLL_SECONDS)
        except TimedOutError as error:
            raise BuilderError(str(error), "") from error
        report = buckets.read_object(context, buckets.report_key(spec.role, builder.run))
        return verify_report(report, spec).seconds
    except BuilderError as error:
        log = buckets.read_object(context, buckets.log_key(spec.role, builder.run))
        log = log or console_of(context.account.ec2, builder.instance_id).encode()
        options.logs.mkdir(parents=True, exist_ok=True)
        path = options.logs / f"bake-{spec.role}.log"
        path.write_bytes(log)
        tail = error.log or "\n".join(log.decode(errors="replace").splitlines()[-MAX_LOG_LINES:])
        raise BuilderError(f"{error}; its log is {path}, and ends:\n{tail}", tail) from error
