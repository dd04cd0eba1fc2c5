"""Launch templates."""

from typing import Any

from services.embedded.stacks.kinds.absent import gone_is_good
from services.embedded.stacks.kinds.kind import Cloud, Made
from services.embedded.stacks.model import Resource


class LaunchTemplate:
    """``AWS::EC2::LaunchTemplate``: an update makes a new version and leaves the default version as it is."""

    fixed = frozenset({"LaunchTemplateName"})
    moving = frozenset({"LatestVersionNumber"})

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it with its first version."""
        wanted = resource.properties
        specifications = list(wanted.get("TagSpecifications", []))
        if cloud.tags:
            specifications = _tagged(cloud, specifications)
        made = cloud.call(
            "ec2",
            "create_launch_template",
            LaunchTemplateName=wanted.get("LaunchTemplateName") or cloud.name(resource.logical_id, 128),
            LaunchTemplateData=wanted["LaunchTemplateData"],
            VersionDescription=wanted.get("VersionDescription"),
            TagSpecifications=specifications or None,
        )["LaunchTemplate"]
        return _made(made)

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Make a new version of it, where its data has changed."""
        named = {"LaunchTemplateId": resource.physical_id}
        if properties["LaunchTemplateData"] != resource.properties["LaunchTemplateData"]:
            data, told = properties["LaunchTemplateData"], properties.get("VersionDescription")
            cloud.call(
                "ec2", "create_launch_template_version", **named, LaunchTemplateData=data, VersionDescription=told
            )
        found = cloud.call("ec2", "describe_launch_templates", LaunchTemplateIds=[resource.physical_id])
        return _made(found["LaunchTemplates"][0])

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it with all its versions."""
        with gone_is_good():
            cloud.call("ec2", "delete_launch_template", LaunchTemplateId=resource.physical_id)


def _made(template: dict[str, Any]) -> Made:
    return Made(
        template["LaunchTemplateId"],
        {
            "LaunchTemplateId": template["LaunchTemplateId"],
            "LatestVersionNumber": str(template["LatestVersionNumber"]),
            "DefaultVersionNumber": str(template["DefaultVersionNumber"]),
        },
    )


def _tagged(cloud: Cloud, specifications: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tag specifications with the stack's tags among those of the template itself."""
    own: dict[str, Any] = next((one for one in specifications if one["ResourceType"] == "launch-template"), {})
    others = [one for one in specifications if one["ResourceType"] != "launch-template"]
    return [*others, {"ResourceType": "launch-template", "Tags": cloud.tag_list(own)}]
