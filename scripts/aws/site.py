"""The static site: the part of the web tier's front end that is the same for all users, as files behind CloudFront.

The web tier's own application renders it, so there is one front end. No service is called: the page's script asks for
the fleet and the session when a browser opens the page. The pages of jobs, the fleet and accounts come from the web
tier, which also keeps sessions: scripts cannot read the cookie of a session
(https://datatracker.ietf.org/doc/html/draft-ietf-oauth-browser-based-apps, 6.1). The bounds of an image, and whether
the demo model answers, are those of the configuration at the time: publish again after it changes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import urlsplit

from flask import Flask

from core.config import Config
from core.ids import new_id
from core.jobs.store import JobStore
from scripts.aws.context import AwsAccount
from scripts.aws.deploy.settings import stack_config, validated_config
from scripts.aws.deploy.stack import StackDescription, find_stack
from services.errors import FleetsightError
from services.table import Item, Table
from web_tier.app import create_app
from web_tier.http.assets import static_files
from web_tier.pages.account import UNKNOWN

PAGES = {"/": "index.html", "/api": "api"}
"""Files of the site's pages by their addresses. The web tier serves all other pages."""

EDGE_SECONDS = 86_400
"""How long CloudFront caches a page; browsers ask for it each time, and publishing invalidates it."""

MAX_DELETE_KEYS = 1_000
"""The largest number of keys in a call of DeleteObjects."""


class SiteError(FleetsightError):
    """Raised when the site cannot be rendered or published; the message says what to do."""


@dataclass(frozen=True, slots=True)
class SiteFile:
    """A file of the site.

    Attributes:
        name: its path below the folder, and its key in the bucket.
        address: path of the address at which browsers ask for it.
    """

    name: str
    address: str
    content_type: str
    cache_control: str


class _EmptyTable(Table):
    """A table without items; no service is called."""

    def __init__(self) -> None:
        super().__init__(cast(Any, None), "empty")

    def get(self, pk: str, sk: str) -> Item | None:  # noqa: ARG002 (the signature of Table)
        """Return None: no item exists."""
        return None


def export_site(folder: Path, config: Config, address: str) -> tuple[SiteFile, ...]:
    """Write the site into `folder`; no service is called.

    Args:
        folder: created if necessary.
        config: of the deployment.
        address: of the site, such as https://images.example.org, which the API's page shows.

    Raises:
        SiteError: a page or a file cannot be rendered.
    """
    # Without sign-in: rendering has no session.
    auth = config.auth.model_copy(update={"mode": "none", "open": False})
    web = config.web.model_copy(update={"hosts": [urlsplit(address).hostname]})
    app = create_app(config.model_copy(update={"auth": auth, "web": web}), store=JobStore(_EmptyTable()))
    if config.auth.mode == "oidc":
        app.jinja_env.globals["visitor"] = lambda: UNKNOWN
    files = []
    for file, body in _render(app, address):
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        files.append(file)
    return tuple(files)


def _render(app: Flask, site: str) -> Iterator[tuple[SiteFile, bytes]]:
    """Yield the pages and all static files of the web tier."""
    client = app.test_client()
    for address in [*PAGES, *(f"{app.static_url_path}/{name}" for name in static_files())]:
        answer = client.get(address, base_url=site, buffered=True)
        if answer.status_code != 200:
            raise SiteError(f"the web tier answers {address} with {answer.status}: {answer.text[:200]}")
        cached = (
            f"public, max-age=0, s-maxage={EDGE_SECONDS}" if address in PAGES else answer.headers["Cache-Control"]
        )
        yield (
            SiteFile(PAGES.get(address, address.lstrip("/")), address, str(answer.content_type), cached),
            answer.data,
        )


@dataclass(frozen=True, slots=True)
class SiteLocation:
    """The bucket, the distribution and the address of a stack's site.

    Attributes:
        distribution: id of CloudFront's distribution.
        address: such as https://d111111abcdef8.cloudfront.net
    """

    bucket: str
    distribution: str
    address: str

    @classmethod
    def from_stack(cls, stack: StackDescription) -> "SiteLocation":
        """Return the location of a stack's site.

        Raises:
            SiteError: the stack has no site.
        """
        outputs = stack.outputs
        if "SiteBucketName" not in outputs:
            raise SiteError(
                f"the stack {stack.name} has no static site: deploy it with one, by `fleetsight up --set "
                "StaticSite=true` with DomainName, HostedZoneId and CertificateArn"
            )
        return cls(outputs["SiteBucketName"], outputs["SiteDistributionId"], outputs["SiteAddress"])


