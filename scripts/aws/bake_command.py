"""``fleetsight bake``: the machine images of workers and web tier, from Debian's and this source."""

from typing import Any, get_args

import click

from core.config import EngineName, load_config
from core.ids import new_id
from scripts.aws.account import Account
from scripts.aws.bake.archived import archived
from scripts.aws.bake.bake import Order, bake, there_already
from scripts.aws.bake.builders import Machines
from scripts.aws.bake.chosen import DEMO, chosen_bundle
from scripts.aws.bake.debian import base_for
from scripts.aws.bake.recipe import ROLES, Base, Recipe, Role, Site, Source
from scripts.aws.options import dry_run, on_account
from scripts.aws.waiting import Waiting


@click.command("bake")
@click.option("--role", type=click.Choice(ROLES), help="Bake this image only [default: both, side by side]")
@click.option("--bundle", metavar="DIR|s3://…", help="Model bundle to put in [default: .fleetsight/models/resnet18]")
@click.option("--demo", "bundle", flag_value=DEMO, help="Put the demo bundle in, of signs and everyday things.")
@click.option(
    "--engine",
    type=click.Choice(get_args(EngineName)),
    help="Of the workers; torch has NVIDIA's driver with it [default: worker.engine of config.yaml]",
)
@click.option("--force", is_flag=True, help="Bake although there is an image of this source and base.")
@click.option(
    "--instance-type",
    default="c7a.large",
    show_default=True,
    help="Of the machine that builds; images are for its architecture.",
)
@click.option("--subnet", help="Where it builds, with a way to the internet [default: the default VPC's]")
@dry_run
@on_account
def bake_command(
    account: Account,
    prefix: str,
    /,
    *,
    role: Role | None,
    bundle: str | None,
    engine: EngineName | None,
    force: bool,
    dry_run: bool,
    **where: Any,
) -> None:
    """Bake the machine images, each a Debian 12 with this source and a model bundle on it.

    It takes some minutes and a few cents. An image of the same source and base is not baked again.
    """
    engine = engine or load_config().worker.engine
    folder = chosen_bundle(account, bundle, engine)
    site = Site(account, prefix, click.echo, Waiting())
    machines = Machines(
        lambda: new_id().lower(), where["instance_type"], (where["subnet"],) if where["subnet"] else ()
    )
    order = Order(machines, roles=(role,) if role else ROLES, force=force)
    with archived(folder, engine) as source:
        base = base_for(account.ec2, machines.instance_type, engine, order.roles)
        facts = source.facts
        click.echo(
            f"Fleetsight {facts.version} ({facts.commit[:12]}), bundle {facts.bundle_digest[:12]}, {engine}, "
            f"on {base.name}"
        )
        if dry_run:
            _say_what_would_be_done(site, order, source, base)
            return
        for name, image_id in bake(site, order, source, base).items():
            click.echo(f"{name:<8}{image_id}")


def _say_what_would_be_done(site: Site, order: Order, source: Source, base: Base) -> None:
    ready = {} if order.force else there_already(site, [Recipe(role, source, base) for role in order.roles])
    for role in order.roles:
        if role in ready:
            click.echo(f"{role:<8}{ready[role]} is this already: {site.parameter(role)} would name it")
        else:
            click.echo(
                f"{role:<8}would be built on a {order.machines.instance_type} in {site.account.region_name}, passing "
                f"the bucket {site.bucket}, and {site.parameter(role)} would name it"
            )
