"""Who may do what on the stack, and what nobody may."""

import ast
import re

import pytest

from localcloud.iam.reference import is_known, known_keys, matching_types, types_of
from services.metadata import DRAIN_TAG, PROTECTED_TAG
from tests.conftest import ROOT
from tests.support.stack_template import (
    GIVEN,
    RESOURCES,
    TEMPLATE,
    allowed,
    listed,
    of_this_stack,
    of_type,
    statements,
    value_of,
)

ROLES = ("WebRole", "ControllerRole", "WorkerRole")
EC2 = "arn:aws:ec2:eu-central-1:123456789012"

INPUTS, OUTPUTS = "<InputBucket.Arn>", "<OutputBucket.Arn>"
EXACTLY = {
    "WebRole": {
        f"{INPUTS}/*": {
            "s3:PutObject",
            "s3:PutObjectTagging",
            "s3:DeleteObjectTagging",
            "s3:GetObject",
            "s3:DeleteObject",
        },
        f"{OUTPUTS}/*": {"s3:GetObject"},
        INPUTS: {"s3:ListBucket"},
        OUTPUTS: {"s3:ListBucket"},
        "<JobTable.Arn>": {
            f"dynamodb:{name}"
            for name in ("BatchGetItem", "BatchWriteItem", "GetItem", "PutItem", "Query", "UpdateItem")
        },
        "<RequestQueue.Arn>": {"sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"},
        "<ControllerRole.Arn>": {"sts:AssumeRole"},
    },
    "ControllerRole": {
        f"{INPUTS}/*": {"s3:GetObject", "s3:DeleteObject"},
        f"{OUTPUTS}/*": {"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"},
        INPUTS: {"s3:ListBucket"},
        OUTPUTS: {"s3:ListBucket"},
        "<JobTable.Arn>": {
            f"dynamodb:{name}"
            for name in ("BatchGetItem", "BatchWriteItem", "DeleteItem", "GetItem", "PutItem", "Query")
        },
        "<RequestQueue.Arn>": {"sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"},
        "<ResponseQueue.Arn>": {
            "sqs:ChangeMessageVisibility",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:GetQueueUrl",
            "sqs:ReceiveMessage",
        },
        "<DeadLetterQueue.Arn>": {
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:GetQueueUrl",
            "sqs:ReceiveMessage",
        },
    },
    "WorkerRole": {
        f"{INPUTS}/*": {"s3:GetObject"},
        f"{OUTPUTS}/*": {"s3:GetObject", "s3:PutObject"},
        INPUTS: {"s3:ListBucket"},
        OUTPUTS: {"s3:ListBucket"},
        "<RequestQueue.Arn>": {
            "sqs:ChangeMessageVisibility",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:GetQueueUrl",
            "sqs:ReceiveMessage",
            "sqs:SendMessage",
        },
        "<ResponseQueue.Arn>": {"sqs:GetQueueUrl", "sqs:SendMessage"},
    },
}


@pytest.mark.parametrize("role", ROLES)
def test_a_tier_may_do_exactly_what_it_does_with_buckets_queues_table_and_roles(role: str) -> None:
    found: dict[str, set[str]] = {}
    for action, resource in allowed(role):
        own = action.startswith(("s3:", "sqs:", "dynamodb:", "sts:")) and not resource.startswith(
            "arn:aws:s3:::models"
        )
        if own:
            found.setdefault(resource, set()).add(action)
    assert found == EXACTLY[role]


@pytest.mark.parametrize("role", ROLES)
def test_no_action_is_wildcarded_and_nothing_that_could_be_named(role: str) -> None:
    assert not [action for action, _ in allowed(role) if "*" in action]
    everything = {sid for sid, each in statements(role).items() if "*" in listed(each["Resource"])}
    # Where AWS knows no resources for the action.
    assert everything == ({"SeeInstances"} if role == "ControllerRole" else {"OpenSessions"})
    # All is said by what is allowed, here, and not by what others wrote, which may grow.
    assert all(each["Effect"] == "Allow" for each in statements(role).values())
    assert not any("NotAction" in each or "NotResource" in each for each in statements(role).values())
    assert "ManagedPolicyArns" not in RESOURCES[role]["Properties"]


