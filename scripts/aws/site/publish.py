"""The front end as files in the bucket that CloudFront serves them from: what is there, and what is to be there."""

import hashlib
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from botocore.exceptions import ClientError

from core.config import Config, parse_config
from core.ids import new_id
from scripts.aws.account import Account, Done
from scripts.aws.deploy.settings import CONFIG
from scripts.aws.deploy.stacks import Stack, find
from scripts.aws.site.export import PAGES, SiteError, SiteFile, export_site

MARK = "published"
"""Key of an object with the digest of what is published and told to CloudFront. No address leads there."""

DELETED_AT_ONCE = 1_000
"""Most keys of one call."""


@dataclass(frozen=True, slots=True)
class SitePlace:
    """Where a stack's site is.

    Attributes:
        bucket: of its files.
        distribution: id of CloudFront's distribution.
        address: such as https://d111111abcdef8.cloudfront.net
    """

    bucket: str
    distribution: str
    address: str

    @classmethod
    def of(cls, stack: Stack) -> "SitePlace":
        """Return that of a stack.

        Raises:
            SiteError: it has none.
        """
        outputs = stack.outputs
        if "SiteBucketName" not in outputs:
            raise SiteError(
                f"the stack {stack.name} has no static site: deploy it with one, by `fleetsight up --set "
                "StaticSite=true` with DomainName, HostedZoneId and CertificateArn"
            )
        return cls(outputs["SiteBucketName"], outputs["SiteDistributionId"], outputs["SiteAddress"])


@dataclass(frozen=True)
class Site:
    """A site rendered with the settings of its stack, and what its bucket has.

    Attributes:
        folder: where the files are that it is made of.
        state: digest of all of them.
        there: keys of the bucket.
        published: digest of what was published last; None where that was not finished.
    """

    place: SitePlace
    folder: Path
    files: tuple[SiteFile, ...]
    state: str
    there: frozenset[str]
    published: str | None

    @classmethod
    def rendered(cls, account: Account, prefix: str, folder: Path) -> "Site":
        """Render the site of a stack into `folder`, and look at its bucket.

        Raises:
            SiteError: there is no such stack, or it has no site.
        """
        stack = find(account, prefix)
        if stack is None or stack.gone:
            raise SiteError(f"there is no stack {prefix} in {account.region_name}: `fleetsight up` makes it")
        place = SitePlace.of(stack)
        files = export_site(folder, deployed_config(account, stack), place.address)
        there = frozenset(_keys(account, place.bucket))
        return cls(place, folder, files, _digest(folder, files), there, _mark(account, place.bucket))

    @property
    def gone(self) -> frozenset[str]:
        """Keys of the bucket that the site no longer has."""
        return self.there - {file.name for file in self.files} - {MARK}

    @property
    def is_published(self) -> bool:
        """Whether the bucket has all of it, and CloudFront knows."""
        return self.published == self.state and self.there == {MARK, *(file.name for file in self.files)}


def publish_site(account: Account, prefix: str, done: Done) -> str:
    """Put the front end, rendered with the deployed settings, where CloudFront serves it; return its address.

    To be called after each deployment of a stack that has the output `SiteBucketName`: pages hold settings, such as
    the bounds of an image, and the files are those of the release. Where nothing has changed nothing is done. It can
    be called again after a crash at any step, and then does all of it; what CloudFront still has from before goes
    within minutes of the last step.

    Raises:
        SiteError: there is no such stack, or it has no site.
    """
    with TemporaryDirectory(prefix="fleetsight-site-") as folder:
        site = Site.rendered(account, prefix, Path(folder))
        if not site.is_published:
            _publish(account, site, done)
    return site.place.address


def _publish(account: Account, site: Site, done: Done) -> None:
    bucket = site.place.bucket
    _delete(account, bucket, [MARK])  # nothing is finished from here on
    _upload(account, bucket, site)
    done(f"{len(site.files)} files of the site are in {bucket}.")
    if site.gone:
        _delete(account, bucket, site.gone)
        done(f"{len(site.gone)} that the site no longer has are gone from there.")
    account.cloudfront.create_invalidation(
        DistributionId=site.place.distribution,
        # One path, as AWS counts them; the reference makes it a new invalidation each time.
        InvalidationBatch={"Paths": {"Quantity": 1, "Items": ["/*"]}, "CallerReference": new_id()},
    )
    done("CloudFront is told to ask for them anew.")
    account.s3.put_object(Bucket=bucket, Key=MARK, Body=site.state.encode())


def deployed_config(account: Account, stack: Stack) -> Config:
    """Return the configuration of a stack's web instance: config.yaml under what the stack says otherwise.

    Raises:
        ConfigError: it is not valid; the images may be of another release than this checkout.
    """
    values = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    stored = account.ssm.get_parameter(Name=stack.outputs["ConfigParameterName"])["Parameter"]["Value"]
    for section, own in json.loads(stored).items():
        values[section] |= own
    exported = shlex.split(stack.parameters.get("WebSettings", ""))[1:]
    return parse_config(values, dict(word.split("=", 1) for word in exported), source=f"the stack {stack.name}")


def _digest(folder: Path, files: Iterable[SiteFile]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda each: each.name):
        digest.update(repr(file).encode())
        digest.update(hashlib.sha256((folder / file.name).read_bytes()).digest())
    return digest.hexdigest()


def _upload(account: Account, bucket: str, site: Site) -> None:
    # Pages last: what they name is there by then.
    for file in sorted(site.files, key=lambda each: each.address in PAGES):
        account.s3.put_object(
            Bucket=bucket,
            Key=file.name,
            Body=(site.folder / file.name).read_bytes(),
            ContentType=file.content_type,
            CacheControl=file.cache_control,
        )


def _keys(account: Account, bucket: str) -> set[str]:
    pages = account.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {each["Key"] for page in pages for each in page.get("Contents", [])}


def _mark(account: Account, bucket: str) -> str | None:
    try:
        return account.s3.get_object(Bucket=bucket, Key=MARK)["Body"].read().decode()
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
            return None
        raise


def _delete(account: Account, bucket: str, keys: Iterable[str]) -> None:
    ordered = sorted(keys)
    for start in range(0, len(ordered), DELETED_AT_ONCE):
        batch = ordered[start : start + DELETED_AT_ONCE]
        answer = account.s3.delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
        )
        if errors := answer.get("Errors"):
            raise SiteError(f"S3 keeps {errors[0].get('Key')} in {bucket}: {errors[0].get('Message')}; try again")
