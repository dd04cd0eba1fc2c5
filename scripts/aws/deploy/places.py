"""Where a stack goes: the default VPC and its subnets, unless others are given, and which ways to AWS it lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.aws.account import TAG, Account
from services.errors import FleetsightError

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, RouteTableTypeDef, SubnetTypeDef


PARAMETERS = ("VpcId", "SubnetIds", "RouteTableIds", "TableRouteTableIds")
"""Of the stack, which say where it is; lists with commas between."""


class PlaceError(FleetsightError):
    """Raised when there is no VPC or no subnet to put the stack into; the message says how to name one."""


@dataclass(frozen=True)
class Place:
    """A VPC, subnets of it, and the route tables of these that lack a way to S3, and to DynamoDB, inside AWS."""

    vpc_id: str
    subnet_ids: tuple[str, ...]
    route_table_ids: tuple[str, ...] = ()
    table_route_table_ids: tuple[str, ...] = ()

    def parameters(self) -> dict[str, str]:
        """Return the stack's parameters for it."""
        lists = (self.subnet_ids, self.route_table_ids, self.table_route_table_ids)
        return dict(zip(PARAMETERS, (self.vpc_id, *(",".join(each) for each in lists)), strict=True))


def find_place(account: Account, prefix: str, vpc_id: str | None = None, subnet_ids: Sequence[str] = ()) -> Place:
    """Return where the stack goes.

    Args:
        account: of the VPC.
        prefix: of the stack; its own gateway endpoints do not count as ones that are there already.
        vpc_id: None for that of the subnets, or the default VPC.
        subnet_ids: empty for those of the VPC that give instances a public address, one in each zone.

    Raises:
        PlaceError: there is none.
    """
    if subnet_ids:
        subnets = account.ec2.describe_subnets(SubnetIds=list(subnet_ids))["Subnets"]
        vpcs = {each["VpcId"] for each in subnets}
        if len(vpcs) != 1 or vpc_id not in {None, *vpcs}:
            raise PlaceError(f"the subnets {', '.join(subnet_ids)} are not all of one VPC, {vpc_id or 'whichever'}")
        return _with_route_tables(account, prefix, vpcs.pop(), tuple(subnet_ids))
    vpc = vpc_id or _default_vpc(account)
    subnets = account.ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    # Local Zones and Wavelength Zones lack some instance types and services.
    zones = {
        each["ZoneName"]
        for each in account.ec2.describe_availability_zones()["AvailabilityZones"]
        if each["ZoneType"] == "availability-zone"
    }
    public = [each for each in subnets if each["MapPublicIpOnLaunch"] and each["AvailabilityZone"] in zones]
    if not public:
        raise PlaceError(
            f"{vpc} has no subnet that gives instances a public address: name subnets with a way to the "
            "internet by --subnets subnet-…,subnet-…"
        )
    return _with_route_tables(account, prefix, vpc, _one_in_each_zone(public))


def _default_vpc(account: Account) -> str:
    found = account.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not found:
        raise PlaceError(
            f"{account.region_name} has no default VPC: make one with `aws ec2 create-default-vpc`, or name another "
            "with --vpc vpc-…"
        )
    return found[0]["VpcId"]


def _one_in_each_zone(subnets: "Sequence[SubnetTypeDef]") -> tuple[str, ...]:
    # A load balancer takes no two of one zone; and in another order an update would have changes.
    ordered = sorted(subnets, key=lambda each: (each["AvailabilityZone"], each["SubnetId"]))
    by_zone = {each["AvailabilityZone"]: each["SubnetId"] for each in reversed(ordered)}
    return tuple(by_zone[zone] for zone in sorted(by_zone))


def _with_route_tables(account: Account, prefix: str, vpc_id: str, subnet_ids: tuple[str, ...]) -> Place:
    """Return the place with the route tables of its subnets, but those that have another gateway endpoint already.

    The route tables of a VPC that another account shares cannot be seen, and get no gateway endpoint.
    """
    in_vpc: FilterTypeDef = {"Name": "vpc-id", "Values": [vpc_id]}
    tables = route_tables(account, vpc_id, subnet_ids).values()
    used = {table["RouteTableId"] for table in tables if table is not None}
    endpoints = [
        each
        for each in account.ec2.describe_vpc_endpoints(Filters=[in_vpc])["VpcEndpoints"]
        if {"Key": TAG, "Value": prefix} not in each.get("Tags", [])
    ]

    def without_one(service: str) -> tuple[str, ...]:
        name = f"com.amazonaws.{account.region_name}.{service}"
        others = [each for each in endpoints if each["ServiceName"] == name]
        return tuple(sorted(used - {table for each in others for table in each.get("RouteTableIds", [])}))

    return Place(vpc_id, subnet_ids, without_one("s3"), without_one("dynamodb"))


def route_tables(account: Account, vpc_id: str, subnet_ids: Sequence[str]) -> "dict[str, RouteTableTypeDef | None]":
    """Return the route table of each subnet: its own, else the VPC's main one, else None where none can be seen."""
    in_vpc: FilterTypeDef = {"Name": "vpc-id", "Values": [vpc_id]}
    tables = account.ec2.describe_route_tables(Filters=[in_vpc])["RouteTables"]
    by_subnet = {link["SubnetId"]: each for each in tables for link in each["Associations"] if "SubnetId" in link}
    main = (each for each in tables if any(link.get("Main") for link in each["Associations"]))
    by_default = next(main, None)
    return {subnet: by_subnet.get(subnet, by_default) for subnet in subnet_ids}
