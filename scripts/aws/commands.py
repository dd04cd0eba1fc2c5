"""``fleetsight bake | up | status | roll | ssh | site | down``: arguments, options and output."""

import ipaddress
import json
import os
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import click
from rich.console import RenderableType

from core.config import EngineName, load_config
from core.ids import new_id
from fleetsight_client.cli import CommandGroup
from fleetsight_client.console import Console
from scripts.aws import status
from scripts.aws.bake.bake import BakeOptions, bake, ready_images, select_bundle, source_archive
from scripts.aws.bake.builders import BuilderConfig
from scripts.aws.bake.spec import ROLES, BaseImage, ImageSpec, Role, SourceArchive, base_image
from scripts.aws.context import AwsAccount, AwsContext, Waiter, aws_command
from scripts.aws.deploy.settings import StackSettings
from scripts.aws.deploy.up import Prompts, UpOptions, check_account, check_builders, up
from scripts.aws.down import DRAIN_SECONDS, DownOptions, down
from scripts.aws.instances import instances_tagged, select_instance, session_command
from scripts.aws.preflight.permissions import deploy_template
from scripts.aws.rollout import RolloutOptions, roll_out, roll_session_keys
from scripts.demo_model import DEMO_NAME

EVERYBODY = "0.0.0.0/0"

AWS_CLI = "https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html"
"""Without its plugin for sessions, the command names the page to install it from."""

_PARAMETERS = {
    "open_to": "WebCidr",
    "certificate": "CertificateArn",
    "domain": "DomainName",
    "zone": "HostedZoneId",
    "email": "AlertEmail",
    "budget": "MonthlyBudget",
}
"""Options that set a parameter of the stack."""

