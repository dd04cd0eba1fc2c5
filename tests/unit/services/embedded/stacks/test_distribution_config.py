"""A distribution's configuration in a template becomes that of CloudFront's API."""

from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from services.embedded.stacks.kinds.distribution_config import distribution_config

SHAPE = botocore.session.Session().get_service_model("cloudfront").shape_for("DistributionConfig")

BEHAVIOR = {"TargetOriginId": "web", "ViewerProtocolPolicy": "https-only"}
LEAST: dict[str, Any] = {
    "Enabled": True,
    "Origins": [{"Id": "web", "DomainName": "web.example.org", "CustomOriginConfig": {"OriginProtocolPolicy": "x"}}],
    "DefaultCacheBehavior": BEHAVIOR,
}


def config(**more: Any) -> dict[str, Any]:
    """Return the API's form of the least distribution and more; the API's own checks find it complete."""
    found = distribution_config({**LEAST, **more}, SHAPE, "once")
    assert not ParamValidator().validate(found, SHAPE).has_errors()
    return found


def test_what_cloudformation_adds_is_said() -> None:
    assert config() == {
        "CallerReference": "once",
        "Comment": "",
        "Enabled": True,
        "Origins": {
            "Quantity": 1,
            "Items": [
                {
                    "Id": "web",
                    "DomainName": "web.example.org",
                    "CustomOriginConfig": {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "x"},
                }
            ],
        },
        "DefaultCacheBehavior": BEHAVIOR,
    }


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"Aliases": ["a", "b"]}, {"Aliases": {"Quantity": 2, "Items": ["a", "b"]}}),
        ({"Comment": "mine"}, {"Comment": "mine"}),
        (
            {"ViewerCertificate": {"AcmCertificateArn": "arn", "SslSupportMethod": "sni-only"}},
            {"ViewerCertificate": {"ACMCertificateArn": "arn", "SSLSupportMethod": "sni-only"}},
        ),
        ({"IPV6Enabled": False}, {"IsIPV6Enabled": False}),
        (
            {"Restrictions": {"GeoRestriction": {"RestrictionType": "whitelist", "Locations": ["CH"]}}},
            {"Restrictions": {"GeoRestriction": {"RestrictionType": "whitelist", "Quantity": 1, "Items": ["CH"]}}},
        ),
        (
            {"CacheBehaviors": [{**BEHAVIOR, "PathPattern": "/", "TrustedKeyGroups": ["k"]}]},
            {
                "CacheBehaviors": {
                    "Quantity": 1,
                    "Items": [
                        {
                            **BEHAVIOR,
                            "PathPattern": "/",
                            "TrustedKeyGroups": {"Enabled": True, "Quantity": 1, "Items": ["k"]},
                        }
                    ],
                }
            },
        ),
    ],
    ids=["lists", "comment", "certificate", "IPv6", "places", "behaviors"],
)
def test_a_setting_has_the_apis_name_and_form(given: dict[str, Any], found: dict[str, Any]) -> None:
    assert config(**given) == {**config(), **found}


def test_the_protocols_of_an_origin_are_counted() -> None:
    custom = {"OriginProtocolPolicy": "https-only", "OriginSSLProtocols": ["TLSv1.2"], "HTTPSPort": 8443}
    (origin,) = config(Origins=[{"Id": "a", "DomainName": "b", "CustomOriginConfig": custom}])["Origins"]["Items"]
    assert origin["CustomOriginConfig"] == {
        "HTTPPort": 80,
        "HTTPSPort": 8443,
        "OriginProtocolPolicy": "https-only",
        "OriginSslProtocols": {"Quantity": 1, "Items": ["TLSv1.2"]},
    }


def test_cached_methods_are_among_the_allowed_ones() -> None:
    given = {**BEHAVIOR, "AllowedMethods": ["GET", "HEAD", "OPTIONS"], "CachedMethods": ["GET", "HEAD"]}
    assert config(DefaultCacheBehavior=given)["DefaultCacheBehavior"] == {
        **BEHAVIOR,
        "AllowedMethods": {
            "Quantity": 3,
            "Items": ["GET", "HEAD", "OPTIONS"],
            "CachedMethods": {"Quantity": 2, "Items": ["GET", "HEAD"]},
        },
    }


def test_what_the_api_does_not_know_is_left_out() -> None:
    origin = {"DnsName": "old.example.org"}
    assert config(CustomOrigin=origin, Mine={"a": 1}) == config()


@pytest.mark.parametrize("wrong", [{"Aliases": "a"}, {"DefaultCacheBehavior": {"AllowedMethods": 1}}], ids=str)
def test_what_has_another_form_is_left_for_botocore_to_refuse(wrong: dict[str, Any]) -> None:
    found = distribution_config({**LEAST, **wrong}, SHAPE, "once")
    assert ParamValidator().validate(found, SHAPE).has_errors()
