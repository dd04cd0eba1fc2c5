"""The roles of the stack: no action, resource or condition beyond what their tier needs."""

import pytest

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


def test_with_a_restored_table_all_use_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{of_this_stack().names.job_table}-restored-1"
    monkeypatch.setitem(GIVEN, "RestoredJobTable", name)
    arn = f"arn:aws:dynamodb:eu-central-1:123456789012:table/{name}"
    for role in ("WebRole", "ControllerRole"):
        assert {resource for action, resource in allowed(role) if action.startswith("dynamodb:")} == {arn}
    assert of_this_stack().names.job_table == name
    assert value_of(TEMPLATE["Outputs"]["JobTableName"]["Value"]) == name


@pytest.mark.parametrize(("address", "is_in_s3"), [(GIVEN["BundleAddress"], True), ("ami/bundle", False)])
def test_only_a_bundle_in_s3_opens_its_place(monkeypatch: pytest.MonkeyPatch, address: str, is_in_s3: bool) -> None:
    monkeypatch.setitem(GIVEN, "BundleAddress", address)
    assert value_of({"Condition": RESOURCES["BundlePolicy"]["Condition"]}) is is_in_s3


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


def test_a_web_instance_may_take_only_the_pages_address_without_a_load_balancer() -> None:
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


def test_only_the_controller_may_publish_and_to_the_topic_of_events_alone() -> None:
    may = {role: {pair for pair in allowed(role) if pair[0].startswith(("sns:", "ses:"))} for role in ROLES}
    topic = GIVEN["Events"]
    assert may == {"WebRole": set(), "ControllerRole": {("sns:Publish", topic)}, "WorkerRole": set()}
    assert of_this_stack().notifications.topic_arn == topic


@pytest.mark.parametrize("role", ["WebRole", "WorkerRole"])
def test_the_role_of_an_instance_is_for_instances_alone(role: str) -> None:
    (trust,) = RESOURCES[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert (trust["Effect"], trust["Action"]) == ("Allow", "sts:AssumeRole")
    assert trust["Principal"] == {"Service": "ec2.amazonaws.com"}
    name = role.removesuffix("Role")
    assert RESOURCES[f"{name}Profile"]["Properties"]["Roles"] == [{"Ref": role}]
    launched = RESOURCES[f"{name}Template"]["Properties"]["LaunchTemplateData"]
    assert value_of(launched["IamInstanceProfile"]) == {"Arn": f"<{name}Profile.Arn>"}


def test_the_controller_may_use_the_given_disk_key_only_through_ec2(
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


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_the_permissions_boundary_where_the_account_demands_one(
    monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    assert set(of_type("IAM::Role")) == set(ROLES)
    boundary = RESOURCES[role]["Properties"]["PermissionsBoundary"]
    assert value_of([boundary]) == []
    monkeypatch.setitem(GIVEN, "PermissionsBoundaryArn", "arn:aws:iam::123456789012:policy/bound")
    assert value_of(boundary) == "arn:aws:iam::123456789012:policy/bound"
