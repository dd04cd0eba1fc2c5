"""Whether instances can be launched, against answers as AWS documents them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from scripts.aws.bake.spec import DEBIAN_OWNER
from scripts.aws.preflight.instances import (
    check_gpus,
    check_images,
    check_launch,
    check_network,
    check_quota,
    check_types,
    quota_code,
)
from tests.support.preflight import StubbedAccount, stubbed_account

FREE_PLAN = "The specified instance type is not eligible for Free Tier."
IN_SCP = (
    "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/ann is not authorized to "
    "perform: ec2:RunInstances with an explicit deny in a service control policy."
)
CPUS = {"c7a.large": 2, "c7i.large": 2, "g4dn.xlarge": 4, "p3.2xlarge": 8}
GPUS = {"g4dn.xlarge": "NVIDIA", "g4ad.xlarge": "AMD"}


def route(gateway: str, state: str = "active") -> dict[str, str]:
    target = "NatGatewayId" if gateway.startswith("nat-") else "GatewayId"
    return {"DestinationCidrBlock": "0.0.0.0/0", target: gateway, "State": state}


@pytest.mark.parametrize(
    ("main", "own", "levels"),
    [
        ([route("igw-1")], [route("igw-1")], ["ok"]),
        ([route("igw-1")], [route("nat-1")], ["ok", "warning"]),
        ([route("igw-1")], [route("igw-1", "blackhole")], ["ok", "stop"]),
        ([], [], ["stop"]),
        (None, None, ["warning"]),
    ],
    ids=["gateway", "nat", "blackhole", "none", "not-shown"],
)
def test_a_subnet_needs_a_route_to_the_internet(
    main: list[dict[str, str]] | None, own: list[dict[str, str]] | None, levels: list[str]
) -> None:
    tables = [
        {"RouteTableId": "rtb-0", "Routes": main or [], "Associations": [{"Main": True}]},
        {"RouteTableId": "rtb-2", "Routes": own or [], "Associations": [{"SubnetId": "subnet-2"}]},
    ]
    with stubbed_account("ec2") as at:
        wanted = {"Filters": [{"Name": "vpc-id", "Values": ["vpc-1"]}]}
        at.stubs["ec2"].add_response(
            "describe_route_tables", {"RouteTables": tables if main is not None else []}, wanted
        )
        found = at.found(check_network)
    assert [level for level, _, _ in found] == levels
    assert all("--subnets" in remedy for level, _, remedy in found if level != "ok")


def offers(at: StubbedAccount, *pairs: tuple[str, str]) -> None:
    subnets = [
        {"AvailabilityZone": "us-east-1a"},
        {"AvailabilityZone": "us-east-1b"},
        {"AvailabilityZone": "us-east-1c"},
    ]
    at.stubs["ec2"].add_response("describe_subnets", {"Subnets": subnets}, {"SubnetIds": ["subnet-1", "subnet-2"]})
    reported = [{"InstanceType": kind, "LocationType": "availability-zone", "Location": zone} for kind, zone in pairs]
    at.stubs["ec2"].add_response("describe_instance_type_offerings", {"InstanceTypeOfferings": reported})


@pytest.mark.parametrize(
    ("zones", "others", "levels"),
    [
        ("abc", "", ["ok"]),
        ("ab", "", ["ok"]),
        ("a", "", ["warning"]),
        ("", "abc", ["stop", "ok"]),
        ("abc", "-", ["ok", "warning"]),
    ],
    ids=["all", "several", "one", "none-for-web", "none-for-another-worker-type"],
)
def test_a_type_is_offered_in_zones_of_the_subnets(zones: str, others: str, levels: list[str]) -> None:
    kinds = ("c7a.large", "c7i.large") if others else ("c7a.large",)
    pairs = [("c7a.large", f"us-east-1{zone}") for zone in zones]
    pairs += [("c7i.large", f"us-east-1{zone}") for zone in others.strip("-")]
    with stubbed_account("ec2", fleet={"instance_types": kinds}) as at:
        offers(at, *pairs)
        assert [level for level, _, _ in at.found(check_types)] == levels


def test_no_offered_worker_type_is_a_stop() -> None:
    with stubbed_account("ec2", fleet={"instance_types": ("c7i.large",)}) as at:
        offers(at, ("c7a.large", "us-east-1a"), ("c7a.large", "us-east-1b"))
        assert [level for level, _, _ in at.found(check_types)] == ["ok", "stop"]


def answers(at: StubbedAccount, *codes: tuple[str, str]) -> None:
    for code, message in codes:
        at.stubs["ec2"].add_client_error("run_instances", code, message)


DRY = ("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")


@pytest.mark.parametrize(
    ("codes", "level", "words"),
    [
        ([DRY], "ok", "EC2 would launch c7a.large"),
        ([("Unsupported", "not in your requested Availability Zone"), DRY], "ok", "EC2 would launch c7a.large"),
        ([("Unsupported", "no")] * 2, "stop", "EC2 would not launch c7a.large"),
        ([("InvalidParameterCombination", FREE_PLAN)], "stop", FREE_PLAN),
        ([("UnauthorizedOperation", IN_SCP)], "stop", "explicit deny in a service control policy"),
        ([("PendingVerification", "please allow up to 4 hours")], "stop", "please allow up to 4 hours"),
        ([("RequestLimitExceeded", "Request limit exceeded.")], "warning", "Request limit exceeded."),
    ],
)  # fmt: skip
def test_a_dry_run_checks_whether_the_account_may_launch(
    codes: Sequence[tuple[str, str]], level: str, words: str
) -> None:
    with stubbed_account("ec2") as at:
        answers(at, *codes)
        ((reported, found, remedy),) = at.found(check_launch)
    assert reported == level
    assert words in found
    assert ("c7i-flex.large" in remedy) == (FREE_PLAN in words)


def test_one_rejected_worker_type_of_several_is_a_warning() -> None:
    with stubbed_account("ec2", fleet={"instance_types": ("c7i.large", "g4dn.xlarge")}) as at:
        answers(at, DRY, ("InvalidParameterCombination", FREE_PLAN), DRY)
        assert [level for level, _, _ in at.found(check_launch)] == ["warning", "ok"]
        answers(at, DRY, *[("InvalidParameterCombination", FREE_PLAN)] * 2)
        assert [level for level, _, _ in at.found(check_launch)] == ["stop", "stop", "ok"]


def described(at: StubbedAccount) -> None:
    """Let EC2 describe all types of the plan, which is asked once."""
    kinds = at.plan().types
    reported = [
        {
            "InstanceType": kind,
            "ProcessorInfo": {"SupportedArchitectures": ["arm64"] if "g." in kind else ["i386", "x86_64"]},
            "VCpuInfo": {"DefaultVCpus": CPUS.get(kind, 2)},
            "GpuInfo": {"Gpus": [{"Manufacturer": GPUS[kind], "Count": 1}] if kind in GPUS else []},
        }
        for kind in kinds
    ]
    at.stubs["ec2"].add_response("describe_instance_types", {"InstanceTypes": reported}, {"InstanceTypes": kinds})


@pytest.mark.parametrize(
    ("types", "levels"),
    [
        (("c7a.large", "c7i.large"), ["ok"]),
        (("c7a.large", "c7g.large"), ["warning"]),
        (("c7g.large", "c7a.large"), ["stop"]),
    ],
)
def test_an_image_of_another_architecture_is_found(types: tuple[str, ...], levels: list[str]) -> None:
    images = [{"ImageId": each, "Architecture": "x86_64"} for each in ("ami-1", "ami-2")]
    with stubbed_account("ec2", fleet={"instance_types": types}) as at:
        at.stubs["ec2"].add_response("describe_images", {"Images": images}, {"ImageIds": ["ami-1", "ami-2"]})
        described(at)
        found = at.found(check_images)
    assert [level for level, _, _ in found] == levels
    assert all(
        "bake --role worker --instance-type c7g.large" in remedy for level, _, remedy in found if level != "ok"
    )


@pytest.mark.parametrize(
    ("engine", "tags", "level"),
    [
        ("torch", [{"Key": "fleetsight-engine", "Value": "torch"}], "ok"),
        ("torch", [{"Key": "fleetsight-engine", "Value": "openvino"}], "stop"),
        ("torch", [{"Key": "mine", "Value": "1"}], "warning"),
        ("openvino", [{"Key": "fleetsight-engine", "Value": "torch"}], "ok"),
    ],
    ids=["torch", "without torch", "own image", "torch has openvino too"],
)
def test_the_engine_torch_needs_an_image_with_torch(engine: str, tags: list[dict[str, str]], level: str) -> None:
    images: list[dict[str, Any]] = [{"ImageId": "ami-1"}, {"ImageId": "ami-2", "Tags": tags}]
    images = [{**each, "Architecture": "x86_64"} for each in images]
    with stubbed_account("ec2", engine=engine) as at:
        at.stubs["ec2"].add_response("describe_images", {"Images": images})
        described(at)
        ((reported, _, remedy),) = at.found(check_images)
    assert (reported, "bake --role worker --engine torch" in remedy) == (level, level != "ok")


@pytest.mark.parametrize(
    ("engine", "types", "words"),
    [
        ("openvino", ("c7a.large",), ""),
        ("openvino", ("c7a.large", "g4dn.xlarge"), "g4dn.xlarge has a GPU, which the engine openvino does not use"),
        ("torch", ("g4dn.xlarge",), ""),
        ("torch", ("g4dn.xlarge", "g4ad.xlarge"), "g4ad.xlarge has no GPU of NVIDIA's"),
    ],
)
def test_an_unused_gpu_is_a_warning(engine: str, types: tuple[str, ...], words: str) -> None:
    with stubbed_account("ec2", engine=engine, fleet={"instance_types": types}) as at:
        described(at)
        ((level, found, remedy),) = at.found(check_gpus)
    assert (level, bool(remedy)) == (("warning", True) if words else ("ok", False))
    assert words in found


def test_without_images_the_dry_run_uses_debians() -> None:
    debian = {"ImageId": "ami-d", "Name": "debian-12-amd64-1", "RootDeviceName": "/dev/xvda", "CreationDate": "2026"}
    expected_request: list[Any] = []
    with stubbed_account("ec2", images={}) as at:
        described(at)
        at.stubs["ec2"].add_response("describe_images", {"Images": [debian]})
        answers(at, DRY)
        at.stubs["ec2"].client.meta.events.register(
            "provide-client-params.ec2.RunInstances", lambda params, **_: expected_request.append(params)
        )
        assert [level for level, _, _ in at.found(check_launch)] == ["ok"]
        assert (expected_request[0]["ImageId"], expected_request[0]["DryRun"], expected_request[0]["SubnetId"]) == (
            "ami-d",
            True,
            "subnet-1",
        )
        described(at)
        at.stubs["ec2"].add_response("describe_images", {"Images": []})
        ((level, _, remedy),) = at.found(check_launch)
    assert (level, DEBIAN_OWNER in remedy) == ("stop", True)


def limits(at: StubbedAccount, values: Mapping[str, float]) -> None:
    described(at)
    for code, value in sorted(values.items()):
        wanted = {"ServiceCode": "ec2", "QuotaCode": code}
        at.stubs["service-quotas"].add_response("get_service_quota", {"Quota": {"Value": value}}, wanted)


ON_DEMAND, SPOT, GRAPHICS = "L-1216C47A", "L-34B43A08", "L-DB2E81BA"


@pytest.mark.parametrize(
    ("fleet", "values", "level", "words"),
    [
        ({}, {ON_DEMAND: 40.0}, "ok", "enough for 19 of 19 workers"),
        ({}, {ON_DEMAND: 5.0}, "warning", "enough for 1 of 19 workers"),
        ({}, {ON_DEMAND: 3.0}, "stop", "enough for 0 of 19 workers"),
        ({}, {ON_DEMAND: 1.0}, "stop", "1 vCPUs may run on demand; the web tier or the builders need 2"),
        ({"market": "spot"}, {ON_DEMAND: 5.0, SPOT: 38.0}, "ok", "enough for 19 of 19 workers"),
        ({"market": "spot"}, {ON_DEMAND: 5.0, SPOT: 0.0}, "warning", "enough for 0 of 19 workers"),
        ({"instance_types": ("g4dn.xlarge",)}, {ON_DEMAND: 5.0, GRAPHICS: 0.0}, "stop", "0 of 19"),
        ({"instance_types": ("g4dn.xlarge",), "max_workers": 2}, {ON_DEMAND: 5.0, GRAPHICS: 8.0}, "ok", "2 of 2"),
    ],
)
def test_quotas_must_cover_the_web_instance_and_the_largest_fleet(
    fleet: Mapping[str, Any], values: Mapping[str, float], level: str, words: str
) -> None:
    with stubbed_account("ec2", "service-quotas", fleet=fleet) as at:
        limits(at, values)
        ((reported, found, remedy),) = at.found(check_quota)
    assert reported == level
    assert words in found
    assert ("request-service-quota-increase" in remedy) == (level != "ok")


def test_every_web_instance_is_counted() -> None:
    with stubbed_account("ec2", "service-quotas", parameters={"WebInstances": "3"}) as at:
        limits(at, {ON_DEMAND: 42.0})
        ((level, words, remedy),) = at.found(check_quota)
    assert (level, "enough for 18 of 19" in words, "--desired-value 44`" in remedy) == ("warning", True, True)
    for is_new, vcpus in ((True, 6), (False, 8)):  # an update launches one more before it ends one
        with stubbed_account("ec2", "service-quotas", parameters={"WebInstances": "3"}, is_new=is_new) as at:
            limits(at, {ON_DEMAND: 5.0})
            ((level, words, _),) = at.found(check_quota)
        assert (level, f"the web tier or the builders need {vcpus} at once" in words) == ("stop", True)


def test_the_quota_must_cover_both_builders() -> None:
    with stubbed_account("ec2", "service-quotas", images={}) as at:
        limits(at, {ON_DEMAND: 3.0})
        ((level, _, remedy),) = at.found(check_quota)
        assert (level, "--desired-value 4`" in remedy) == ("stop", True)
    with stubbed_account("ec2", "service-quotas") as at:
        limits(at, {ON_DEMAND: 5.0})
        ((_, _, remedy),) = at.found(check_quota)
    assert "--quota-code L-1216C47A --desired-value 40`" in remedy


def test_an_unknown_quota_is_a_warning() -> None:
    with stubbed_account("ec2", "service-quotas", fleet={"instance_types": ("p3.2xlarge",)}) as at:
        limits(at, {ON_DEMAND: 5.0})
        ((level, words, _),) = at.found(check_quota)
    assert (level, "p3.2xlarge" in words) == ("warning", True)
    with stubbed_account("ec2", "service-quotas") as at:
        described(at)
        at.stubs["service-quotas"].add_client_error("get_service_quota", "NoSuchResourceException", "none")
        ((level, words, _),) = at.found(check_quota)
    assert (level, "GetServiceQuota" in words) == ("warning", True)


@pytest.mark.parametrize(
    ("kind", "market", "code"),
    [
        ("im4gn.large", "on_demand", ON_DEMAND),
        ("t4g.small", "spot", SPOT),
        ("gr6.4xlarge", "on_demand", GRAPHICS),
        ("inf2.xlarge", "on_demand", None),
        ("mac2.metal", "spot", None),
    ],
)
def test_the_quota_follows_the_letters_of_the_family(kind: str, market: str, code: str | None) -> None:
    assert quota_code(kind, market) == code
