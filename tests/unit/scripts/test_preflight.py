"""The preflight: checks of the account and of launches against answers as AWS documents them, and how checks run."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from scripts.aws.bake.spec import DEBIAN_OWNER, BakeError, newest_debian
from scripts.aws.context import AccountError, AwsAccount
from scripts.aws.deploy import up as ups
from scripts.aws.deploy.settings import load_template
from scripts.aws.instances import InstanceType
from scripts.aws.preflight.account import (
    check_disk_key,
    check_public_access,
    check_region,
    check_rights,
)
from scripts.aws.preflight.findings import Finding, Level, StackPlan, run_checks
from scripts.aws.preflight.instances import (
    check_free_plan,
    check_gpus,
    check_images,
    check_launch,
    check_network,
    check_types,
)
from scripts.aws.preflight.permissions import Permission, denials, pass_permission
from scripts.aws.preflight.quotas import check_addresses, check_quota, quota_code
from services.clock import utc_now
from tests.support.aws_stage import USER, StubbedAccount, stubbed_account

GIVEN_ROLE, STACKS_ROLE = (f"arn:aws:iam::123456789012:role/{name}" for name in ("given", "of-the-stack"))
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        ("RequestTimeTooSkewed", "The difference is too large.", "sudo timedatectl set-ntp true"),
        (
            "SignatureDoesNotMatch",
            "Signature expired: 20261125T100000Z is now earlier",
            "sudo timedatectl set-ntp true",
        ),
        ("SignatureDoesNotMatch", "Signature not yet current: 20261125T100000Z", "sudo timedatectl set-ntp true"),
        ("SignatureDoesNotMatch", "The request signature we calculated does not match", "`aws configure`"),
        ("ExpiredToken", "The security token included in the request is expired", "`aws configure`"),
    ],
)
def test_the_error_has_the_remedy_for_clock_or_credentials_if_aws_refuses_the_caller(
    code: str, message: str, remedy: str
) -> None:
    with stubbed_account("sts") as at:
        at.stubs["sts"].add_client_error("get_caller_identity", code, message, 403)
        account = AwsAccount("us-east-1", _clients={"sts": at.stubs["sts"].client})
        with pytest.raises(AccountError, match=code) as refused:
            _ = account.id
    assert remedy in str(refused.value)


@pytest.mark.parametrize(
    ("key", "manager", "level"),
    [("alias/aws/ebs", "", "ok"), (KEY, "AWS", "ok"), (KEY, "CUSTOMER", "warning")],
)
def test_a_customer_managed_disk_key_is_a_warning(key: str, manager: str, level: str) -> None:
    with stubbed_account("ec2", "kms") as at:
        at.stubs["ec2"].add_response("get_ebs_default_kms_key_id", {"KmsKeyId": key})
        if manager:
            described = {"KeyMetadata": {"KeyId": key.rpartition("/")[2], "KeyManager": manager}}
            at.stubs["kms"].add_response("describe_key", described, {"KeyId": key})
        ((reported, words, remedy),) = at.found(check_disk_key)
    assert reported == level
    assert (KEY in words, "reset-ebs-default-kms-key-id --region us-east-1" in remedy) == (level == "warning",) * 2


def test_a_key_that_the_stack_names_is_checked_instead_of_the_accounts_default() -> None:
    with stubbed_account("kms", parameters={"DiskKeyArn": KEY}) as at:
        described = {"KeyMetadata": {"KeyId": KEY.rpartition("/")[2], "KeyManager": "CUSTOMER"}}
        at.stubs["kms"].add_response("describe_key", described, {"KeyId": KEY})
        ((reported, words, remedy),) = at.found(check_disk_key)
    assert (reported, KEY in words) == ("warning", True)
    assert "reset-ebs-default-kms-key-id" not in remedy


def test_a_region_without_a_resource_type_is_a_stop() -> None:
    kinds = {each["Type"] for each in load_template().resources.values()}
    with stubbed_account("cloudformation", parameters={"StaticSite": "true"}) as at:
        stub = at.stubs["cloudformation"]
        stub.add_response("validate_template", {})
        request: list[Any] = []
        stub.client.meta.events.register("provide-client-params.*.*", lambda params, **_: request.append(params))
        assert [level for level, _, _ in at.found(check_region)] == ["ok"]
        assert {each["Type"] for each in json.loads(request[0]["TemplateBody"])["Resources"].values()} == kinds
        # As it was met in eu-central-2: https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/2177
        message = "Template format error: Unrecognized resource types: [AWS::Budgets::Budget]"
        stub.add_client_error("validate_template", "ValidationError", message)
        ((level, words, remedy),) = at.found(check_region)
        assert (level, words) == ("stop", "CloudFormation in us-east-1 does not have [AWS::Budgets::Budget]")
        assert remedy == "Give --set MonthlyBudget=0"
        at.parameters = {"MonthlyBudget": "0"}
        stub.add_response("validate_template", {})
        assert [level for level, _, _ in at.found(check_region)] == ["ok"]
        assert "AWS::Budgets::Budget" not in request[-1]["TemplateBody"]
        assert "AWS::CloudFront" not in request[-1]["TemplateBody"]
        at.parameters = {"StaticSite": "true"}
        lacking = "[AWS::CloudFront::Distribution, AWS::Budgets::Budget]"  # as in AWS GovCloud
        stub.add_client_error("validate_template", "ValidationError", f"{message.partition('[')[0]}{lacking}")
        ((level, words, remedy),) = at.found(check_region)
        assert (level, remedy) == ("stop", "Give --set MonthlyBudget=0 --set StaticSite=false")
        stub.add_client_error("validate_template", "ValidationError", message.replace("Budgets", "Cognito"))
        assert at.found(check_region)[0][2] == "Give another --region"
        stub.add_client_error("validate_template", "ValidationError", "something else")
        assert [level for level, _, _ in at.found(check_region)] == ["warning"]


@pytest.mark.parametrize(
    ("mode", "level", "words"),
    [
        ("off", "ok", "is off"),
        ("block-ingress", "warning", "the page cannot be reached"),
        ("block-bidirectional", "warning", "instances cannot call AWS"),
    ],
)
def test_blocked_internet_gateways_are_a_warning(mode: str, level: str, words: str) -> None:
    with stubbed_account("ec2") as at:
        options = {"AwsRegion": "us-east-1", "State": "update-complete", "InternetGatewayBlockMode": mode}
        answer = {"VpcBlockPublicAccessOptions": options}
        at.stubs["ec2"].add_response("describe_vpc_block_public_access_options", answer)
        ((reported, found, _),) = at.found(check_public_access)
    assert (reported, words in found) == (level, True)


@pytest.mark.parametrize(
    ("caller", "words"),
    [
        ("arn:aws:iam::123456789012:root", "may do everything"),
        ("arn:aws:sts::123456789012:federated-user/ann", "IAM simulates users and roles"),
    ],
)
def test_a_caller_without_policies_of_its_own_is_not_simulated(caller: str, words: str) -> None:
    with stubbed_account("iam", caller=caller) as at:
        ((level, reported, _),) = at.found(check_rights)
    assert level == "warning"
    assert words in reported


def test_a_denied_action_is_a_stop_if_certain_else_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = {"iam:CreateRole": True, "sqs:DeleteQueue": False}
    with stubbed_account("iam") as at:
        monkeypatch.setattr("scripts.aws.preflight.account.denials", lambda *_: denied)
        stop, warning = at.found(check_rights)
        assert stop[:2] == ("stop", f"{at.caller} may not call iam:CreateRole")
        assert warning[:2] == ("warning", f"{at.caller} perhaps may not call sqs:DeleteQueue")
        monkeypatch.setattr("scripts.aws.preflight.account.denials", lambda *_: {})
        assert [level for level, _, _ in at.found(check_rights)] == ["ok"]


@pytest.mark.parametrize("passes", [True, False])
def test_the_rights_of_a_service_role_and_of_its_caller_are_checked_apart(
    monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    asked: dict[str, set[str]] = {}

    def none_denied(_account: object, _prefix: str, source: str, needed: list[Permission], _: str) -> dict[str, bool]:
        asked[source] = {action for each in needed for action in each.actions.split()}
        return {}

    monkeypatch.setattr("scripts.aws.preflight.account.denials", none_denied)
    at = StubbedAccount({})
    found = list(check_rights(replace(at.plan(), service_role=GIVEN_ROLE, passes_role=passes)))
    assert [each.found for each in found] == [f"{each} may do its part of `up`" for each in (GIVEN_ROLE, at.caller)]
    assert {"iam:CreateRole", "iam:PassRole", "dynamodb:CreateTable"} <= asked[GIVEN_ROLE]
    assert not {"cloudformation:CreateChangeSet", "dynamodb:PutItem", "s3:PutObject"} & asked[GIVEN_ROLE]
    assert {"cloudformation:CreateChangeSet", "dynamodb:PutItem", "s3:PutObject"} <= asked[at.caller]
    assert {each for each in asked[at.caller] if each.startswith("iam:")} == ({"iam:PassRole"} if passes else set())


def test_the_caller_is_asked_to_pass_the_role_to_cloudformation() -> None:
    request = {
        "PolicySourceArn": USER,
        "ActionNames": ["iam:PassRole"],
        "ResourceArns": [GIVEN_ROLE],
        "ContextEntries": [
            {"ContextKeyName": key, "ContextKeyType": "string", "ContextKeyValues": [value]}
            for key, value in (
                ("aws:RequestedRegion", "us-east-1"),
                ("iam:PassedToService", "cloudformation.amazonaws.com"),
            )
        ],
    }
    denied = {"EvaluationResults": [{"EvalActionName": "iam:PassRole", "EvalDecision": "implicitDeny"}]}
    with stubbed_account("iam") as at:
        at.stubs["iam"].add_response("simulate_principal_policy", denied, request)
        assert denials(at.account, "fs", USER, [pass_permission(GIVEN_ROLE)]) == {"iam:PassRole": True}


@pytest.mark.parametrize(("given", "checked"), [("", STACKS_ROLE), (GIVEN_ROLE, GIVEN_ROLE)])
def test_the_role_that_a_stack_has_is_checked_where_none_is_given(
    monkeypatch: pytest.MonkeyPatch, given: str, checked: str
) -> None:
    """CloudFormation keeps it: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-iam-servicerole.html"""
    plans: list[StackPlan] = []

    def run_checks(plan: StackPlan, _: object) -> list[Finding]:
        plans.append(plan)
        return []

    monkeypatch.setattr(ups, "run_checks", run_checks)
    monkeypatch.setattr(ups, "_find_network", lambda *_: {})
    monkeypatch.setattr(ups, "available_images", lambda *_: {})
    monkeypatch.setattr(ups, "existing_boundary", lambda *_: "")
    described = {"StackName": "fs", "CreationTime": utc_now(), "StackStatus": "UPDATE_COMPLETE"}
    described |= {"StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/fs/1", "RoleARN": STACKS_ROLE}
    with stubbed_account("cloudformation") as at:
        at.stubs["cloudformation"].add_response("describe_stacks", {"Stacks": [described]})
        ups.check_account(at.plan().context, ups.UpOptions(service_role=given))
    assert [(each.service_role, each.passes_role) for each in plans] == [(checked, bool(given))]


def test_a_denied_simulation_is_a_warning() -> None:
    with stubbed_account("iam") as at:
        at.stubs["iam"].add_client_error("simulate_principal_policy", "AccessDenied", "not authorized")
        ((level, words, _),) = at.found(check_rights)
    assert level == "warning"
    assert "SimulatePrincipalPolicy" in words


OK = Finding(Level.OK, "fine")


def test_a_slow_check_is_a_warning_and_delays_no_other() -> None:
    never = threading.Event()

    def hangs(_: object) -> list[Finding]:
        never.wait()
        return [OK]

    (_, reported), *others = run_checks(StubbedAccount({}).plan(), {"rights": hangs}, seconds=0.0)
    assert (reported.level, reported.found, others) == (
        Level.WARNING,
        "unknown: AWS did not answer within 0 s",
        [],
    )
    never.set()


def test_a_bug_in_a_check_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run_checks(StubbedAccount({}).plan(), {"quota": lambda _: [OK] * (1 // 0)})


FREE_PLAN = "The specified instance type is not eligible for Free Tier."
IN_SCP = (
    "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/ann is not authorized to "
    "perform: ec2:RunInstances with an explicit deny in a service control policy."
)
CPUS = {"c7a.large": 2, "c7i.large": 2, "g4dn.xlarge": 4, "p3.2xlarge": 8}
GPUS = {"g4dn.xlarge": "NVIDIA", "g4ad.xlarge": "AMD"}


def test_a_finding_is_one_line_with_its_remedy() -> None:
    page = Finding(Level.STOP, f"<html>\n <p>{'x' * 1_000}", "Do this")
    line = page.line("mail")
    assert line.startswith("stop     mail: <html> <p>xxx")
    assert line.endswith("x…. Do this")
    assert len(line) < 700


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


def answers(at: StubbedAccount, *codes: tuple[str, str]) -> None:
    for code, message in codes:
        at.stubs["ec2"].add_client_error("run_instances", code, message)


SHARED_VPC = "You do not have access to a default security group in VPC vpc-1. Specify a security group"
"""EC2's refusal of a dry run without a security group in the VPC of another account; the stack makes its own.