dry_run_option = click.option("--dry-run", is_flag=True, help="Show what the command would do, and change nothing.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def console_context(account: AwsAccount, prefix: str) -> AwsContext:
    """Return the context of a command that reports on the terminal."""
    console = Console()

    def report(shown: RenderableType) -> None:
        # A sentence may contain a command that the user copies: it is not wrapped.
        console.print(shown, soft_wrap=isinstance(shown, str))

    return AwsContext(account, prefix, lambda sentence: report(f"✓ {sentence}"), report, Waiter())


def parse_network(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Return the network that may open the page."""
    if value is None:
        return None
    if value == "everybody":
        return EVERYBODY
    if value == "me":
        raise click.BadParameter(
            "Fleetsight asks no service on the internet for your address: look it up (your router knows it, or your "
            "network's administrator), and give it as --open-to A.B.C.D/32"
        )
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} ({error}): give a network such as 198.51.100.7/32, or everybody"
        ) from error


def parse_pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the values of all NAME=VALUE by their names."""
    if wrong := [each for each in values if "=" not in each]:
        raise click.BadParameter(f"{wrong[0]!r}: write NAME=VALUE")
    return dict(each.split("=", 1) for each in values)


def parse_list(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return the parts between commas."""
    return tuple(each.strip() for each in (value or "").split(",") if each.strip())


_vpc = click.option("--vpc", metavar="ID", help="VPC of a new stack [default: the default VPC]")
_subnets = click.option(
    "--subnets", callback=parse_list, metavar="ID,ID", help="Subnets of that VPC [default: a public one in each zone]"
)

_set = click.option(
    "--set",
    "parameters",
    multiple=True,
    callback=parse_pairs,
    metavar="NAME=VALUE",
    help="Set a parameter of the stack (infra/README.md).",
)

_config = click.option(
    "--config",
    multiple=True,
    callback=parse_pairs,
    metavar="KEY=VALUE",
    help="Override a key of config.yaml on this stack, such as fleet.max_workers=5. An empty VALUE removes it.",
)


_service_role = click.option(
    "--service-role",
    default="",
    metavar="ARN",
    help="Role that CloudFormation assumes [default: that of the stack, or your own rights]",
)


@click.group("aws", cls=CommandGroup)
def aws() -> None:
    """Check an AWS account."""


@aws.command("check")
@_vpc
@_subnets
@_set
@_config
@_service_role
@click.option(
    "--policy",
    is_flag=True,
    help="Print a CloudFormation template with the IAM policies of the person who deploys, without a call of AWS.",
)
@aws_command
def check_command(account: AwsAccount, prefix: str, /, *, policy: bool, **arguments: Any) -> None:
    """Find what the account lacks for a stack: rights, quotas, instance types, a network, and what else stops `up`.

    Nothing is made. `up` begins with the same checks. The exit status is 1 where one of them says stop.
    """
    settings = StackSettings(arguments["parameters"], arguments["config"])
    if policy:
        boundary = arguments["parameters"].get("PermissionsBoundaryArn", "")
        click.echo(json.dumps(deploy_template(prefix, boundary), indent=1))  # CloudFormation takes 51,200 bytes
        return
    network, role = (arguments["vpc"], arguments["subnets"]), arguments["service_role"]
    check_account(console_context(account, prefix), UpOptions(settings, *network, service_role=role))


@click.command("up")
@click.option(
    "--open-to", callback=parse_network, metavar="CIDR|everybody", help="Who may reach the page [at first: no one]"
)
@click.option("--certificate", metavar="ARN", help="Certificate of ACM, for a load balancer in front of the page.")
@click.option("--domain", metavar="NAME", help="Domain name of the page; needs --certificate and --zone.")
@click.option("--zone", metavar="ID", help="Route 53 zone in which the domain name is created.")
@click.option("--email", metavar="ADDRESS", help="Address that receives alarms, after a confirmation by e-mail.")
@click.option(
    "--budget",
    type=click.IntRange(min=0),
    metavar="DOLLARS",
    help="Monthly budget; an alarm is sent at 80%. 0: no budget.",
)
@_vpc
@_subnets
@_set
@_config
@_service_role
@click.option(
    "--bundle", metavar="DIR|s3://…", help="Model bundle to bake into images [default: that of the present images]"
)
@click.option(
    "--demo",
    "bundle",
    flag_value=DEMO_NAME,
    help="Offer the models of the first job: photos, baked into missing images, and demo by its name.",
)
@click.option("--bake/--no-bake", default=True, help="Whether to bake images that are missing.")
@click.option(
    "--rebake",
    is_flag=True,
    help="Bake the newest Debian, this source and the present model, and roll workers out: an upgrade, or fixes on a "
    "schedule (--yes).",
)
@yes_option
@dry_run_option
@aws_command
def up_command(account: AwsAccount, prefix: str, /, *, yes: bool, **arguments: Any) -> None:
    """Create or update Fleetsight on AWS: bake missing images, deploy the stack, wait until the page responds.

    The command shows the changes first. Options that you omit keep their values. After a crash, run it again: it
    continues. A dry run creates CloudFormation's change set, shows it, and deletes it.
    """
    if arguments["rebake"] and not arguments["bake"]:
        raise click.UsageError("--rebake and --no-bake exclude each other: give one of them")
    given = {
        parameter: str(arguments[name]) for name, parameter in _PARAMETERS.items() if arguments[name] is not None
    }
    options = UpOptions(
        settings=StackSettings({**given, **arguments["parameters"]}, arguments["config"]),
        vpc_id=arguments["vpc"],
        subnet_ids=arguments["subnets"],
        bundle=arguments["bundle"],
        bake=arguments["bake"],
        rebake=arguments["rebake"],
        dry_run=arguments["dry_run"],
        service_role=arguments["service_role"],
    )
    context = console_context(account, prefix)
    up(context, options, Prompts(lambda question: yes or click.confirm(question)))
    if options.rebake and not options.dry_run:
        roll_out(context, RolloutOptions())


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@aws_command
def status_command(account: AwsAccount, prefix: str, *, as_json: bool) -> None:
    """Show the stack on AWS: page, instances, queues, alarms, images, and the last failure."""
    context = console_context(account, prefix)
    stack_status = status.read_status(context)
    if as_json:
        click.echo(json.dumps(None if stack_status is None else asdict(stack_status), indent=2))
    elif stack_status is not None:
        context.report(status.status_table(stack_status))
    if stack_status is None:
        raise click.ClickException(f"there is no stack {prefix} in {account.region_name}: `fleetsight up` makes it")


@click.command("ssh")
@click.argument("instance", metavar="[INSTANCE|web]", required=False)
@dry_run_option
@aws_command
def ssh_command(account: AwsAccount, prefix: str, *, instance: str | None, dry_run: bool) -> None:
    """Open a shell on INSTANCE, by its id or the beginning of it, or on the web instance.

    It goes by Session Manager: there is no key, and no port is open for it.
    """
    running = instances_tagged(account, prefix, states=["running"])
    command = session_command(account, select_instance(running, prefix, instance))
    if dry_run:
        click.echo(" ".join(command))
        return
    try:
        os.execvp(command[0], command)  # nosec B606 # noqa: S606 (the session takes over the terminal)
    except FileNotFoundError as error:
        raise click.ClickException(f"a session needs AWS's command line: install it from {AWS_CLI}") from error


@click.command("down")
@click.option("--delete-data", is_flag=True, help="Also delete images, results, jobs and accounts, permanently.")
@click.option("--drain-seconds", type=click.FloatRange(min=0), default=DRAIN_SECONDS, show_default=True,
              help="Seconds that workers have to finish their images.")  # fmt: skip
@yes_option
@dry_run_option
@aws_command
def down_command(
    account: AwsAccount, prefix: str, *, delete_data: bool, drain_seconds: float, yes: bool, dry_run: bool
) -> None:
    """Delete Fleetsight from AWS: fleet, stack, images and everything with its tag. Verify that all is deleted.

    Users' data stay, unless you give --delete-data: the next `up` finds them again. After a crash, run the command
    again: it continues. The exit status is 1 if anything is left.
    """
    options = DownOptions(delete_data, drain_seconds, dry_run)
    prices = load_config().prices

    def confirm(name: str) -> bool:
        typed = "" if yes else click.prompt(f"Type {name} to delete what is listed", default="", show_default=False)
        return yes or bool(typed == name)

    down(console_context(account, prefix), options, prices, confirm)


@click.command("bake")
@click.option("--role", type=click.Choice(ROLES), help="Bake this image only [default: both, side by side]")
@click.option("--bundle", metavar="DIR|s3://…", help="Model bundle to bake [default: .fleetsight/models/photos]")
@click.option("--demo", "bundle", flag_value=DEMO_NAME, help="Bake the demo bundle: signs and everyday things.")
@click.option(
    "--engine",
    type=click.Choice(get_args(EngineName)),
    help="Engine of the workers; torch comes with NVIDIA's driver [default: worker.engine of config.yaml]",
)
@click.option("--force", is_flag=True, help="Bake even if an image of this source and base exists.")
@click.option(
    "--instance-type",
    default="c7a.large",
    show_default=True,
    help="Type of the instance that builds; images have its architecture.",
)
@click.option("--subnet", help="Subnet of that instance, with a way to the internet [default: the default VPC's]")
@dry_run_option
@aws_command
def bake_command(
    account: AwsAccount,
    prefix: str,
    /,
    *,
    role: Role | None,
    bundle: str | None,
    engine: EngineName | None,
    force: bool,
    dry_run: bool,
    **arguments: Any,
) -> None:
    """Bake the machine images, each a Debian 12 with this source and a model bundle on it.

    It takes some minutes and a few cents. An image of the same source and base is not baked again.
    """
    engine = engine or load_config().worker.engine
    folder = select_bundle(account, bundle, engine)
    context = console_context(account, prefix)
    builder_config = BuilderConfig(
        lambda: new_id().lower(), arguments["instance_type"], (arguments["subnet"],) if arguments["subnet"] else ()
    )
    options = BakeOptions(builder_config, roles=(role,) if role else ROLES, force=force)
    with source_archive(folder, engine) as source:
        base = base_image(account.ec2, builder_config.instance_type, engine, options.roles)
        facts = source.facts
        click.echo(
            f"Fleetsight {facts.version} ({facts.commit[:12]}), bundle {facts.bundle_digest[:12]}, {engine}, "
            f"on {base.name}"
        )
        check_builders(context, builder_config, verbose=dry_run)
        if dry_run:
            _report_dry_run(context, options, source, base)
            return
        for name, image_id in bake(context, options, source, base).items():
            click.echo(f"{name:<8}{image_id}")


def _report_dry_run(context: AwsContext, options: BakeOptions, source: SourceArchive, base: BaseImage) -> None:
    ready = {} if options.force else ready_images(context, [ImageSpec(role, source, base) for role in options.roles])
    builder = f"{options.builder_config.instance_type} in {context.account.region_name}"
    for role in options.roles:
        would_name = f"{context.image_parameter(role)} would name it"
        if role in ready:
            click.echo(f"{role:<8}{ready[role]} is this already: {would_name}")
        else:
            click.echo(
                f"{role:<8}would be built on a {builder}, passing the bucket {context.bake_bucket}, and {would_name}"
            )


@click.command("roll")
@click.option(
    "--to",
    type=click.IntRange(min=1),
    metavar="VERSION",
    help="Version of the workers' launch template [default: newest]",
)
@click.option("--back", is_flag=True, help="Roll back to the version before the last roll.")
@click.option("--wait/--no-wait", default=True, help="Wait until all old workers are gone.")
@click.option("--new-session-key", is_flag=True, help="Only replace the key of sessions on the web instance.")
@dry_run_option
@aws_command
def roll_command(
    account: AwsAccount, prefix: str, *, to: int | None, back: bool, wait: bool, new_session_key: bool, dry_run: bool
) -> None:
    """Roll out a new image or new settings: new workers replace old ones, a few at a time.

    The controller replaces them; old workers finish their images. After a crash, run the command again: it continues.
    """
    if back and to is not None:
        raise click.UsageError("--back and --to each name a version: give one of them")
    if new_session_key and (back or to is not None or not wait):
        raise click.UsageError("--new-session-key is of the web instance, the other options of workers: give one")
    context = console_context(account, prefix)
    if new_session_key:
        roll_session_keys(context, dry_run=dry_run)
    else:
        roll_out(context, RolloutOptions(to, back, wait, dry_run))


@click.command()
@aws_command
@dry_run_option
def site(account: AwsAccount, prefix: str, dry_run: bool) -> None:
    """Publish the front end as static files, where the stack has a site.

    `fleetsight up` does it too; by itself it is for a change of texts or styles alone.
    """
    from scripts.aws.site import publish_site  # brings the whole web tier

    if dry_run:
        print(site_plan(account, prefix))
    else:
        print(f"The site is at {publish_site(account, prefix, print)}")


def site_plan(account: AwsAccount, prefix: str) -> str:
    """Return what `publish_site` would do, as a sentence for the user.

    Raises:
        SiteError: there is no such stack, or it has no site.
    """
    from scripts.aws.site import RenderedSite

    with TemporaryDirectory(prefix="fleetsight-site-") as folder:
        rendered = RenderedSite.render(account, prefix, Path(folder))
    location = rendered.location
    return (
        f"{len(rendered.files)} files would be put into {location.bucket}, {len(rendered.obsolete)} would be deleted "
        f"there, and CloudFront's cache would be invalidated. The site is at {location.address}"
    )
