"""Where builders stand: in a public subnet, in a security group that lets nothing in and only HTTPS out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from scripts.aws.bake.errors import BakeError
from scripts.aws.bake.recipe import Site, filters, specifications, tagged

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import IpPermissionTypeDef, SecurityGroupTypeDef

HTTPS_OUT: "IpPermissionTypeDef" = {
    "IpProtocol": "tcp",
    "FromPort": 443,
    "ToPort": 443,
    "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "S3, packages"}],
}
"""Names are asked of the VPC's own address, before which security groups do not stand."""
GROUP_SECONDS = 120.0


def subnets_for_builders(site: Site, subnet_ids: Sequence[str]) -> tuple[str, list[str]]:
    """Return a VPC and the subnets of it to try: those that were named, or the default ones of the default VPC.

    Raises:
        BakeError: none is named, and the region has no default VPC.
    """
    ec2 = site.account.ec2
    if subnet_ids:
        return ec2.describe_subnets(SubnetIds=[subnet_ids[0]])["Subnets"][0]["VpcId"], list(subnet_ids)
    found = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    if not found:
        raise BakeError(
            f"{site.account.region_name} has no default VPC: name a subnet with a way to the internet by --subnet"
        )
    found.sort(key=lambda subnet: subnet["AvailabilityZone"])
    return found[0]["VpcId"], [subnet["SubnetId"] for subnet in found]


def provide_group(site: Site, role: str, vpc_id: str) -> str:
    """Return the security group of a role's builder, made or completed where an earlier bake was cut short."""
    group = find_group(site, role)
    if group is not None and group["VpcId"] != vpc_id:
        remove_group(site, role)
        group = None
    if group is None:
        name = site.builder_name(role)
        site.account.ec2.create_security_group(
            GroupName=name,
            Description="A builder of machine images, which calls and is never called",
            VpcId=vpc_id,
            TagSpecifications=specifications(tagged(site, role, {"Name": name}), "security-group"),
        )
        site.done(f"made the security group {name}")
        group = site.waiting.until(
            lambda: find_group(site, role), f"the security group {name}", seconds=GROUP_SECONDS
        )
    _let_out_https_only(site, group)
    return group["GroupId"]


def find_group(site: Site, role: str) -> "SecurityGroupTypeDef | None":
    """Return the security group of a role's builder, if there is one."""
    wanted = filters(tagged(site, role), group_name=[site.builder_name(role)])
    return next(iter(site.account.ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]), None)


def remove_group(site: Site, role: str) -> None:
    """Delete the security group of a role's builder, once EC2 has taken the builder out of it.

    Raises:
        TimedOutError: something still uses it.
    """
    group = find_group(site, role)
    if group is None:
        return

    def deleted() -> bool | None:
        try:
            site.account.ec2.delete_security_group(GroupId=group["GroupId"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "DependencyViolation":
                return None
            if error.response["Error"]["Code"] != "InvalidGroup.NotFound":
                raise
        return True

    site.waiting.until(deleted, f"{group['GroupId']} to be of no more use", seconds=GROUP_SECONDS)
    site.done(f"deleted the security group {group['GroupName']}")


def _let_out_https_only(site: Site, group: "SecurityGroupTypeDef") -> None:
    """EC2 gives a new group the right to send anything anywhere."""
    ec2, group_id = site.account.ec2, group["GroupId"]
    allowed = group["IpPermissionsEgress"]
    if (more := [each for each in allowed if each.get("FromPort") != 443]) != []:
        ec2.revoke_security_group_egress(GroupId=group_id, IpPermissions=more)
        site.done(f"took from {group_id} what it may send")
    if more == allowed:
        ec2.authorize_security_group_egress(GroupId=group_id, IpPermissions=[HTTPS_OUT])
        site.done(f"let {group_id} send by HTTPS")
