"""Roles, their policies and instance profiles."""

import json
from typing import Any

from services.embedded.stacks.kinds.absent import gone_is_good
from services.embedded.stacks.kinds.kind import Cloud, Made
from services.embedded.stacks.model import Resource

LONGEST_ROLE_NAME = 64


class Role:
    """``AWS::IAM::Role`` with its inline and managed policies."""

    fixed = frozenset({"RoleName", "Path"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make the role, then give it its policies."""
        wanted = resource.properties
        name = wanted.get("RoleName") or cloud.name(resource.logical_id, LONGEST_ROLE_NAME)
        made = cloud.call(
            "iam",
            "create_role",
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps(wanted["AssumeRolePolicyDocument"]),
            Description=wanted.get("Description"),
            Path=wanted.get("Path"),
            MaxSessionDuration=wanted.get("MaxSessionDuration"),
            Tags=cloud.tag_list(wanted),
        )["Role"]
        _give(cloud, name, wanted)
        return Made(name, {"Arn": made["Arn"], "RoleId": made["RoleId"]})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change who may assume it, what it says and what it may do."""
        name = resource.physical_id
        document = json.dumps(properties["AssumeRolePolicyDocument"])
        cloud.call("iam", "update_assume_role_policy", RoleName=name, PolicyDocument=document)
        cloud.call("iam", "update_role", RoleName=name, Description=properties.get("Description", ""))
        _take(cloud, name, resource.properties)
        _give(cloud, name, properties)
        cloud.call("iam", "tag_role", RoleName=name, Tags=cloud.tag_list(properties))
        return Made(name, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Take its policies, then delete it."""
        with gone_is_good():
            _take(cloud, resource.physical_id, resource.properties)
            cloud.call("iam", "delete_role", RoleName=resource.physical_id)


def _give(cloud: Cloud, role: str, properties: dict[str, Any]) -> None:
    for arn in properties.get("ManagedPolicyArns", []):
        cloud.call("iam", "attach_role_policy", RoleName=role, PolicyArn=arn)
    for policy in properties.get("Policies", []):
        document = json.dumps(policy["PolicyDocument"])
        cloud.call("iam", "put_role_policy", RoleName=role, PolicyName=policy["PolicyName"], PolicyDocument=document)


def _take(cloud: Cloud, role: str, properties: dict[str, Any]) -> None:
    for arn in properties.get("ManagedPolicyArns", []):
        with gone_is_good():
            cloud.call("iam", "detach_role_policy", RoleName=role, PolicyArn=arn)
    for policy in properties.get("Policies", []):
        with gone_is_good():
            cloud.call("iam", "delete_role_policy", RoleName=role, PolicyName=policy["PolicyName"])


class InlinePolicy:
    """``AWS::IAM::Policy``: one policy inside each of several roles."""

    fixed: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Put it into its roles."""
        self._put(cloud, resource.properties)
        return Made(cloud.name(resource.logical_id, 32))

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Put it as it is now, and take it from roles that are no longer named, or from all under its old name."""
        self._put(cloud, properties)
        renamed = properties["PolicyName"] != resource.properties["PolicyName"]
        kept = [] if renamed else properties["Roles"]
        for role in set(resource.properties["Roles"]) - set(kept):
            self._remove(cloud, role, resource.properties["PolicyName"])
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Take it from its roles."""
        for role in resource.properties["Roles"]:
            self._remove(cloud, role, resource.properties["PolicyName"])

    def _put(self, cloud: Cloud, properties: dict[str, Any]) -> None:
        document = json.dumps(properties["PolicyDocument"])
        for role in properties["Roles"]:
            name = properties["PolicyName"]
            cloud.call("iam", "put_role_policy", RoleName=role, PolicyName=name, PolicyDocument=document)

    def _remove(self, cloud: Cloud, role: str, name: str) -> None:
        with gone_is_good():
            cloud.call("iam", "delete_role_policy", RoleName=role, PolicyName=name)


class InstanceProfile:
    """``AWS::IAM::InstanceProfile`` with its one role."""

    fixed = frozenset({"InstanceProfileName", "Path"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make the profile and put the role into it."""
        name = resource.properties.get("InstanceProfileName") or cloud.name(resource.logical_id, 128)
        path = resource.properties.get("Path")
        made = cloud.call("iam", "create_instance_profile", InstanceProfileName=name, Path=path)["InstanceProfile"]
        for role in resource.properties["Roles"]:
            cloud.call("iam", "add_role_to_instance_profile", InstanceProfileName=name, RoleName=role)
        return Made(name, {"Arn": made["Arn"]})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Put another role in the place of the one."""
        name = resource.physical_id
        self._empty(cloud, resource)
        for role in properties["Roles"]:
            cloud.call("iam", "add_role_to_instance_profile", InstanceProfileName=name, RoleName=role)
        return Made(name, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Take the role out, then delete the profile."""
        self._empty(cloud, resource)
        with gone_is_good():
            cloud.call("iam", "delete_instance_profile", InstanceProfileName=resource.physical_id)

    def _empty(self, cloud: Cloud, resource: Resource) -> None:
        for role in resource.properties["Roles"]:
            with gone_is_good():
                cloud.call(
                    "iam",
                    "remove_role_from_instance_profile",
                    InstanceProfileName=resource.physical_id,
                    RoleName=role,
                )
