"""Where a stack goes."""

from collections.abc import Callable
from typing import Any

import pytest

from localcloud.launch import LocalCloud
from scripts.aws.account import TAG, Account
from scripts.aws.deploy.network import NetworkError, find_network
from tests.support.aws_stage import account_at
from tests.support.stubs import stubbed

Subnet = Callable[..., str]


@pytest.fixture
def account(cloud: LocalCloud) -> Account:
    return account_at(cloud.endpoint_url)


@pytest.fixture
def vpc(account: Account) -> str:
    return account.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]


@pytest.fixture
def subnet(account: Account, vpc: str) -> Subnet:
    """Make a subnet: `subnet(3, "b")` is 10.9.3.0/24 in zone b."""

    def make(number: int, zone: str = "a", *, public: bool = True) -> str:
        made = account.ec2.create_subnet(
            VpcId=vpc, CidrBlock=f"10.9.{number}.0/24", AvailabilityZone=f"us-east-1{zone}"
        )["Subnet"]["SubnetId"]
        account.ec2.modify_subnet_attribute(SubnetId=made, MapPublicIpOnLaunch={"Value": public})
        return made

    return make


def endpoint(account: Account, vpc: str, table: str, **tags: str) -> None:
    specs: Any = [{"ResourceType": "vpc-endpoint", "Tags": [{"Key": key, "Value": tags[key]} for key in tags]}]
    account.ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName="com.amazonaws.us-east-1.s3",
        RouteTableIds=[table],
        TagSpecifications=specs if tags else [],
    )


def main_table(account: Account, vpc: str) -> str:
    (table,) = account.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    return table["RouteTableId"]


def test_the_default_network_is_the_default_vpc_with_a_subnet_per_zone(account: Account) -> None:
    place = find_network(account, "fs")
    (default,) = account.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert place.vpc_id == default["VpcId"]
    subnets = account.ec2.describe_subnets(SubnetIds=list(place.subnet_ids))["Subnets"]
    zones = [each["AvailabilityZone"] for each in subnets]
    assert len(set(zones)) == len(zones) > 1
    assert find_network(account, "fs") == place


def test_private_and_second_subnets_of_a_zone_are_left_out(account: Account, vpc: str, subnet: Subnet) -> None:
    b, a, again, _private = subnet(1, "b"), subnet(2, "a"), subnet(3, "b"), subnet(4, "c", public=False)
    assert find_network(account, "fs", vpc).subnet_ids == (a, min(b, again))


def test_given_subnets_keep_their_order_and_determine_the_vpc(account: Account, vpc: str, subnet: Subnet) -> None:
    b, a = subnet(1, "b", public=False), subnet(2, "a")
    place = find_network(account, "fs", None, [b, a])
    assert (place.vpc_id, place.subnet_ids) == (vpc, (b, a))
    assert place.parameters()["SubnetIds"] == f"{b},{a}"


def test_a_vpc_without_public_subnets_is_rejected_with_the_remedy(account: Account, vpc: str) -> None:
    with pytest.raises(NetworkError, match="--subnets"):
        find_network(account, "fs", vpc)


def test_subnets_of_another_vpc_are_rejected(account: Account, subnet: Subnet) -> None:
    one = subnet(1)
    with pytest.raises(NetworkError, match=f"{one} are not all of one VPC, vpc-other"):
        find_network(account, "fs", "vpc-other", [one])
    with pytest.raises(NetworkError, match="whichever"):
        find_network(account, "fs", None, [one, *find_network(account, "fs").subnet_ids])


def test_route_tables_of_the_subnets_get_a_gateway_endpoint(account: Account, vpc: str, subnet: Subnet) -> None:
    a, b = subnet(1, "a"), subnet(2, "b")
    own = account.ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    account.ec2.associate_route_table(RouteTableId=own, SubnetId=a)
    main = main_table_besides(account, vpc, own)
    assert find_network(account, "fs", vpc).route_table_ids == tuple(sorted([main, own]))
    assert find_network(account, "fs", None, [b]).route_table_ids == (main,)


def main_table_besides(account: Account, vpc: str, own: str) -> str:
    tables = account.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    return next(each["RouteTableId"] for each in tables if each["RouteTableId"] != own)


def test_an_existing_gateway_endpoint_of_others_is_used(account: Account, vpc: str, subnet: Subnet) -> None:
    subnet(1)
    table = main_table(account, vpc)
    endpoint(account, vpc, table, **{TAG: "fs"})
    assert find_network(account, "fs", vpc).route_table_ids == (table,)
    endpoint(account, vpc, table)
    assert find_network(account, "fs", vpc).route_table_ids == ()


def test_gateway_endpoints_of_services_are_independent(account: Account, vpc: str, subnet: Subnet) -> None:
    subnet(1)
    table = main_table(account, vpc)
    endpoint(account, vpc, table)
    place = find_network(account, "fs", vpc)
    assert (place.route_table_ids, place.table_route_table_ids) == ((), (table,))
    assert place.parameters()["TableRouteTableIds"] == table


def test_local_zones_and_invisible_route_tables_are_left_out() -> None:
    reported = {"VpcId": "vpc-1", "MapPublicIpOnLaunch": True}
    zone = {"RegionName": "us-east-1", "State": "available"}
    subnets = [
        {**reported, "SubnetId": "subnet-1", "AvailabilityZone": "us-east-1a"},
        {**reported, "SubnetId": "subnet-2", "AvailabilityZone": "us-east-1-bos-1a"},
    ]
    zones = [
        {**zone, "ZoneName": "us-east-1a", "ZoneType": "availability-zone"},
        {**zone, "ZoneName": "us-east-1-bos-1a", "ZoneType": "local-zone"},
    ]
    with stubbed("ec2") as ec2:
        ec2.add_response("describe_subnets", {"Subnets": subnets})
        ec2.add_response("describe_availability_zones", {"AvailabilityZones": zones})
        ec2.add_response("describe_route_tables", {"RouteTables": []})
        ec2.add_response("describe_vpc_endpoints", {"VpcEndpoints": []})
        place = find_network(Account("us-east-1", _clients={"ec2": ec2.client}), "fs", vpc_id="vpc-1")
    assert (place.subnet_ids, place.route_table_ids) == (("subnet-1",), ())
