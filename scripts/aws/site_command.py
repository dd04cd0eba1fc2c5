"""``fleetsight site``: publishes the front end as static files."""

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from scripts.aws.account import Account
from scripts.aws.options import dry_run, on_account


@click.command()
@on_account
@dry_run
def site(account: Account, prefix: str, dry_run: bool) -> None:
    """Publish the front end as static files, where the stack has a site.

    `fleetsight up` does it too; by itself it is for a change of texts or styles alone.
    """
    from scripts.aws.site.publish import publish_site  # brings the whole web tier

    if dry_run:
        print(plan(account, prefix))
    else:
        print(f"The site is at {publish_site(account, prefix, print)}")


def plan(account: Account, prefix: str) -> str:
    """Say what would be done.

    Raises:
        SiteError: there is no such stack, or it has no site.
    """
    from scripts.aws.site.publish import Site

    with TemporaryDirectory(prefix="fleetsight-site-") as folder:
        found = Site.rendered(account, prefix, Path(folder))
    if found.is_published:
        return f"{found.place.bucket} has all of the site already. It is at {found.place.address}"
    return (
        f"{len(found.files)} files would be put into {found.place.bucket}, {len(found.gone)} would be deleted there, "
        f"and CloudFront told so. The site is at {found.place.address}"
    )
