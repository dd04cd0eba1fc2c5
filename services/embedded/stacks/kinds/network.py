"""Security groups, their rules, and gateway endpoints."""

from typing import Any

from services.embedded.stacks.kinds.absent import gone_is_good
from services.embedded.stacks.kinds.kind import Cloud, Made
from services.embedded.stacks.model import Resource

EVERYTHING = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
"""What a new security group lets out."""


def permission(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule as EC2 takes it."""
    told = {"Description": rule["Description"]} if "Description" in rule else {}
    found: dict[str, Any] = {name: rule[name] for name in ("IpProtocol", "FromPort", "ToPort") if name in rule}
    group = rule.get("SourceSecurityGroupId") or rule.get("DestinationSecurityGroupId")
    if "CidrIp" in rule:
        found["IpRanges"] = [{"CidrIp": rule["CidrIp"], **told}]
    if "CidrIpv6" in rule:
        found["Ipv6Ranges"] = [{"CidrIpv6": rule["CidrIpv6"], **told}]
    if group:
        found["UserIdGroupPairs"] = [{"GroupId": group, **told}]
    return found


class SecurityGroup:
    """``AWS::EC2::SecurityGroup`` with its rules."""

    fixed = frozenset({"GroupName", "GroupDescription", "VpcId"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make the group, then its rules; those for the way out take the place of the one that allows all."""
        wanted = resource.properties
        tags = cloud.tag_list(wanted)
        group = cloud.call(
            "ec2",
            "create_security_group",
            GroupName=wanted.get("GroupName") or cloud.name(resource.logical_id),
            Description=wanted["GroupDescription"],
            VpcId=wanted.get("VpcId"),
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}] if tags else None,
        )["GroupId"]
        if wanted.get("SecurityGroupEgress"):
            cloud.call("ec2", "revoke_security_group_egress", GroupId=group, IpPermissions=[EVERYTHING])
        self._change(cloud, "authorize", group, wanted)
        return Made(group, {"GroupId": group, "Id": group, "VpcId": str(wanted.get("VpcId", ""))})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Take back the rules that it had, and make those that it has now."""
        group = resource.physical_id
        self._change(cloud, "revoke", group, resource.properties)
        self._change(cloud, "authorize", group, properties)
        if tags := cloud.tag_list(properties):
            cloud.call("ec2", "create_tags", Resources=[group], Tags=tags)
        return Made(group, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete the group."""
        with gone_is_good():
            cloud.call("ec2", "delete_security_group", GroupId=resource.physical_id)

    def _change(self, cloud: Cloud, verb: str, group: str, properties: dict[str, Any]) -> None:
        for way in ("Ingress", "Egress"):
            if rules := [permission(rule) for rule in properties.get(f"SecurityGroup{way}", [])]:
                operation = f"{verb}_security_group_{way.lower()}"
                cloud.call("ec2", operation, GroupId=group, IpPermissions=rules)


class SecurityGroupIngress:
    """``AWS::EC2::SecurityGroupIngress``: one rule of a group."""

    fixed = frozenset(
        {"GroupId", "IpProtocol", "FromPort", "ToPort", "CidrIp", "SourceSecurityGroupId", "Description"}
    )
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Add the rule."""
        wanted = resource.properties
        rules = [permission(wanted)]
        made = cloud.call("ec2", "authorize_security_group_ingress", GroupId=wanted["GroupId"], IpPermissions=rules)
        rule = made["SecurityGroupRules"][0]["SecurityGroupRuleId"]
        return Made(rule, {"Id": rule})

    def update(self, _cloud: Cloud, resource: Resource, _properties: dict[str, Any]) -> Made:
        """Change nothing: each of its properties is fixed."""
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Take the rule back."""
        wanted = resource.properties
        with gone_is_good():
            rules = [permission(wanted)]
            cloud.call("ec2", "revoke_security_group_ingress", GroupId=wanted["GroupId"], IpPermissions=rules)


class VpcEndpoint:
    """``AWS::EC2::VPCEndpoint`` of the gateway type."""

    fixed = frozenset({"ServiceName", "VpcEndpointType", "VpcId"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it in its route tables."""
        wanted = {name: value for name, value in resource.properties.items() if name != "Tags"}
        tags = cloud.tag_list(resource.properties)
        specification = [{"ResourceType": "vpc-endpoint", "Tags": tags}] if tags else None
        made = cloud.call("ec2", "create_vpc_endpoint", **wanted, TagSpecifications=specification)["VpcEndpoint"]
        return Made(made["VpcEndpointId"], {"Id": made["VpcEndpointId"]})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change its route tables."""
        old, new = (set(one.get("RouteTableIds", [])) for one in (resource.properties, properties))
        cloud.call(
            "ec2",
            "modify_vpc_endpoint",
            VpcEndpointId=resource.physical_id,
            AddRouteTableIds=sorted(new - old) or None,
            RemoveRouteTableIds=sorted(old - new) or None,
        )
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it."""
        with gone_is_good():
            cloud.call("ec2", "delete_vpc_endpoints", VpcEndpointIds=[resource.physical_id])
