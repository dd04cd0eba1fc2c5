"""The static site: its files, their links, and its publication."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from core.config import parse_config
from scripts.aws.commands import site_plan
from scripts.aws.context import AwsAccount
from scripts.aws.deploy.stack import StackDescription
from scripts.aws.site import (
    SiteFile,
    deployed_config,
    export_site,
    publish_site,
)
from tests.conftest import shipped_values
from tests.support.site_links import dead_links
from tests.support.stack_template import RESOURCES, value_of
from web_tier.app import create_app
from web_tier.http.assets import IMMUTABLE, STATIC, assets_hash, static_files
from web_tier.http.middleware import HEADERS

ADDRESS = "https://images.example.org"
ASSETS = f"{STATIC}{assets_hash()}"


@dataclass(frozen=True)
class Export:
    """An exported site: its folder, and its files by address."""

    folder: Path
    files: Mapping[str, SiteFile]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The site of the shipped configuration with another bound of an image."""
    values, folder = shipped_values(), tmp_path_factory.mktemp("site")
    values["aws"]["endpoint_url"] = "http://127.0.0.1:9"  # nothing listens there
    values["web"]["max_image_bytes"] = 4096
    files = export_site(folder, parse_config(values), ADDRESS)
    return Export(folder, {file.address: file for file in files})


def test_the_site_has_two_pages_and_all_static_files(site: Export) -> None:
    files = site.files
    assert files.keys() == {"/", "/api"} | {f"{ASSETS}/{name}" for name in static_files()}
    assert all((site.folder / file.name).stat().st_size for file in files.values())


def test_files_have_their_content_type_and_cache_control(site: Export) -> None:
    files = site.files
    assert files["/"].content_type == files["/api"].content_type == "text/html; charset=utf-8"
    assert files[f"{ASSETS}/upload/main.js"].content_type.startswith("text/javascript")
    assert files[f"{ASSETS}/mark.svg"].content_type.startswith("image/svg+xml")
    assert files[f"{ASSETS}/fonts/inter-latin-wght-normal.woff2"].content_type == "font/woff2"
    assert files["/"].cache_control == "public, max-age=0, s-maxage=86400"
    assert files[f"{ASSETS}/fleetsight.css"].cache_control == IMMUTABLE


def test_the_pages_have_the_deployed_settings_and_address_and_load_changing_data(site: Export) -> None:
    page, api = ((site.folder / name).read_text() for name in ("index.html", "api"))
    assert "up to 4 KB each" in page
    assert "has not published a fleet status yet" not in page
    assert "visitor.js" not in page
    assert "Sign-in is off" in page
    assert f"curl -s -X POST {ADDRESS}/api/v1/jobs" in api
    assert "localhost" not in api


@pytest.mark.parametrize("mode", ["none", "oidc"])
def test_each_link_of_the_site_leads_to_a_file_or_to_the_web_tier(mode: str, tmp_path: Path) -> None:
    values = shipped_values()
    routes = create_app(parse_config(values)).url_map
    values["auth"] |= {"mode": mode, "issuer": "https://id.example.org", "client_id": "example"}
    files = export_site(tmp_path, parse_config(values), ADDRESS)
    texts = {each.address: (each.content_type, (tmp_path / each.name).read_text(errors="replace")) for each in files}
    assert len(texts) > 30
    assert dead_links(texts, routes, [STATIC]) == []


def test_cloudfront_sends_the_headers_of_the_web_tier() -> None:
    reported = RESOURCES["SiteHeaders"]["Properties"]["ResponseHeadersPolicyConfig"]
    security, own = value_of(reported["SecurityHeadersConfig"]), reported["CustomHeadersConfig"]["Items"]
    # For direct uploads: forms name the domain without its region in us-east-1.
    bucket = " https://<InputBucket.RegionalDomainName> https://<InputBucket.DomainName>"
    assert {each["Header"]: each["Value"] for each in own} | {
        "Content-Security-Policy": security["ContentSecurityPolicy"]["ContentSecurityPolicy"].removesuffix(bucket),
        "X-Content-Type-Options": "nosniff" if "ContentTypeOptions" in security else "",
        "X-Frame-Options": security["FrameOptions"]["FrameOption"],
        "Referrer-Policy": security["ReferrerPolicy"]["ReferrerPolicy"],
    } == dict(HEADERS)


