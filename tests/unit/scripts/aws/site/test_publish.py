"""Publishing the site: what the bucket has then, what CloudFront is told, and what a crash leaves behind."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner
from moto import mock_aws

from scripts.aws.account import Account
from scripts.aws.commands import site_plan, site
from scripts.aws.deploy.stack import find_stack
from scripts.aws.site import DIGEST_KEY, SiteError, deployed_config, export_site, publish_site

BUCKET, ADDRESS = "fleetsight-site", "https://images.example.org"


@dataclass
class Stacks:
    """CloudFormation as far as the site asks it: what stacks there are, by name, with their outputs."""

    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803 (CloudFormation's own name)
        """Tell of one stack."""
        if StackName not in self.outputs:
            told: Any = {"Error": {"Code": "ValidationError", "Message": f"Stack {StackName} does not exist"}}
            raise ClientError(told, "DescribeStacks")
        stack = {
            "StackName": StackName,
            "StackId": StackName,
            "StackStatus": "CREATE_COMPLETE",
            "Parameters": [
                {"ParameterKey": "WebSettings", "ParameterValue": "export FLEETSIGHT__WEB__MAX_IMAGE_BYTES='4096'"}
            ],
            "Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in self.outputs[StackName].items()],
        }
        return {"Stacks": [stack]}


class CrashError(Exception):
    """Raised where a test plays a crash."""


@pytest.fixture
def account() -> Iterator[Account]:
    """An account with a stack that has a site and one that has none, and nothing in the bucket."""
    with mock_aws():
        stacks = Stacks({"plain": {}})
        account = Account(region="us-east-1", _clients={"cloudformation": stacks})
        account.s3.create_bucket(Bucket=BUCKET)
        own = '{"worker": {"bundle": "/opt/fleetsight/bundle"}}'
        account.ssm.put_parameter(Name="/fleetsight/config", Value=own, Type="String")
        stacks.outputs["fleetsight"] = {
            "ConfigParameterName": "/fleetsight/config",
            "SiteAddress": ADDRESS,
            "SiteBucketName": BUCKET,
            "SiteDistributionId": distribution(account),
        }
        yield account


def distribution(account: Account) -> str:
    """Make a distribution; return its id."""
    origin = {"Id": "web", "DomainName": "web.example.org", "CustomHeaders": {"Quantity": 0}}
    config: Any = {
        "CallerReference": "one",
        "Origins": {"Quantity": 1, "Items": [origin]},
        "DefaultCacheBehavior": {"TargetOriginId": "web", "ViewerProtocolPolicy": "https-only"},
        "Comment": "",
        "Enabled": True,
    }
    return account.cloudfront.create_distribution(DistributionConfig=config)["Distribution"]["Id"]


def keys(account: Account) -> set[str]:
    """Return the keys of the bucket."""
    return {each["Key"] for each in account.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def invalidations(account: Account) -> int:
    """Return how often CloudFront was told of news."""
    (each,) = account.cloudfront.list_distributions()["DistributionList"]["Items"]
    return account.cloudfront.list_invalidations(DistributionId=each["Id"])["InvalidationList"]["Quantity"]


def exported(account: Account, folder: Path) -> set[str]:
    """Return the names of the files that there are to be."""
    stack = find_stack(account, "fleetsight")
    assert stack is not None
    return {file.name for file in export_site(folder, deployed_config(account, stack), ADDRESS)}


def test_the_bucket_has_every_file_as_it_is_to_be_served_and_cloudfront_is_told_last(
    account: Account, tmp_path: Path
) -> None:
    steps: list[str] = []
    assert publish_site(account, "fleetsight", steps.append) == ADDRESS
    assert keys(account) == exported(account, tmp_path) | {DIGEST_KEY}
    page = account.s3.get_object(Bucket=BUCKET, Key="index.html")
    assert (page["ContentType"], page["CacheControl"]) == (
        "text/html; charset=utf-8",
        "public, max-age=0, s-maxage=86400",
    )
    assert "up to 4 KB each" in page["Body"].read().decode()  # as the stack says, not as config.yaml does
    assert account.s3.get_object(Bucket=BUCKET, Key="static/theme.js")["CacheControl"] == "public, max-age=3600"
    assert invalidations(account) == 1
    assert steps[-1].startswith("CloudFront is told")


def test_publishing_again_changes_nothing_where_nothing_has_changed(account: Account) -> None:
    publish_site(account, "fleetsight", print)
    steps: list[str] = []
    assert publish_site(account, "fleetsight", steps.append) == ADDRESS
    assert (steps, invalidations(account)) == ([], 1)


def test_files_that_the_site_no_longer_has_go(account: Account, tmp_path: Path) -> None:
    publish_site(account, "fleetsight", print)
    account.s3.put_object(Bucket=BUCKET, Key="static/old.js", Body=b"old")
    publish_site(account, "fleetsight", print)
    assert keys(account) == exported(account, tmp_path) | {DIGEST_KEY}


@pytest.mark.parametrize("crash_after", [1, 2, 3])
def test_after_a_crash_at_any_step_the_next_run_does_all_of_it(account: Account, crash_after: int) -> None:
    publish_site(account, "fleetsight", print)  # of the settings that hold again at the end
    account.s3.put_object(Bucket=BUCKET, Key="static/old.js", Body=b"old")
    steps: list[str] = []

    def done(step: str) -> None:
        steps.append(step)
        if len(steps) == crash_after:
            raise CrashError

    with pytest.raises(CrashError):
        publish_site(account, "fleetsight", done)
    # As another release would have left it there.
    account.s3.put_object(Bucket=BUCKET, Key="static/theme.js", Body=b"of another release")
    told = invalidations(account)
    publish_site(account, "fleetsight", print)
    assert account.s3.get_object(Bucket=BUCKET, Key="static/theme.js")["Body"].read() != b"of another release"
    assert invalidations(account) == told + 1
    assert "static/old.js" not in keys(account)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(account: Account) -> None:
    said = site_plan(account, "fleetsight")
    assert re.match(r"\d+ files would be put into fleetsight-site, 0 would be deleted there", said)
    assert (keys(account), invalidations(account)) == (set(), 0)
    publish_site(account, "fleetsight", print)
    assert site_plan(account, "fleetsight").startswith("fleetsight-site has all of the site already")


def test_the_command_says_in_one_line_what_is_wrong() -> None:
    with mock_aws():
        said = CliRunner().invoke(site, ["--region", "us-east-1", "--prefix", "A"])
    assert said.exit_code == 2
    assert "small letters, digits and dashes" in said.output


def test_without_a_site_or_a_stack_the_command_says_how_to_come_by_one(account: Account) -> None:
    with pytest.raises(SiteError, match="no stack other-one in us-east-1: `fleetsight up`"):
        publish_site(account, "other-one", print)
    with pytest.raises(SiteError, match="plain has no static site: deploy it with one"):
        publish_site(account, "plain", print)
