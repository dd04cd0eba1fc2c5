"""A stack's distribution is deleted as AWS wants it, though moto takes less."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from services.embedded.stacks.kinds.delivery import Distribution
from services.embedded.stacks.kinds.kind import Cloud, Place
from services.embedded.stacks.model import Resource

PROPERTIES: dict[str, Any] = {
    "DistributionConfig": {
        "Enabled": "true",
        "Origins": [{"Id": "web", "DomainName": "web.example.org"}],
        "DefaultCacheBehavior": {"TargetOriginId": "web", "ViewerProtocolPolicy": "https-only"},
    }
}


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with mock_aws():
        client = boto3.client("cloudfront", region_name="us-east-1")
        yield Cloud(Place("123456789012", "us-east-1"), "s", lambda _: client, {"of": "stack"})


@pytest.fixture
def site(cloud: Cloud) -> Resource:
    resource = Resource("Site", "AWS::CloudFront::Distribution", {}, PROPERTIES, frozenset())
    made = Distribution().create(cloud, resource)
    resource.physical_id, resource.attributes = made.physical_id, made.attributes
    return resource


def test_it_has_an_address_and_the_stacks_tags(cloud: Cloud, site: Resource) -> None:
    client = cloud.client("cloudfront")
    found = client.get_distribution(Id=site.physical_id)["Distribution"]
    assert site.attributes == {"Id": site.physical_id, "DomainName": found["DomainName"]}
    assert found["DistributionConfig"]["Enabled"] is True
    assert client.list_tags_for_resource(Resource=found["ARN"])["Tags"]["Items"] == [{"Key": "of", "Value": "stack"}]


def test_it_is_disabled_before_it_is_deleted_and_keeps_its_caller_reference(cloud: Cloud, site: Resource) -> None:
    client, done = cloud.client("cloudfront"), []
    reference = client.get_distribution_config(Id=site.physical_id)["DistributionConfig"]["CallerReference"]

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        given = params.get("DistributionConfig", {})
        done.append((model.name, params.get("IfMatch"), given.get("Enabled"), given.get("CallerReference")))

    version = client.get_distribution(Id=site.physical_id)["ETag"]
    client.meta.events.register("before-parameter-build", note)
    Distribution().delete(cloud, site)
    assert done == [
        ("GetDistributionConfig", None, None, None),
        ("UpdateDistribution", version, False, reference),
        ("DeleteDistribution", version, None, None),
    ]


def test_one_that_is_gone_already_is_as_good_as_deleted(cloud: Cloud, site: Resource) -> None:
    for _ in range(2):
        Distribution().delete(cloud, site)
    assert "Items" not in cloud.client("cloudfront").list_distributions()["DistributionList"]
