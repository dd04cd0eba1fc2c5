"""The network of a stack: the default VPC and its subnets unless others are given, and missing gateway endpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.aws.context import TAG, AwsAccount
from services.errors import FleetsightError

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, RouteTableTypeDef

NETWORK_PARAMETERS = ("VpcId", "SubnetIds", "RouteTableIds", "TableRouteTableIds")
"""The stack's parameters of its network; lists are separated by commas."""


class NetworkError(FleetsightError):
    """Raised when no VPC or no subnet can be used for the stack; the message says how to name one."""


@dataclass(frozen=True)
class StackNetwork:
    """A VPC, its subnets, and their route tables that need a gateway endpoint of S3, and of DynamoDB."""

    vpc_id: str
    subnet_ids: tuple[str, ...]
    route_table_ids: tuple[str, ...] = ()
    table_route_table_ids: tuple[str, ...] = ()

    def parameters(self) -> dict[str, str]:
        """Return the stack's parameters of this network."""
        lists = (self.subnet_ids, self.route_table_ids, self.table_route_table_ids)
        return dict(zip(NETWORK_PARAMETERS, (self.vpc_id, *(",".join(each) for each in lists)), strict=True))


def find_network(
    account: AwsAccount, prefix: str, vpc_id: str | None = None, subnet_ids: Sequence[str] = ()
) -> StackNetwork:
    """Return the network of the stack.

    Args:
        account: of the VPC.
        prefix: of the stack; its own gateway endpoints do not count as existing ones.
        vpc_id: None for the VPC of the subnets, or the default VPC.
        subnet_ids: empty for the public subnets of the VPC, one in each zone.

    Raises:
        NetworkError: there is no such VPC or subnet.
    """
    if subnet_ids:
        subnets = account.ec2.describe_subnets(SubnetIds=list(subnet_ids))["Subnets"]
        vpcs = {each["VpcId"] for each in subnets}
        if len(vpcs) != 1 or vpc_id not in {None, *vpcs}:
            raise NetworkError(f"the subnets {', '.join(subnet_ids)} are not all of one VPC, {vpc_id or 'whichever'}")
        return _with_route_tables(account, prefix, vpcs.pop(), tuple(subnet_ids))
    if not vpc_id:
        defaults = account.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not defaults:
            raise NetworkError(
                f"{account.region_name} has no default VPC: make one with `aws ec2 create-default-vpc`, or name "
                "another with --vpc vpc-…"
            )
        vpc_id = defaults[0]["VpcId"]
    subnets = account.ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])["Subnets"]
    # Local Zones and Wavelength Zones lack some instance types and services.
    zones = {
        each["ZoneName"]
        for each in account.ec2.describe_availability_zones()["AvailabilityZones"]
        if each["ZoneType"] == "availability-zone"
    }
    public = [each for each in subnets if each["MapPublicIpOnLaunch"] and each["AvailabilityZone"] in zones]
    if not public:
        raise NetworkError(
            f"{vpc_id} has no subnet that gives instances a public address: name subnets with a way to the "
            "internet by --subnets subnet-…,subnet-…"
        )
    # A load balancer accepts one subnet per zone. The fixed order avoids changes at an update.
    public.sort(key=lambda each: (each["AvailabilityZone"], each["SubnetId"]), reverse=True)
    by_zone = {each["AvailabilityZone"]: each["SubnetId"] for each in public}
    return _with_route_tables(account, prefix, vpc_id, tuple(by_zone[zone] for zone in sorted(by_zone)))


def _with_route_tables(account: AwsAccount, prefix: str, vpc_id: str, subnet_ids: tuple[str, ...]) -> StackNetwork:
    """Return the network with the route tables of its subnets that have no other gateway endpoint.

    The route tables of a VPC that another account shares are not visible, and get no gateway endpoint.
    """
    in_vpc: FilterTypeDef = {"Name": "vpc-id", "Values": [vpc_id]}
    tables = route_tables(account, vpc_id, subnet_ids).values()
    used = {table["RouteTableId"] for table in tables if table is not None}
    endpoints = [
        each
        for each in account.ec2.describe_vpc_endpoints(Filters=[in_vpc])["VpcEndpoints"]
        if {"Key": TAG, "Value": prefix} not in each.get("Tags", [])
    ]

    def without_endpoint(service: str) -> tuple[str, ...]:
        name = f"com.amazonaws.{account.region_name}.{service}"
        others = [each for each in endpoints if each["ServiceName"] == name]
        return tuple(sorted(used - {table for each in others for table in each.get("RouteTableIds", [])}))

    return StackNetwork(vpc_id, subnet_ids, without_endpoint("s3"), without_endpoint("dynamodb"))


def route_tables(
    account: AwsAccount, vpc_id: str, subnet_ids: Sequence[str]
) -> "dict[str, RouteTableTypeDef | None]":
    """Return the route table of each subnet: its own, else the VPC's main one, else None if neither is visible."""
    in_vpc: FilterTypeDef = {"Name": "vpc-id", "Values": [vpc_id]}
    tables = account.ec2.describe_route_tables(Filters=[in_vpc])["RouteTables"]
    by_subnet = {link["SubnetId"]: each for each in tables for link in each["Associations"] if "SubnetId" in link}
    main = (each for each in tables if any(link.get("Main") for link in each["Associations"]))
    by_default = next(main, None)
    return {subnet: by_subnet.get(subnet, by_default) for subnet in subnet_ids}
