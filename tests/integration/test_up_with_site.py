"""``fleetsight up`` with a static site: its files are published and CloudFront told of them, and all of it goes."""

from collections.abc import Iterator
from datetime import datetime

import pytest

from localcloud.launch import REGION, LocalCloud
from scripts.aws.account import Account
from scripts.aws.deploy.settings import StackSettings
from scripts.aws.deploy.stack import find_stack
from scripts.aws.site import DIGEST_KEY, SiteLocation
from tests.support.aws_resources import WITH_SITE, left
from tests.support.aws_stage import Stage

WITH_NAME = {"SiteName": "www.example.org", "SiteCertificateArn": WITH_SITE["CertificateArn"]}


@pytest.fixture(scope="module")
def cloud_of_sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path_factory.mktemp("cloud"), hypervisor=False) as started:
        yield started


@pytest.fixture
def stage(cloud_of_sites: LocalCloud) -> Stage:
    return Stage(Account(REGION, None, cloud_of_sites.endpoint_url))


def place_of(stage: Stage) -> SiteLocation:
    stack = find_stack(stage.account, stage.prefix)
    assert stack is not None
    return SiteLocation.from_stack(stack)


def objects(stage: Stage, bucket: str) -> dict[str, datetime]:
    """Return when each object was put there, by its key."""
    listed = stage.account.s3.list_objects_v2(Bucket=bucket)["Contents"]
    return {each["Key"]: each["LastModified"] for each in listed}


def invalidations(stage: Stage, distribution: str) -> int:
    """Return how often CloudFront was told of news."""
    listed = stage.account.cloudfront.list_invalidations(DistributionId=distribution)
    return listed["InvalidationList"]["Quantity"]


def test_up_publishes_the_site_once_and_down_leaves_nothing_of_it(stage: Stage) -> None:
    account = stage.account
    settings = StackSettings({**WITH_SITE, **WITH_NAME})
    assert stage.up(settings=settings) == "https://images.example.org"
    place = place_of(stage)
    assert "Fleetsight is at https://www.example.org" in stage.seen
    page = account.s3.get_object(Bucket=place.bucket, Key="api")["Body"].read().decode()
    assert "https://www.example.org" in page
    published = objects(stage, place.bucket)
    assert {"index.html", "api", "static/theme.js", DIGEST_KEY} <= set(published)
    assert invalidations(stage, place.distribution) == 1

    steps = len(stage.steps)
    stage.up()
    assert not [step for step in stage.steps[steps:] if "site" in step or "Cloud" in step]
    assert objects(stage, place.bucket) == published
    assert invalidations(stage, place.distribution) == 1

    stage.down(delete_data=True)
    assert f"emptied the bucket {place.bucket} of {len(published)} objects" in stage.steps
    assert not left(stage)
    assert account.cloudfront.list_distributions()["DistributionList"]["Quantity"] == 0
