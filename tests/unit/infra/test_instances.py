"""The instances of the stack, who can reach them, and what they are told."""

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest

from core.config import parse_config
from services.ec2 import Fleet, LaunchSpec
from tests.conftest import shipped_values
from tests.support.stack_template import (
    GIVEN,
    RESOURCES,
    TEMPLATE,
    as_json,
    of_this_stack,
    of_type,
    references,
    settings,
    user_data,
    value_of,
)
from tests.support.stubs import stubbed

TEMPLATES = ("WebTemplate", "WorkerTemplate")


def ingress() -> Iterator[tuple[str, Any]]:
    """Yield what each security group lets in."""
    for name, group in of_type("EC2::SecurityGroup").items():
        yield from ((name, rule) for rule in group.get("SecurityGroupIngress", []))
    for rule in of_type("EC2::SecurityGroupIngress").values():
        yield rule["GroupId"]["Fn::GetAtt"][0], rule


def test_nothing_can_reach_a_worker() -> None:
    assert "WorkerSecurityGroup" not in {group for group, _ in ingress()}
    assert value_of(RESOURCES["WorkerTemplate"]["Properties"]["LaunchTemplateData"]["SecurityGroupIds"]) == [
        "<WorkerSecurityGroup.GroupId>"
    ]


def test_nothing_listens_but_the_page_so_there_is_no_ssh() -> None:
    assert {group for group, _ in ingress()} == {"LoadBalancerSecurityGroup", "WebSecurityGroup"}
    ports = {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for _, rule in ingress()}
    assert ports == {("tcp", 80, 80), ("tcp", 443, 443)}
    assert not any("KeyName" in RESOURCES[name]["Properties"]["LaunchTemplateData"] for name in TEMPLATES)


def test_the_page_is_open_to_nobody_until_somebody_says_to_whom() -> None:
    opened = [rule["CidrIp"] for _, rule in ingress() if "CidrIp" in rule]
    assert opened
    assert {value_of(each) for each in opened} == {"127.0.0.1/32"}


def test_behind_a_load_balancer_the_web_instance_is_reached_by_that_alone() -> None:
    rules = {name: each for name, each in RESOURCES.items() if each["Type"] == "AWS::EC2::SecurityGroupIngress"}
    by_people = [each for each in rules.values() if "CidrIp" in each["Properties"]]
    assert {each["Condition"] for each in by_people} == {"HasNoLoadBalancer"}
    assert rules["WebFromLoadBalancer"]["Condition"] == "HasLoadBalancer"
    source = rules["WebFromLoadBalancer"]["Properties"]["SourceSecurityGroupId"]
    assert value_of(source) == "<LoadBalancerSecurityGroup.GroupId>"
    (to_nginx,) = RESOURCES["LoadBalancerSecurityGroup"]["Properties"]["SecurityGroupEgress"]
    assert value_of(to_nginx["DestinationSecurityGroupId"]) == "<WebSecurityGroup>"
    web = RESOURCES["WebTemplate"]["Properties"]["LaunchTemplateData"]
    assert value_of(web["SecurityGroupIds"]) == ["<WebSecurityGroup.GroupId>"]


@pytest.mark.parametrize("name", of_type("EC2::SecurityGroup"))
def test_what_goes_out_goes_out_encrypted(name: str) -> None:
    (rule,) = RESOURCES[name]["Properties"]["SecurityGroupEgress"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 443, 443)