https://github.com/aws/aws-parallelcluster/issues/1779.
"""

DRY = ("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")


@pytest.mark.parametrize(
    ("codes", "level", "words"),
    [
        ([DRY], "ok", "a dry run of c7a.large, which promises neither capacity nor quota"),
        ([("Unsupported", "not in your requested Availability Zone"), DRY], "ok", "accepts a dry run of c7a.large"),
        ([("Unsupported", "no")] * 2, "stop", "EC2 refuses a dry run of c7a.large"),
        ([("InvalidParameterCombination", FREE_PLAN)], "stop", FREE_PLAN),
        ([("UnauthorizedOperation", IN_SCP)], "stop", "explicit deny in a service control policy"),
        ([("InvalidParameterCombination", "Something else")], "stop", "Something else"),
        ([("PendingVerification", "please allow up to 4 hours")], "stop", "please allow up to 4 hours"),
        ([("RequestLimitExceeded", "Request limit exceeded.")], "warning", "Request limit exceeded."),
        ([("UnauthorizedOperation", SHARED_VPC)], "warning", SHARED_VPC),
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
    assert ("type" in remedy) == (level == "stop" and codes[0][0] in {"Unsupported", "InvalidParameterCombination"})


FREE_TYPE, PAID_TYPE = "c7i-flex.large", "c7a.large"


@pytest.mark.parametrize(
    ("plan", "web", "workers", "images", "levels"),
    [
        ("PAID", PAID_TYPE, (PAID_TYPE,), None, ["ok"]),
        ("ResourceNotFoundException", PAID_TYPE, (PAID_TYPE,), None, ["ok"]),
        ("AccessDeniedException", PAID_TYPE, (PAID_TYPE,), None, ["warning"]),
        ("FREE", FREE_TYPE, (FREE_TYPE,), True, ["ok"]),
        ("FREE", FREE_TYPE, (PAID_TYPE,), True, ["stop"]),
        ("FREE", PAID_TYPE, (FREE_TYPE,), True, ["stop"]),
        ("FREE", FREE_TYPE, (FREE_TYPE, PAID_TYPE), True, ["warning"]),
        ("FREE", FREE_TYPE, (FREE_TYPE,), False, ["warning"]),
    ],
)
def test_types_and_images_that_the_free_plan_does_not_allow_are_found_by_what_ec2_says_of_them(
    plan: str, web: str, workers: tuple[str, ...], images: bool | None, levels: list[str]
) -> None:
    with stubbed_account(
        "ec2", "freetier", fleet={"instance_types": workers}, parameters={"WebInstanceType": web}
    ) as at:
        if plan in {"FREE", "PAID"}:
            at.stubs["freetier"].add_response(
                "get_account_plan_state",
                {"accountId": "1" * 12, "accountPlanType": plan, "accountPlanStatus": "ACTIVE"},
            )
        else:
            at.stubs["freetier"].add_client_error("get_account_plan_state", plan)
        if images is not None:
            described(at)
            listed = [{"ImageId": each, "FreeTierEligible": images} for each in at.images.values()]
            at.stubs["ec2"].add_response("describe_images", {"Images": listed})
        found = at.found(check_free_plan)
    assert [level for level, _, _ in found] == levels
    assert ("ami-1, ami-2" in found[0][1]) == (images is False)


def test_no_free_plan_is_asked_for_in_other_partitions() -> None:
    with stubbed_account("freetier", caller="arn:aws-us-gov:iam::123456789012:user/ann") as at:
        assert at.found(check_free_plan) == []


def test_the_plan_of_the_account_is_asked_for_where_the_service_is() -> None:
    account = AwsAccount("eu-west-1")
    assert (account.freetier.meta.region_name, account.ec2.meta.region_name) == ("us-east-1", "eu-west-1")


@pytest.mark.parametrize(("used", "level"), [(4, "ok"), (5, "stop")])
def test_the_address_of_a_new_page_must_fit_into_the_quota(used: int, level: str) -> None:
    with stubbed_account("ec2", "service-quotas") as at:
        at.stubs["ec2"].add_response("describe_addresses", {"Addresses": [{"PublicIp": "192.0.2.1"}] * used})
        asked = {"ServiceCode": "ec2", "QuotaCode": "L-0263D0A3"}
        at.stubs["service-quotas"].add_response("get_service_quota", {"Quota": {"Value": 5.0}}, asked)
        ((reported, words, remedy),) = at.found(check_addresses)
        assert (reported, f"{used} of 5" in words) == (level, True)
        assert ("--quota-code L-0263D0A3 --desired-value 6`" in remedy) == (level == "stop")
        at.parameters = {"CertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1"}
        assert at.found(check_addresses) == []
        at.parameters, at.is_new = {}, False  # it has one
        assert at.found(check_addresses) == []


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
            "FreeTierEligible": kind == FREE_TYPE,
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


@pytest.mark.parametrize(("days", "level"), [(30, "ok"), (31, "warning")])
def test_an_image_of_more_than_a_month_is_a_warning(days: int, level: str) -> None:
    """The form of the date: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Image.html."""
    created = (utc_now() - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    images = [{"ImageId": "ami-1", "Architecture": "x86_64"}]
    images.append({"ImageId": "ami-2", "Architecture": "x86_64", "CreationDate": created})
    with stubbed_account("ec2") as at:
        at.stubs["ec2"].add_response("describe_images", {"Images": images})
        described(at)
        ((reported, words, remedy),) = at.found(check_images)
    assert reported == level
    if level == "warning":
        assert words == "the worker's image ami-2 is 31 days old"
        assert "fleetsight up --rebake" in remedy


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
        ((level, words, _),) = at.found(check_launch)
    assert (level, DEBIAN_OWNER in words) == ("stop", True)


def test_debians_image_is_a_copy_of_the_accounts_own_outside_awss_own_partition() -> None:
    """Account ids are of one partition, so Debian's does not exist in AWS GovCloud, or is another one."""
    kind = InstanceType("c7a.large", "x86_64", 2, 0)
    copy = {"ImageId": "ami-c", "Name": "debian-12-amd64-1", "RootDeviceName": "/dev/xvda", "CreationDate": "2026"}
    ec2 = boto3.client("ec2", region_name="us-gov-west-1")
    with Stubber(ec2) as stub:
        for found in ([copy], []):
            stub.add_response("describe_images", {"Images": found}, {"Owners": ["self"], "Filters": ANY})
        assert newest_debian(ec2, kind).image_id == "ami-c"
        with pytest.raises(BakeError, match="copy one from another partition as debian-12-amd64-"):
            newest_debian(ec2, kind)


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
        ({}, {ON_DEMAND: 1.0}, "stop", "1 vCPUs may run on demand; the web tier or a builder needs 2"),
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
        assert (level, f"the web tier or a builder needs {vcpus} at once" in words) == ("stop", True)


@pytest.mark.parametrize(("worker", "warned"), [("c7a.large", True), ("g4dn.xlarge", False), ("spot", False)])
def test_an_update_warns_of_workers_that_leave_no_vcpus_for_a_new_web_instance(worker: str, warned: bool) -> None:
    two = {"CpuOptions": {"CoreCount": 2, "ThreadsPerCore": 1}}
    web = {"InstanceId": "i-1", "InstanceType": "c7a.large", **two}
    other = {**web, "InstanceLifecycle": "spot"} if worker == "spot" else {"InstanceType": worker, **two}
    other = {**other, "InstanceId": "i-2"}
    with stubbed_account("ec2", "service-quotas", is_new=False) as at:
        limits(at, {ON_DEMAND: 5.0})
        at.stubs["ec2"].add_response("describe_instances", {"Reservations": [{"Instances": [web, other]}]})
        found = [words for _, words, _ in at.found(check_quota)]
    assert ("4 of 5 vCPUs are in use: workers end while a web instance is replaced" in found) == warned
    assert len(found) == 1 + warned


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