BUCKET = "fleetsight-site"
THEME = f"{ASSETS}/theme.js".lstrip("/")


@dataclass
class Stacks:
    """CloudFormation as far as the site asks it: what stacks there are, by name, with their outputs."""

    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803 (CloudFormation's own name)
        """Describe one stack."""
        if StackName not in self.outputs:
            reported: Any = {"Error": {"Code": "ValidationError", "Message": f"Stack {StackName} does not exist"}}
            raise ClientError(reported, "DescribeStacks")
        stack = {
            "StackName": StackName,
            "StackId": StackName,
            "StackStatus": "CREATE_COMPLETE",
            "Parameters": [
                {"ParameterKey": "WebSettings", "ParameterValue": "export FLEETSIGHT__WEB__MAX_IMAGE_BYTES='4096'"},
                {"ParameterKey": "BundleAddress", "ParameterValue": "/opt/fleetsight/bundle"},
            ],
            "Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in self.outputs[StackName].items()],
        }
        return {"Stacks": [stack]}


@pytest.fixture
def account() -> Iterator[AwsAccount]:
    """An account with a stack that has a site and one that has none, and nothing in the bucket."""
    with mock_aws():
        stacks = Stacks({"plain": {}})
        account = AwsAccount(region="us-east-1", _clients={"cloudformation": stacks})
        account.s3.create_bucket(Bucket=BUCKET)
        stacks.outputs["fleetsight"] = {
            "SiteAddress": ADDRESS,
            "SiteBucketName": BUCKET,
            "SiteDistributionId": distribution(account),
        }
        yield account


def distribution(account: AwsAccount) -> str:
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


def keys(account: AwsAccount) -> set[str]:
    """Return the keys of the bucket."""
    return {each["Key"] for each in account.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def invalidations(account: AwsAccount) -> int:
    """Return how often CloudFront's cache was invalidated."""
    (each,) = account.cloudfront.list_distributions()["DistributionList"]["Items"]
    return account.cloudfront.list_invalidations(DistributionId=each["Id"])["InvalidationList"]["Quantity"]


def test_site_files_are_published_then_invalidated_and_obsolete_ones_deleted(
    account: AwsAccount, site: Export
) -> None:
    account.s3.put_object(Bucket=BUCKET, Key="static/old.js", Body=b"old")
    steps: list[str] = []
    assert publish_site(account, "fleetsight", steps.append) == ADDRESS
    assert keys(account) == {file.name for file in site.files.values()}
    page = account.s3.get_object(Bucket=BUCKET, Key="index.html")
    assert (page["ContentType"], page["CacheControl"]) == (
        "text/html; charset=utf-8",
        "public, max-age=0, s-maxage=86400",
    )
    assert "up to 4 KB each" in page["Body"].read().decode()  # as the stack says, not as config.yaml does
    assert account.s3.get_object(Bucket=BUCKET, Key=THEME)["CacheControl"] == IMMUTABLE
    assert invalidations(account) == 1
    assert steps[-1] == "CloudFront's cache is invalidated."


def test_a_dry_run_of_site_changes_nothing(account: AwsAccount) -> None:
    printed = site_plan(account, "fleetsight")
    assert re.match(r"\d+ files would be put into fleetsight-site, 0 would be deleted there", printed)
    assert (keys(account), invalidations(account)) == (set(), 0)


@pytest.mark.parametrize(("outputs", "mode"), [({}, "none"), ({"Issuer": "https://id.example.org"}, "oidc")])
def test_the_site_of_a_stack_with_a_provider_shows_that_users_sign_in(outputs: dict[str, str], mode: str) -> None:
    parameters = {"WebSettings": "", "BundleAddress": "/opt/fleetsight/bundle"}
    stack = StackDescription("fs", "arn", "CREATE_COMPLETE", parameters=parameters, outputs=outputs)
    assert deployed_config(stack).auth.mode == mode
