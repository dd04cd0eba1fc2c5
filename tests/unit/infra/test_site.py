"""The static site: one name for files and web tier, and which of them answers what."""

import re

import pytest

from scripts.aws.deploy.settings import StackSettings, load_template, parameter_values
from scripts.aws.site import PAGES, STATIC
from tests.support.stack_template import RESOURCES, TEMPLATE, value_of

DISTRIBUTION = RESOURCES["Site"]["Properties"]["DistributionConfig"]
BY_PATTERN = {each["PathPattern"]: each for each in DISTRIBUTION["CacheBehaviors"]}

# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-cache-policies.html
# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-origin-request-policies.html
CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
CACHING_OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"
ALL_VIEWER_EXCEPT_HOST = "b689b0a8-53d0-40ab-baf2-68738e2966ac"
EVERY_METHOD = {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"}

SITE = [name for name in RESOURCES if name.startswith("Site")]


@pytest.mark.parametrize("name", SITE)
def test_nothing_of_the_site_is_made_unless_it_is_asked_for(name: str) -> None:
    assert RESOURCES[name]["Condition"] in {"HasSite", "HasSiteName"}
    assert value_of(TEMPLATE["Conditions"]["HasSite"]) is False


def test_only_the_sites_own_distribution_reads_its_bucket_and_by_signed_requests() -> None:
    allow = RESOURCES["SiteBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]
    assert (allow["Effect"], allow["Principal"]) == ("Allow", {"Service": "cloudfront.amazonaws.com"})
    assert (allow["Action"], value_of(allow["Resource"])) == ("s3:GetObject", "<SiteBucket.Arn>/*")
    source = "arn:aws:cloudfront::123456789012:distribution/<Site>"
    assert value_of(allow["Condition"]) == {"StringEquals": {"aws:SourceArn": source}}
    access = RESOURCES["SiteAccess"]["Properties"]["OriginAccessControlConfig"]
    assert (access["SigningBehavior"], access["SigningProtocol"]) == ("always", "sigv4")
    (files,) = [each for each in DISTRIBUTION["Origins"] if each["Id"] == "files"]
    assert value_of(files["OriginAccessControlId"]) == "<SiteAccess>"


def test_the_files_that_are_exported_are_what_comes_from_the_bucket_and_all_else_comes_from_the_web_tier() -> None:
    assert BY_PATTERN.keys() == {*PAGES, f"{STATIC}*"}
    assert {each["TargetOriginId"] for each in BY_PATTERN.values()} == {"files"}
    assert DISTRIBUTION["DefaultCacheBehavior"]["TargetOriginId"] == "web"


def test_of_the_web_tiers_answers_nothing_is_cached_and_it_hears_all_that_a_browser_says_but_its_host() -> None:
    default = DISTRIBUTION["DefaultCacheBehavior"]
    assert default["CachePolicyId"] == CACHING_DISABLED
    assert default["OriginRequestPolicyId"] == ALL_VIEWER_EXCEPT_HOST
    assert set(default["AllowedMethods"]) == EVERY_METHOD
    assert "ResponseHeadersPolicyId" not in default  # it tells browsers itself
    (web,) = [each for each in DISTRIBUTION["Origins"] if each["Id"] == "web"]
    assert value_of(web["DomainName"]) == TEMPLATE["Parameters"]["DomainName"]["Default"]
    assert web["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only"
    assert web["CustomOriginConfig"]["OriginSSLProtocols"] == ["TLSv1.2"]


@pytest.mark.parametrize("pattern", BY_PATTERN)
def test_files_are_compressed_cached_as_they_say_and_told_with_the_security_headers(pattern: str) -> None:
    behaviour = BY_PATTERN[pattern]
    assert (behaviour["Compress"], behaviour["CachePolicyId"]) == (True, CACHING_OPTIMIZED)
    assert behaviour["ResponseHeadersPolicyId"] == {"Ref": "SiteHeaders"}
    assert behaviour["ViewerProtocolPolicy"] == "redirect-to-https"


def test_what_is_sent_to_the_first_pages_address_reaches_the_web_tier() -> None:
    first = BY_PATTERN["/"]
    assert set(first["AllowedMethods"]) == EVERY_METHOD
    assert first["OriginRequestPolicyId"] == ALL_VIEWER_EXCEPT_HOST
    (function,) = first["FunctionAssociations"]
    assert function["EventType"] == "viewer-request"
    code = RESOURCES["SitePage"]["Properties"]["FunctionCode"]
    assert code.startswith("import cf from 'cloudfront';")  # which has selectRequestOriginById, in runtime 2.0
    assert RESOURCES["SitePage"]["Properties"]["FunctionConfig"]["Runtime"] == "cloudfront-js-2.0"
    (file,) = re.findall(r"request\.uri = '/([^']+)'", code)
    (origin,) = re.findall(r"selectRequestOriginById\('([^']+)'\)", code)
    assert (file, origin) == (PAGES["/"], "web")
    # Others have the file's name for their address.
    assert {path: name for path, name in PAGES.items() if name != path.lstrip("/")} == {"/": file}


def test_browsers_come_by_http_2_or_3_and_under_a_name_of_ones_own_by_tls_12_or_newer() -> None:
    assert DISTRIBUTION["HttpVersion"] == "http2and3"
    condition, named, otherwise = DISTRIBUTION["ViewerCertificate"]["Fn::If"]
    assert (condition, named["MinimumProtocolVersion"]) == ("HasSiteName", "TLSv1.2_2021")
    assert otherwise == {"CloudFrontDefaultCertificate": True}
    pattern = TEMPLATE["Parameters"]["SiteCertificateArn"]["AllowedPattern"]
    assert re.fullmatch(pattern, "arn:aws:acm:us-east-1:123456789012:certificate/abc")
    assert not re.fullmatch(pattern, "arn:aws:acm:eu-central-1:123456789012:certificate/abc")


def refused(**given: str) -> list[str]:
    """Return what is said against these parameters, all others being as they are by default."""
    return load_template().broken_rules(parameter_values(load_template(), StackSettings(given), None))


NAMED = {
    "DomainName": "images.example.org",
    "HostedZoneId": "Z1",
    "CertificateArn": "arn:aws:acm:eu-central-1:1:certificate/a",
}
OPEN = NAMED | {"StaticSite": "true", "WebCidr": "0.0.0.0/0"}


def test_a_site_needs_a_load_balancer_with_a_name_that_everybody_may_reach_and_it_is_said_so() -> None:
    assert refused() == []
    assert refused(**OPEN) == []
    lacking, closed = refused(StaticSite="true")
    assert lacking.startswith("StaticSite needs DomainName, HostedZoneId and CertificateArn")
    assert closed.startswith("StaticSite needs WebCidr 0.0.0.0/0")


def test_a_name_of_the_site_needs_the_site_and_a_certificate() -> None:
    (said,) = refused(**OPEN, SiteName="www.example.org")
    assert said.startswith("SiteName needs StaticSite true and SiteCertificateArn")
    certificate = "arn:aws:acm:us-east-1:123456789012:certificate/abc"
    assert refused(**OPEN, SiteName="www.example.org", SiteCertificateArn=certificate) == []