def test_only_the_controller_may_do_anything_with_instances_but_give_one_the_address_of_the_page() -> None:
    for role, may in (("WebRole", {"ec2:AssociateAddress"}), ("WorkerRole", set())):
        assert {action for action, _ in allowed(role) if action.startswith(("ec2:", "iam:"))} == may


def test_without_a_load_balancer_a_web_instance_may_take_the_pages_address_and_no_other() -> None:
    assert RESOURCES["PageAddressPolicy"]["Condition"] == RESOURCES["PageIp"]["Condition"] == "HasNoLoadBalancer"
    assert RESOURCES["PageAddressPolicy"]["Properties"]["Roles"] == [{"Ref": "WebRole"}]
    may = statements("WebRole")
    assert value_of(may["TakeThePagesAddress"]["Resource"]) == f"{EC2}:elastic-ip/<PageIp.AllocationId>"
    instances = may["GiveItToAWebInstance"]
    assert value_of(instances["Resource"]) == f"{EC2}:instance/*"
    name = of_this_stack().names.web_instance
    assert value_of(instances["Condition"]) == {"StringEquals": {"aws:ResourceTag/Name": name}}
    vpc = "arn:aws:ec2:eu-central-1:*:vpc/vpc-1"
    assert value_of(may["AtItsNetworkInterface"]["Condition"]) == {"ArnLike": {"ec2:Vpc": vpc}}


@pytest.mark.parametrize("role", ["WebRole", "WorkerRole"])
def test_an_instance_of_either_tier_may_only_log_let_people_in_and_read_the_bundle_besides(role: str) -> None:
    logs = {"WebRole": ("<WebLogs.Arn>", "<ControllerLogs.Arn>"), "WorkerRole": ("<WorkerLogs.Arn>",)}[role]
    writing = ("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents")
    besides = [
        pair
        for pair in allowed(role)
        if pair[0].startswith(("logs:", "ssm", "ec2messages:", "kms:")) and pair[1] != GIVEN["DataKeyArn"]
    ]
    written = {pair for pair in besides if pair[0].startswith("logs:")}
    assert written == {(action, group) for action in writing for group in logs}
    certificate = {"ssm:GetParameter", "kms:Decrypt"} if role == "WebRole" else set()
    assert {action for action, _ in besides if not action.startswith("logs:")} == certificate | {
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
    }
    bundle = {pair for pair in allowed(role) if pair[1].startswith("arn:aws:s3:::")}
    places = ("arn:aws:s3:::models/resnet18", "arn:aws:s3:::models/resnet18/*")
    assert bundle == {("s3:GetObject", place) for place in places}


def test_the_bundles_place_is_only_opened_where_the_bundle_lies_in_s3() -> None:
    assert RESOURCES["BundlePolicy"]["Condition"] == "BundleIsInS3"
    assert value_of(TEMPLATE["Conditions"]["BundleIsInS3"]) is True
    equals = TEMPLATE["Conditions"]["BundleIsInS3"]["Fn::Equals"]
    address = TEMPLATE["Parameters"]["BundleAddress"]["Default"]
    assert address.split(equals[0]["Fn::Select"][1]["Fn::Split"][0])[0] != equals[1]


def test_the_web_role_may_read_and_decrypt_the_one_parameter_with_the_certificate_where_there_is_one() -> None:
    policy = RESOURCES["TlsPolicy"]
    assert (policy["Condition"], policy["Properties"]["Roles"]) == ("HasTlsParameter", [{"Ref": "WebRole"}])
    parameter = "arn:aws:ssm:eu-central-1:123456789012:parameter/fleetsight/tls"
    assert value_of(statements("WebRole")["ReadTheCertificate"]["Resource"]) == parameter
    decrypt = statements("WebRole")["DecryptTheCertificate"]
    assert value_of(decrypt["Resource"]) == "arn:aws:kms:eu-central-1:123456789012:key/*"
    # SSM encrypts each parameter in the context of its own name, and asks for the same to decrypt it.
    assert value_of(decrypt["Condition"]) == {
        "StringEquals": {
            "kms:ViaService": "ssm.eu-central-1.amazonaws.com",
            "kms:EncryptionContext:PARAMETER_ARN": parameter,
        }
    }


