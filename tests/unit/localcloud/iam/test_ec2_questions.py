"""EC2 is asked about each resource of a call, and a launch about all that it makes and uses."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends

from localcloud.iam.documents import Asked
from localcloud.iam.questions import questions_of
from localcloud.patches import apply_patches
from tests.unit.localcloud.iam.requests_of import REGION, query_call

ACCOUNT = "123456789012"
EC2 = f"arn:aws:ec2:{REGION}:{ACCOUNT}"
TRUST = json.dumps({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}})


@pytest.fixture(scope="module")
def template() -> Iterator[str]:
    """A launch template with image, group, profile, tags, session tokens and a disk; its ARN."""
    apply_patches("ec2")
    backend, iam = ec2_backends[ACCOUNT][REGION], iam_backends[ACCOUNT]["aws"]
    iam.create_role("asked-worker", TRUST, "/", None, "", [], "3600")
    iam.create_instance_profile("asked-workers", "/", [])
    iam.add_role_to_instance_profile("asked-workers", "asked-worker")
    data = {
        "ImageId": "ami-1",
        "SecurityGroupIds": ["sg-1"],
        "IamInstanceProfile": {"Arn": f"arn:aws:iam::{ACCOUNT}:instance-profile/asked-workers"},
        "MetadataOptions": {"HttpTokens": "required"},
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp3", "Encrypted": True}}],
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "Fleet", "Value": "a"}]},
            {"ResourceType": "volume", "Tags": [{"Key": "Fleet", "Value": "a"}]},
        ],
    }
    made = backend.create_launch_template("asked", "", data, {})
    yield f"{EC2}:launch-template/{made.id}"
    backend.delete_launch_template("asked", made.id)


NAMED = {
    "TagSpecification_1_ResourceType": "instance",
    "TagSpecification_1_Tag_1_Key": "Name",
    "TagSpecification_1_Tag_1_Value": "worker",
}


def launch(**parameters: str) -> list[Asked]:
    """Return what a launch asks for."""
    every = {"MinCount": "1", "MaxCount": "1", **parameters}
    return list(questions_of(query_call("ec2", "RunInstances", **every)))


def of_kind(asked: list[Asked], kind: str, action: str = "ec2:RunInstances") -> Asked:
    """Return the one question about a kind of resource."""
    (found,) = [each for each in asked if each.action == action and f":{kind}/" in each.resource]
    return found


def test_a_launch_asks_for_all_that_it_makes_and_uses(template: str) -> None:
    asked = launch(LaunchTemplate_LaunchTemplateName="asked", SubnetId="subnet-1", **NAMED)
    assert [(each.action, each.resource) for each in asked] == [
        ("ec2:RunInstances", template),
        ("ec2:RunInstances", f"arn:aws:ec2:{REGION}::image/ami-1"),
        ("ec2:RunInstances", f"{EC2}:instance/*"),
        ("ec2:RunInstances", f"{EC2}:subnet/subnet-1"),
        ("ec2:RunInstances", f"{EC2}:network-interface/*"),
        ("ec2:RunInstances", f"{EC2}:security-group/sg-1"),
        ("ec2:RunInstances", f"{EC2}:volume/*"),
        ("ec2:CreateTags", f"{EC2}:instance/*"),
        ("ec2:CreateTags", f"{EC2}:volume/*"),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/asked-worker"),
    ]
    runs = [each for each in asked if each.action == "ec2:RunInstances"]
    assert {each.context["ec2:launchtemplate"] for each in runs} == {(template,)}
    assert of_kind(asked, "role", "iam:PassRole").context["iam:passedtoservice"] == ("ec2.amazonaws.com",)


def test_what_conditions_may_know_of_the_instance_is_what_template_and_call_say(template: str) -> None:
    asked = launch(LaunchTemplate_LaunchTemplateName="asked", InstanceType="c7a.large", **NAMED)
    context = of_kind(asked, "instance").context
    assert context["aws:requesttag/name"] == ("worker",)
    assert set(context["aws:tagkeys"]) == {"Fleet", "Name"}
    assert context["ec2:instancetype"] == ("c7a.large",)
    assert context["ec2:metadatahttptokens"] == ("required",)
    assert context["ec2:instanceprofile"] == (f"arn:aws:iam::{ACCOUNT}:instance-profile/asked-workers",)
    assert context["ec2:instancemarkettype"] == ("on-demand",)
    volume = of_kind(asked, "volume").context
    assert (volume["ec2:encrypted"], volume["ec2:volumetype"]) == (("true",), ("gp3",))
    tagged = of_kind(asked, "volume", "ec2:CreateTags").context
    assert (tagged["ec2:createaction"], tagged["aws:requesttag/fleet"]) == (("RunInstances",), ("a",))


@pytest.mark.parametrize(
    ("parameters", "kind", "of_template"),
    [
        ({}, "image", "true"),
        ({"ImageId": "ami-2"}, "image", "false"),
        ({}, "security-group", "true"),
        ({"SecurityGroupId_1": "sg-2"}, "security-group", "false"),
        ({"SubnetId": "subnet-1"}, "subnet", "false"),
        ({}, "subnet", "false"),
        ({}, "instance", "true"),
        ({}, "launch-template", "true"),
    ],
)
def test_a_thing_is_the_templates_unless_the_call_names_another(
    template: str, parameters: dict[str, str], kind: str, of_template: str
) -> None:
    asked = launch(LaunchTemplate_LaunchTemplateId=template.rpartition("/")[2], **parameters)
    assert of_kind(asked, kind).context["ec2:islaunchtemplateresource"] == (of_template,)


def test_a_launch_without_a_template_names_none_and_asks_for_the_defaults(template: str) -> None:
    backend = ec2_backends[ACCOUNT][REGION]
    asked = launch(ImageId="ami-1", KeyName="mine")
    assert all("ec2:launchtemplate" not in each.context for each in asked)
    assert of_kind(asked, "image").context["ec2:islaunchtemplateresource"] == ("false",)
    assert of_kind(asked, "subnet").resource == f"{EC2}:subnet/{backend.get_default_subnets()[REGION + 'a'].id}"
    assert of_kind(asked, "security-group").resource.endswith(backend.get_default_security_group().id)
    assert of_kind(asked, "instance").context["ec2:metadatahttptokens"] == ("optional",)
    assert of_kind(asked, "key-pair").resource == f"{EC2}:key-pair/mine"


def test_a_template_that_is_not_there_is_left_for_ec2_to_refuse(template: str) -> None:
    asked = launch(LaunchTemplate_LaunchTemplateName="nowhere")
    assert all("ec2:launchtemplate" not in each.context for each in asked)


def test_a_spot_launch_asks_for_its_request_and_for_the_role_of_spot_instances(template: str) -> None:
    spot = launch(LaunchTemplate_LaunchTemplateName="asked", InstanceMarketOptions_MarketType="spot")
    request = of_kind(spot, "spot-instances-request")
    assert request.resource == f"{EC2}:spot-instances-request/*"
    assert "ec2:launchtemplate" not in request.context, "AWS lists no such key for it"
    role = of_kind(spot, "role/aws-service-role", "iam:CreateServiceLinkedRole")
    assert role.resource.endswith(":role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot")
    assert role.context == {"iam:awsservicename": ("spot.amazonaws.com",)}


def context_of(operation: str, **parameters: str) -> list[tuple[str, dict[str, Any]]]:
    return [(each.resource, dict(each.context)) for each in questions_of(query_call("ec2", operation, **parameters))]


def test_calls_on_instances_ask_of_each_with_its_tags() -> None:
    backend = ec2_backends[ACCOUNT][REGION]
    backend.create_tags(["i-1"], {"Name": "worker"})
    known = {"ec2:region": (REGION,), "aws:resourcetag/name": ("worker",), "ec2:resourcetag/name": ("worker",)}
    assert context_of("TerminateInstances", InstanceId_1="i-1", InstanceId_2="i-2") == [
        (f"{EC2}:instance/i-1", known),
        (f"{EC2}:instance/i-2", {"ec2:region": (REGION,)}),
    ]
    assert context_of("GetConsoleOutput", InstanceId="i-1") == [(f"{EC2}:instance/i-1", known)]


def test_tags_are_asked_of_each_resource_with_their_keys() -> None:
    ec2_backends[ACCOUNT][REGION].create_tags(["i-3"], {"Name": "worker"})
    set_two = {"Tag_1_Key": "a", "Tag_1_Value": "1", "Tag_2_Key": "b"}
    [(instance, of_instance), (image, _)] = context_of(
        "CreateTags", ResourceId_1="i-3", ResourceId_2="ami-1", **set_two
    )
    assert (instance, image) == (f"{EC2}:instance/i-3", f"arn:aws:ec2:{REGION}::image/ami-1")
    assert of_instance["aws:tagkeys"] == ("a", "b")
    assert of_instance["aws:requesttag/a"] == ("1",)
    assert of_instance["aws:resourcetag/name"] == ("worker",)
    # Every tag: no keys, so that a condition on them sees none.
    assert context_of("DeleteTags", ResourceId_1="i-3")[0][1]["aws:tagkeys"] == ()


def test_other_calls_ask_of_everything() -> None:
    assert context_of("DescribeInstances") == [("*", {"ec2:region": (REGION,)})]
