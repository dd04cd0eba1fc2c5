"""``fleetsight up | status | logs | ssh | down``: what people type."""

import ipaddress
import json
import os
import time
from typing import Any

import click
from rich.console import Console, RenderableType

from core.config import load_config
from scripts.aws import logs as logged
from scripts.aws import sessions, status
from scripts.aws.account import Account
from scripts.aws.deploy import up as ups
from scripts.aws.deploy.settings import StackSettings
from scripts.aws.instances import tagged
from scripts.aws.operation import Operation
from scripts.aws.options import dry_run, on_account
from scripts.aws.preflight import rights
from scripts.aws.teardown import down as downs
from scripts.aws.teardown.drain import DRAIN_SECONDS
from scripts.aws.waiting import Waiting

EVERYBODY = "0.0.0.0/0"

_PARAMETERS = {
    "open_to": "WebCidr",
    "certificate": "CertificateArn",
    "domain": "DomainName",
    "zone": "HostedZoneId",
    "email": "AlertEmail",
    "budget": "MonthlyBudget",
}
"""Parameters of the stack that have an option of their own."""

YES = click.option("--yes", is_flag=True, help="Do not ask.")


def _operation(account: Account, prefix: str) -> Operation:
    console = Console()

    def say(shown: RenderableType) -> None:
        # A sentence may hold a command to be copied, so it is not broken into lines.
        if isinstance(shown, str):
            console.print(shown, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(shown)

    return Operation(account, prefix, lambda sentence: say(f"✓ {sentence}"), say, Waiting())


def network(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
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


def pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return NAME=VALUE, any number of them, as a mapping."""
    if wrong := [each for each in values if "=" not in each]:
        raise click.BadParameter(f"{wrong[0]!r}: write NAME=VALUE")
    return dict(each.split("=", 1) for each in values)


def listed(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return what stands between commas."""
    return tuple(each.strip() for each in (value or "").split(",") if each.strip())


_vpc = click.option("--vpc", metavar="ID", help="Where a new stack goes [default: the default VPC]")
_subnets = click.option(
    "--subnets", callback=listed, metavar="ID,ID", help="In it [default: a public one in each zone]"
)
_set = click.option(
    "--set", "parameters", multiple=True, callback=pairs, metavar="NAME=VALUE", help="Any parameter of the stack."
)
_config = click.option(
    "--config",
    multiple=True,
    callback=pairs,
    metavar="KEY=VALUE",
    help="What config.yaml says otherwise here, such as fleet.max_workers=5; no longer where VALUE is empty.",
)


@click.group("aws")
def aws() -> None:
    """Look at an AWS account."""


@aws.command("check")
@_vpc
@_subnets
@_set
@_config
@click.option("--policy", is_flag=True, help="Print the IAM policy of the person who deploys, and check nothing.")
@on_account
def check_command(account: Account, prefix: str, /, *, policy: bool, **said: Any) -> None:
    """Find what the account lacks for a stack: rights, quotas, instance types, a network, and what else stops `up`.

    Nothing is made. `up` begins with the same checks. The exit status is 1 where one of them says stop.
    """
    wishes = StackSettings(said["parameters"], said["config"])
    if policy:
        click.echo(json.dumps(rights.policy(account, prefix), indent=2))
    else:
        ups.check(_operation(account, prefix), ups.Order(wishes, said["vpc"], said["subnets"]))


@click.command("up")
@click.option(
    "--open-to", callback=network, metavar="CIDR|everybody", help="Who may reach the page [at first: no one]"
)
@click.option("--certificate", metavar="ARN", help="Of ACM: puts a load balancer before the page.")
@click.option("--domain", metavar="NAME", help="Of the page; with --certificate and --zone.")
@click.option("--zone", metavar="ID", help="Route 53 zone in which that name is made.")
@click.option("--email", metavar="ADDRESS", help="Who is told of alarms, and confirms that once.")
@click.option(
    "--budget", type=click.IntRange(min=0), metavar="DOLLARS", help="A month; an alarm tells at 80% of it; 0: none."
)
@_vpc
@_subnets
@_set
@_config
@click.option("--bundle", metavar="DIR|s3://…", help="Model bundle to bake in, where there are no images yet.")
@click.option("--demo", "bundle", flag_value="demo", help="Bake the demo bundle in, of signs and everyday things.")
@click.option("--bake/--no-bake", default=True, help="Whether to bake images that are missing.")
@YES
@dry_run
@on_account
def up_command(account: Account, prefix: str, /, *, yes: bool, **said: Any) -> None:
    """Make Fleetsight on AWS, or change it: images where there are none, the stack, and its page answering.

    What would change is shown first. What is not said stays as it is. Run again after a crash it goes on. A dry run
    asks CloudFormation for the changes and throws them away.
    """
    named = {parameter: str(said[name]) for name, parameter in _PARAMETERS.items() if said[name] is not None}
    order = ups.Order(
        wishes=StackSettings({**named, **said["parameters"]}, said["config"]),
        vpc_id=said["vpc"],
        subnet_ids=said["subnets"],
        bundle=said["bundle"],
        bake=said["bake"],
        dry_run=said["dry_run"],
    )
    ups.up(_operation(account, prefix), order, ups.Prompts(lambda question: yes or click.confirm(question)))


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@on_account
def status_command(account: Account, prefix: str, *, as_json: bool) -> None:
    """Show how the stack is: page, instances, queues, alarms, images, and the last failure."""
    operation = _operation(account, prefix)
    found = status.status_of(operation)
    if as_json:
        click.echo(json.dumps(None if found is None else found.as_json(), indent=2))
    elif found is not None:
        operation.say(status.shown(found))
    if found is None:
        raise click.ClickException(f"there is no stack {prefix} in {account.region_name}: `fleetsight up` makes it")


@click.command("logs")
@click.argument("role", type=click.Choice(logged.ROLES), required=False)
@click.option("--since", default="10m", show_default=True, help="How far back: 90s, 10m, 2h, 1d.")
@click.option("--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--filter", "text", default="", metavar="TEXT", help="Only lines that hold TEXT.")
@on_account
def logs_command(account: Account, prefix: str, *, role: str | None, since: str, follow: bool, text: str) -> None:
    """Show what web tier, controller and workers have written, or one of them, oldest first (times in UTC)."""
    reader = logged.Reader(account, prefix, (role,) if role else logged.ROLES, text)
    for line in reader.since(time.time() - logged.seconds_of(since)):
        click.echo(line)
    if follow:
        logged.follow(reader, click.echo, Waiting())


@click.command("ssh")
@click.argument("instance", metavar="[INSTANCE|web]", required=False)
@dry_run
@on_account
def ssh_command(account: Account, prefix: str, *, instance: str | None, dry_run: bool) -> None:
    """Open a shell on INSTANCE, by its id or the beginning of it, or on the web instance.

    It goes by Session Manager: there is no key, and no port is open for it.
    """
    running = tagged(account, prefix, states=["running"])
    words = sessions.command(account, sessions.chosen(running, prefix, instance))
    if dry_run:
        click.echo(" ".join(words))
        return
    sessions.need_programs()
    os.execvp(words[0], words)  # nosec B606 # noqa: S606 (the terminal is the session's from here on)


@click.command("down")
@click.option("--delete-data", is_flag=True, help="Images, results, jobs and accounts too, for good.")
@click.option("--drain-seconds", type=click.FloatRange(min=0), default=DRAIN_SECONDS, show_default=True,
              help="How long workers have to finish what they have.")  # fmt: skip
@YES
@dry_run
@on_account
def down_command(
    account: Account, prefix: str, *, delete_data: bool, drain_seconds: float, yes: bool, dry_run: bool
) -> None:
    """Take Fleetsight off AWS: fleet, stack, images and all else that carries its tag; and prove that it is gone.

    What people have entrusted stays, unless --delete-data is given: the next `up` finds it again. Run again after a
    crash it goes on. The exit status is 1 when anything is left.
    """
    order = downs.Order(delete_data, drain_seconds, dry_run)
    prices = load_config().prices
    downs.down(_operation(account, prefix), order, prices, lambda wanted: yes or _typed(wanted))


def _typed(wanted: str) -> bool:
    return bool(click.prompt(f"Type {wanted} to delete what is listed", default="", show_default=False) == wanted)