@dataclass(frozen=True)
class RenderedSite:
    """A site rendered with the settings of its stack.

    Attributes:
        obsolete: keys of the bucket that the site no longer has.
    """

    location: SiteLocation
    folder: Path
    files: tuple[SiteFile, ...]
    obsolete: frozenset[str]

    @classmethod
    def render(cls, account: AwsAccount, prefix: str, folder: Path) -> "RenderedSite":
        """Render the site of a stack into `folder`, and list its bucket.

        Raises:
            SiteError: the stack does not exist, or has no site.
        """
        stack = find_stack(account, prefix)
        if stack is None or stack.is_deleted:
            raise SiteError(f"there is no stack {prefix} in {account.region_name}: `fleetsight up` makes it")
        location = SiteLocation.from_stack(stack)
        files = export_site(folder, deployed_config(stack), location.address)
        pages = account.s3.get_paginator("list_objects_v2").paginate(Bucket=location.bucket)
        keys = frozenset(each["Key"] for page in pages for each in page.get("Contents", []))
        return cls(location, folder, files, keys - {file.name for file in files})


def publish_site(account: AwsAccount, prefix: str, report: Callable[[str], None]) -> str:
    """Publish the front end, rendered with the deployed settings, in the stack's bucket; return the site's address.

    Call it after each deployment of a stack that has the output `SiteBucketName`: pages contain settings, such as the
    bounds of an image, and the files are those of the release. CloudFront drops old files within minutes.

    Raises:
        SiteError: the stack does not exist, or has no site.
    """
    with TemporaryDirectory(prefix="fleetsight-site-") as folder:
        site = RenderedSite.render(account, prefix, Path(folder))
        _publish(account, site, report)
    return site.location.address


def _publish(account: AwsAccount, site: RenderedSite, report: Callable[[str], None]) -> None:
    bucket = site.location.bucket
    for file in sorted(site.files, key=lambda each: each.address in PAGES):  # pages after the files that they link to
        account.s3.put_object(
            Bucket=bucket,
            Key=file.name,
            Body=(site.folder / file.name).read_bytes(),
            ContentType=file.content_type,
            CacheControl=file.cache_control,
        )
    report(f"{len(site.files)} files of the site are in {bucket}.")
    if site.obsolete:
        _delete_keys(account, bucket, site.obsolete)
        report(f"{len(site.obsolete)} that the site no longer has are gone from there.")
    account.cloudfront.create_invalidation(
        DistributionId=site.location.distribution,
        # AWS bills the wildcard as one path; a new reference makes a new invalidation.
        InvalidationBatch={"Paths": {"Quantity": 1, "Items": ["/*"]}, "CallerReference": new_id()},
    )
    report("CloudFront's cache is invalidated.")


def deployed_config(stack: StackDescription) -> Config:
    """Return the configuration of a stack's web instance, as far as the pages show it.

    Raises:
        SettingError: it is not valid; the images may be of another release than this checkout.
    """
    config = validated_config(stack_config(stack))
    mode = "oidc" if "Issuer" in stack.outputs else "none"
    auth = config.auth.model_copy(update={"mode": mode})
    worker = config.worker.model_copy(update={"bundle": Path(stack.parameters["BundleAddress"])})
    return config.model_copy(update={"auth": auth, "worker": worker})


def _delete_keys(account: AwsAccount, bucket: str, keys: Iterable[str]) -> None:
    ordered = sorted(keys)
    for start in range(0, len(ordered), MAX_DELETE_KEYS):
        batch = ordered[start : start + MAX_DELETE_KEYS]
        answer = account.s3.delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
        )
        if errors := answer.get("Errors"):
            raise SiteError(f"S3 keeps {errors[0].get('Key')} in {bucket}: {errors[0].get('Message')}; try again")