@pytest.mark.parametrize("role", ["WebRole", "WorkerRole"])
def test_the_role_of_an_instance_is_for_instances_alone(role: str) -> None:
    (trust,) = RESOURCES[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert (trust["Effect"], trust["Action"]) == ("Allow", "sts:AssumeRole")
    assert trust["Principal"] == {"Service": "ec2.amazonaws.com"}
    name = role.removesuffix("Role")
    assert RESOURCES[f"{name}Profile"]["Properties"]["Roles"] == [{"Ref": role}]
    launched = RESOURCES[f"{name}Template"]["Properties"]["LaunchTemplateData"]
    assert value_of(launched["IamInstanceProfile"]) == {"Arn": f"<{name}Profile.Arn>"}


def test_only_the_web_instance_may_act_as_the_controller() -> None:
    (trust,) = RESOURCES["ControllerRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert (trust["Effect"], trust["Action"]) == ("Allow", "sts:AssumeRole")
    # By the account's principal, so that the web role's own policy is needed too.
    assert value_of(trust["Principal"]) == {"AWS": "arn:aws:iam::123456789012:root"}
    assert value_of(trust["Condition"]) == {"ArnEquals": {"aws:PrincipalArn": "<WebRole.Arn>"}}
    assert ("sts:AssumeRole", "<ControllerRole.Arn>") in allowed("WebRole")
    assert not [pair for pair in allowed("WorkerRole") if pair[0].startswith("sts:")]


def test_the_controller_launches_only_the_fleets_template_under_the_fleets_name_with_the_workers_role() -> None:
    launches = [each for each in statements("ControllerRole").values() if each["Action"] == "ec2:RunInstances"]
    template = f"{EC2}:launch-template/<WorkerTemplate>"
    (spot,) = [each for each in launches if "Condition" not in each]
    # AWS documents no key of the template for Spot requests, which come with an allowed instance only.
    assert value_of(spot["Resource"]) == f"{EC2}:spot-instances-request/*"
    for each in launches:
        if each is not spot:
            assert value_of(each["Condition"])["ArnEquals"]["ec2:LaunchTemplate"] == template
    (of_instances,) = [each for each in launches if value_of(each["Resource"]) == f"{EC2}:instance/*"]
    condition = value_of(of_instances["Condition"])
    assert condition["StringEquals"] == {
        "aws:RequestTag/Name": of_this_stack().names.worker_instance,
        "ec2:MetadataHttpTokens": "required",
    }
    assert condition["ArnEquals"]["ec2:InstanceProfile"] == "<WorkerProfile.Arn>"
    passed = statements("ControllerRole")["GiveWorkersTheirRole"]
    assert passed["Action"] == "iam:PassRole"
    assert value_of(passed["Resource"]) == "<WorkerRole.Arn>"
    assert passed["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


def test_the_one_role_that_the_controller_can_bring_about_is_the_one_that_ec2_makes_for_spot_instances() -> None:
    roles = {sid: each for sid, each in statements("ControllerRole").items() if "iam:" in str(each["Action"])}
    assert set(roles) == {"GiveWorkersTheirRole", "FirstSpotInstance"}
    spot = roles["FirstSpotInstance"]
    assert spot["Action"] == "iam:CreateServiceLinkedRole"
    assert value_of(spot["Resource"]).endswith(":role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot")
    assert spot["Condition"] == {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}}


def test_image_and_security_group_of_a_launch_are_those_of_the_template() -> None:
    launches = [each for each in statements("ControllerRole").values() if each["Action"] == "ec2:RunInstances"]
    of_images = [each for each in launches if any("image/" in str(value_of(r)) for r in listed(each["Resource"]))]
    (statement,) = of_images
    assert statement["Condition"]["Bool"] == {"ec2:IsLaunchTemplateResource": "true"}
    assert set(value_of(statement["Resource"])) == {
        "arn:aws:ec2:eu-central-1::image/*",
        f"{EC2}:launch-template/<WorkerTemplate>",
        f"{EC2}:security-group/<WorkerSecurityGroup.GroupId>",
    }
    elsewhere = {r for each in launches if each is not statement for r in listed(value_of(each["Resource"]))}
    # What a launch makes, and the subnet, which the configuration names.
    made = ("instance", "network-interface", "spot-instances-request", "subnet", "volume")
    assert elsewhere == {f"{EC2}:{kind}/*" for kind in made}


def test_with_a_key_of_the_accounts_own_the_controller_may_use_it_for_disks_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, ec2 = GIVEN["DiskKeyArn"], {"kms:ViaService": "ec2.eu-central-1.amazonaws.com"}
    assert RESOURCES["DiskKeyPolicy"]["Condition"] == "HasDiskKey"
    assert RESOURCES["DiskKeyPolicy"]["Properties"]["Roles"] == [{"Ref": "ControllerRole"}]
    of_keys = {sid: each for sid, each in statements("ControllerRole").items() if value_of(each["Resource"]) == key}
    assert set(of_keys) == {"EncryptDisks", "LetDisksUseTheKey"}
    assert value_of(of_keys["EncryptDisks"]["Condition"]) == {"StringEquals": ec2}
    grant = of_keys["LetDisksUseTheKey"]
    assert grant["Action"] == "kms:CreateGrant"
    assert value_of(grant["Condition"]) == {"Bool": {"kms:GrantIsForAWSResource": "true"}, "StringEquals": ec2}
    for template in ("WebTemplate", "WorkerTemplate"):
        (disk,) = RESOURCES[template]["Properties"]["LaunchTemplateData"]["BlockDeviceMappings"]
        assert value_of(disk)["Ebs"]["KmsKeyId"] == key
    monkeypatch.setitem(GIVEN, "DiskKeyArn", "")
    assert value_of(TEMPLATE["Conditions"]["HasDiskKey"]) is False


@pytest.mark.parametrize("role", ["WebRole", "ControllerRole", "WorkerRole"])
def test_with_a_key_for_data_each_role_uses_it_by_way_of_the_services_that_it_uses(role: str) -> None:
    services = ("s3", "sqs") if role == "WorkerRole" else ("s3", "sqs", "dynamodb")
    own = [each for each in statements(role).values() if value_of(each["Resource"]) == GIVEN["DataKeyArn"]]
    via = {each for one in own for each in listed(value_of(one["Condition"])["StringEquals"]["kms:ViaService"])}
    assert via == {f"{service}.eu-central-1.amazonaws.com" for service in services}
    for each in own:
        is_grant = "kms:CreateGrant" in listed(each["Action"])
        assert ("kms:GrantIsForAWSResource" in value_of(each["Condition"]).get("Bool", {})) == is_grant


def of_aws(value: object) -> str:
    """Return an ARN of a policy with a resource of the right form for each that only AWS knows."""
    forms = {
        "Queue": "arn:aws:sqs:eu-central-1:123456789012:name",
        "Bucket": "arn:aws:s3:::name",
        "JobTable": "arn:aws:dynamodb:eu-central-1:123456789012:table/name",
        "UserPool": "arn:aws:cognito-idp:eu-central-1:123456789012:userpool/id",
        "Role": "arn:aws:iam::123456789012:role/name",
        "Logs": "arn:aws:logs:eu-central-1:123456789012:log-group:name:*",
    }

    def form(match: re.Match[str]) -> str:
        return next(arn for end, arn in forms.items() if match[1].endswith(end))

    return re.sub(r"<(\w+)\.Arn>", form, str(value))


@pytest.mark.parametrize("role", ROLES)
def test_aws_lists_every_action_of_a_role_for_its_resources_and_with_its_condition_keys(role: str) -> None:
    """A condition on a key that a request does not have allows nothing, and AWS does not say so.

    https://docs.aws.amazon.com/service-authorization/latest/reference/
    """
    pairs = [(each, action) for each in statements(role).values() for action in listed(each["Action"])]
    assert len(pairs) > 5
    for statement, action in pairs:
        assert types_of(action) is not None, f"AWS lists no action {action}"
        keys = [key for of_operator in statement.get("Condition", {}).values() for key in of_operator]
        for arn in map(of_aws, listed(value_of(statement["Resource"]))):
            types = matching_types(action, arn) or matching_types(action, arn.replace(":*", ":log-stream:name"))
            assert types or arn == "*", f"{action} is not about {arn}"
            of_types = [known_keys(action, arn)] if arn == "*" else [keys_of(action, each) for each in types]
            for key in keys:
                assert all(is_known(key, each or frozenset()) for each in of_types), f"{action} on {arn} has no {key}"


def keys_of(action: str, resource_type: str) -> frozenset[str]:
    """Return the keys of an action for a type of resources."""
    types = types_of(action)
    assert types is not None
    return types["*"] | types[resource_type]


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_the_permissions_boundary_where_the_account_demands_one(
    monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    assert set(of_type("IAM::Role")) == set(ROLES)
    boundary = RESOURCES[role]["Properties"]["PermissionsBoundary"]
    assert value_of([boundary]) == []
    monkeypatch.setitem(GIVEN, "PermissionsBoundaryArn", "arn:aws:iam::123456789012:policy/bound")
    assert value_of(boundary) == "arn:aws:iam::123456789012:policy/bound"


def test_the_controller_sees_the_instances_of_its_own_region() -> None:
    seeing = statements("ControllerRole")["SeeInstances"]
    assert seeing["Action"] == "ec2:DescribeInstances"
    assert value_of(seeing["Condition"]) == {"StringEquals": {"aws:RequestedRegion": "eu-central-1"}}


def test_the_controller_starts_ends_and_asks_only_the_fleets_own_instances() -> None:
    name = {"aws:ResourceTag/Name": of_this_stack().names.worker_instance}
    touching = {"ec2:StartInstances", "ec2:TerminateInstances", "ec2:GetConsoleOutput", "ec2:DeleteTags"}
    for each in statements("ControllerRole").values():
        if touching & set(listed(each["Action"])):
            assert value_of(each["Condition"]["StringEquals"]) == name
            assert value_of(each["Resource"]) == f"{EC2}:instance/*"


def test_the_controller_sets_and_takes_no_tags_but_those_by_which_it_asks() -> None:
    asking = statements("ControllerRole")["AskWorkersToDrainOrStay"]
    assert set(asking["Condition"]["ForAllValues:StringEquals"]["aws:TagKeys"]) == {DRAIN_TAG, PROTECTED_TAG}
    assert asking["Condition"]["Null"] == {"aws:TagKeys": "false"}
    tagging = [each for each in statements("ControllerRole").values() if "ec2:CreateTags" in listed(each["Action"])]
    (at_launch,) = [each for each in tagging if each is not asking]
    assert at_launch["Condition"] == {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
    assert set(value_of(at_launch["Resource"])) == {f"{EC2}:instance/*", f"{EC2}:volume/*"}


NAMES = {
    "AdminSetUserMfaPreference": "AdminSetUserMFAPreference",
    "SetUserMfaPreference": "SetUserMFAPreference",
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}
"""Actions of calls whose names do not follow from botocore's; SQS knows no action for a batch."""


def calls_of(module: str, service: str) -> set[str]:
    """Return the actions of all calls that a module of `services/` makes of its client, by the code."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "services" / module).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method, owner = node.func.attr, ast.unparse(node.func.value)
            if owner.endswith("client"):
                name = str(ast.literal_eval(node.args[0])) if method == "get_paginator" else method
                found.add(name.title().replace("_", ""))
    return {f"{service}:{NAMES.get(name, name)}" for name in found}


@pytest.mark.parametrize(("module", "service"), [("ec2.py", "ec2"), ("sqs.py", "sqs"), ("table.py", "dynamodb")])
def test_whatever_the_code_calls_some_tier_may_call_and_no_tier_may_more(module: str, service: str) -> None:
    may = {action for role in ROLES for action, _ in allowed(role) if action.startswith(f"{service}:")}
    may -= {"ec2:AssociateAddress"}  # of the web image's own program
    assert calls_of(module, service) == may
