"""CloudFront's distributions, and how they sign what they ask a bucket for."""

from typing import Any

from services.embedded.stacks.kinds.absent import gone_is_good
from services.embedded.stacks.kinds.distribution_config import distribution_config
from services.embedded.stacks.kinds.kind import Cloud, Made
from services.embedded.stacks.model import Resource

_SERVICE = "cloudfront"


class Distribution:
    """``AWS::CloudFront::Distribution``: it is there, can be told of news, and serves nobody."""

    fixed: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it."""
        config = _config(cloud, resource.properties, cloud.name(resource.logical_id, 128))
        wanted = {"DistributionConfig": config, "Tags": {"Items": cloud.tag_list(resource.properties)}}
        made = cloud.call(_SERVICE, "create_distribution_with_tags", DistributionConfigWithTags=wanted)[
            "Distribution"
        ]
        return Made(made["Id"], {"Id": made["Id"], "DomainName": made["DomainName"]})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change its configuration and tags."""
        self._configure(cloud, resource.physical_id, properties)
        if tags := cloud.tag_list(properties):
            arn = f"arn:aws:cloudfront::{cloud.place.account}:distribution/{resource.physical_id}"
            cloud.call(_SERVICE, "tag_resource", Resource=arn, Tags={"Items": tags})
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Disable it, which AWS wants first, then delete it."""
        disabled = {"DistributionConfig": {**resource.properties["DistributionConfig"], "Enabled": False}}
        with gone_is_good():
            version = self._configure(cloud, resource.physical_id, disabled)
            cloud.call(_SERVICE, "delete_distribution", Id=resource.physical_id, IfMatch=version)

    def _configure(self, cloud: Cloud, distribution: str, properties: dict[str, Any]) -> str:
        """Give it this configuration, and return the version that it then has."""
        found = cloud.call(_SERVICE, "get_distribution_config", Id=distribution)
        config = _config(cloud, properties, found["DistributionConfig"]["CallerReference"])
        changed = cloud.call(
            _SERVICE, "update_distribution", Id=distribution, IfMatch=found["ETag"], DistributionConfig=config
        )
        return str(changed["ETag"])


def _config(cloud: Cloud, properties: dict[str, Any], reference: str) -> dict[str, Any]:
    shape = cloud.client(_SERVICE).meta.service_model.shape_for("DistributionConfig")
    return distribution_config(properties["DistributionConfig"], shape, reference)


class OriginAccessControl:
    """``AWS::CloudFront::OriginAccessControl``."""

    fixed: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it."""
        config = resource.properties["OriginAccessControlConfig"]
        made = cloud.call(_SERVICE, "create_origin_access_control", OriginAccessControlConfig=config)
        control = made["OriginAccessControl"]["Id"]
        return Made(control, {"Id": control})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change it."""
        cloud.call(
            _SERVICE,
            "update_origin_access_control",
            Id=resource.physical_id,
            IfMatch=_version(cloud, resource),
            OriginAccessControlConfig=properties["OriginAccessControlConfig"],
        )
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it."""
        with gone_is_good():
            version = _version(cloud, resource)
            cloud.call(_SERVICE, "delete_origin_access_control", Id=resource.physical_id, IfMatch=version)


def _version(cloud: Cloud, resource: Resource) -> str:
    return str(cloud.call(_SERVICE, "get_origin_access_control", Id=resource.physical_id)["ETag"])