def test_the_load_balancer_speaks_tls_12_or_newer_up_to_nginx_and_sends_everybody_there() -> None:
    https, http = (RESOURCES[name]["Properties"] for name in ("HttpsListener", "HttpListener"))
    assert (https["Port"], https["Protocol"]) == (443, "HTTPS")
    assert https["SslPolicy"].startswith("ELBSecurityPolicy-TLS13-1-2-")
    (sent_on,) = http["DefaultActions"]
    assert (sent_on["Type"], sent_on["RedirectConfig"]["Protocol"]) == ("redirect", "HTTPS")
    assert RESOURCES["WebTargets"]["Properties"]["Protocol"] == "HTTPS"


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_instance_gives_credentials_to_itself_alone_and_its_disk_is_encrypted(name: str) -> None:
    data = RESOURCES[name]["Properties"]["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    (disk,) = data["BlockDeviceMappings"]
    assert (disk["Ebs"]["VolumeType"], disk["Ebs"]["Encrypted"]) == ("gp3", True)
    assert disk["Ebs"]["DeleteOnTermination"] is True


@pytest.mark.parametrize(("name", "tier"), [("WebTemplate", "web"), ("WorkerTemplate", "worker")])
def test_an_instance_runs_the_image_that_was_baked_for_it(name: str, tier: str) -> None:
    image = RESOURCES[name]["Properties"]["LaunchTemplateData"]["ImageId"]
    assert value_of(image) == f"/fleetsight/image/{tier}"
    assert TEMPLATE["Parameters"][image["Ref"]]["Type"] == "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"


def test_a_worker_sees_its_tags_by_which_it_is_asked_to_drain() -> None:
    data = RESOURCES["WorkerTemplate"]["Properties"]["LaunchTemplateData"]
    assert data["MetadataOptions"]["InstanceMetadataTags"] == "enabled"


def test_a_workers_machine_goes_when_it_powers_itself_off() -> None:
    data = RESOURCES["WorkerTemplate"]["Properties"]["LaunchTemplateData"]
    assert value_of(data["InstanceInitiatedShutdownBehavior"]) == shipped_values()["fleet"]["scale_in"]


@pytest.mark.parametrize(("name", "tag"), [("WebTemplate", "web_instance"), ("WorkerTemplate", "worker_instance")])
def test_instances_and_their_disks_are_named_as_the_configuration_says(name: str, tag: str) -> None:
    data = RESOURCES[name]["Properties"]["LaunchTemplateData"]
    named = {
        each["ResourceType"]: {tag["Key"]: value_of(tag["Value"]) for tag in each["Tags"]}
        for each in data["TagSpecifications"]
    }
    assert {each["Name"] for each in named.values()} == {getattr(of_this_stack().names, tag)}
    assert {each["fleetsight"] for each in named.values()} == {"fleetsight"}
    assert set(named) == {"instance", "volume"}


def test_a_launch_passes_all_tags_of_the_workers_template_which_those_of_a_launch_replace() -> None:
    with stubbed("ec2") as stub:
        data = RESOURCES["WorkerTemplate"]["Properties"]["LaunchTemplateData"]
        wanted = {
            "TagSpecifications": value_of(data["TagSpecifications"]),
            "LaunchTemplate": {"LaunchTemplateName": "fleetsight-worker", "Version": "$Default"},
            "InstanceType": "c7a.large",
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": "token",
        }
        stub.add_response("run_instances", {"Instances": []}, wanted)
        spec = LaunchSpec("c7a.large", "terminate", launch_template="fleetsight-worker")
        Fleet(cast(Any, stub.client), of_this_stack().names.worker_instance).launch(spec, 1, "token")


def test_what_the_instances_are_told_makes_a_valid_configuration_of_this_stacks_names() -> None:
    config = of_this_stack()
    assert config.aws.region == "eu-central-1"
    assert config.names.model_dump() == {
        "input_bucket": "fleetsight-input-123456789012-eu-central-1",
        "output_bucket": "fleetsight-output-123456789012-eu-central-1",
        "request_queue": "fleetsight-requests",
        "response_queue": "fleetsight-responses",
        "dead_letter_queue": "fleetsight-dead-letters",
        "job_table": "fleetsight-jobs",
        "web_instance": "fleetsight-web",
        "worker_instance": "fleetsight-worker",
    }
    assert config.fleet.launch_template == value_of(RESOURCES["WorkerTemplate"]["Properties"]["LaunchTemplateName"])
    assert config.fleet.subnet_ids == ("subnet-1", "subnet-2")


def test_workers_are_told_the_same_as_the_web_instance() -> None:
    worker, web = (settings(user_data(name)) for name in ("WorkerTemplate", "WebTemplate"))
    assert worker.items() <= web.items()
    assert {
        "FLEETSIGHT__AWS__REGION",
        "FLEETSIGHT__NAMES__INPUT_BUCKET",
        "FLEETSIGHT__WORKER__BUNDLE",
    } <= worker.keys()


def test_the_commands_find_the_same_configuration_in_the_parameter_store() -> None:
    merged = shipped_values()
    for section, values in as_json(RESOURCES["ConfigParameter"]["Properties"]["Value"]).items():
        merged[section] |= values
    assert parse_config(merged) == of_this_stack()


def test_the_web_instance_is_told_which_role_its_controller_assumes() -> None:
    assert "export FLEETSIGHT_CONTROLLER_ROLE='<ControllerRole.Arn>'\n" in user_data("WebTemplate")
    assert "FLEETSIGHT_CONTROLLER_ROLE" not in user_data("WorkerTemplate")


def test_the_web_instance_is_told_where_its_certificate_is_which_is_nowhere_until_somebody_says_so() -> None:
    assert "export FLEETSIGHT_TLS_PARAMETER='/fleetsight/tls'\n" in user_data("WebTemplate")
    assert "FLEETSIGHT_TLS_PARAMETER" not in user_data("WorkerTemplate")
    # The template waits for the policy by which the instance may read it.
    assert "TlsPolicy" in references(RESOURCES["WebTemplate"])
    parameter = TEMPLATE["Parameters"]["TlsParameter"]
    assert parameter["Default"] == ""
    for name, valid in (("", True), ("/a/tls", True), ("tls", False), ("/a b", False), ("/a'; reboot #", False)):
        assert bool(re.fullmatch(parameter["AllowedPattern"], name)) is valid


def test_without_a_load_balancer_the_page_has_an_address_that_stays_and_the_web_instance_is_told_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "export FLEETSIGHT_ADDRESS='<PageIp.AllocationId>'\n" in user_data("WebTemplate")
    assert value_of(TEMPLATE["Outputs"]["PageAddress"]["Value"]) == "https://<PageIp>"
    assert "Condition" not in TEMPLATE["Outputs"]["PageAddress"]
    monkeypatch.setitem(GIVEN, "CertificateArn", "arn:aws:acm:eu-central-1:123456789012:certificate/1")
    assert "export FLEETSIGHT_ADDRESS=''\n" in user_data("WebTemplate")
    assert value_of(TEMPLATE["Outputs"]["PageAddress"]["Value"]) == "https://<LoadBalancer.DNSName>"


@pytest.mark.parametrize(("name", "role"), [("WebTemplate", "web"), ("WorkerTemplate", "worker")])
def test_the_last_command_of_user_data_starts_what_the_image_has_for_its_role(name: str, role: str) -> None:
    assert user_data(name).splitlines()[-1] == f"exec /opt/fleetsight/start {role}"
