"""The instances of the stack, the network around them, and their configuration."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import shipped_values
from tests.support.stack_template import (
    GIVEN,
    RESOURCES,
    TEMPLATE,
    of_this_stack,
    of_type,
    references,
    settings,
    user_data,
    value_of,
)

TEMPLATES = ("WebTemplate", "WorkerTemplate")


def ingress() -> Iterator[tuple[str, Any]]:
    """Yield what each security group lets in."""
    for name, group in of_type("EC2::SecurityGroup").items():
        yield from ((name, rule) for rule in group.get("SecurityGroupIngress", []))
    for rule in of_type("EC2::SecurityGroupIngress").values():
        yield rule["GroupId"]["Fn::GetAtt"][0], rule


def test_only_the_page_can_be_reached_at_first_from_nowhere() -> None:
    assert {group for group, _ in ingress()} == {"LoadBalancerSecurityGroup", "WebSecurityGroup"}
    ports = {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for _, rule in ingress()}
    assert ports == {("tcp", 80, 80), ("tcp", 443, 443)}
    assert {value_of(rule["CidrIp"]) for _, rule in ingress() if "CidrIp" in rule} == {"127.0.0.1/32"}
    worker, web = (RESOURCES[name]["Properties"]["LaunchTemplateData"] for name in ("WorkerTemplate", "WebTemplate"))
    assert value_of(worker["SecurityGroupIds"]) == ["<WorkerSecurityGroup.GroupId>"]
    assert value_of(web["SecurityGroupIds"]) == ["<WebSecurityGroup.GroupId>"]
    assert not {"KeyName"} & {*worker, *web}, "there is no SSH"


def test_behind_a_load_balancer_the_web_instance_is_reached_by_that_alone() -> None:
    rules = {name: each for name, each in RESOURCES.items() if each["Type"] == "AWS::EC2::SecurityGroupIngress"}
    by_people = [each for each in rules.values() if "CidrIp" in each["Properties"]]
    assert {each["Condition"] for each in by_people} == {"HasNoLoadBalancer"}
    assert rules["WebFromLoadBalancer"]["Condition"] == "HasLoadBalancer"
    source = rules["WebFromLoadBalancer"]["Properties"]["SourceSecurityGroupId"]
    assert value_of(source) == "<LoadBalancerSecurityGroup.GroupId>"
    (to_nginx,) = RESOURCES["LoadBalancerSecurityGroup"]["Properties"]["SecurityGroupEgress"]
    assert value_of(to_nginx["DestinationSecurityGroupId"]) == "<WebSecurityGroup>"


@pytest.mark.parametrize("name", of_type("EC2::SecurityGroup"))
def test_outgoing_traffic_is_encrypted(name: str) -> None:
    (rule,) = RESOURCES[name]["Properties"]["SecurityGroupEgress"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 443, 443)


def test_the_load_balancer_uses_tls_12_and_redirects_people_and_no_programs() -> None:
    https, http = (RESOURCES[name]["Properties"] for name in ("HttpsListener", "HttpListener"))
    assert (https["Port"], https["Protocol"]) == (443, "HTTPS")
    assert https["SslPolicy"].startswith("ELBSecurityPolicy-TLS13-1-2-")
    (sent_on,) = http["DefaultActions"]
    assert (sent_on["Type"], sent_on["RedirectConfig"]["Protocol"]) == ("redirect", "HTTPS")
    assert RESOURCES["WebTargets"]["Properties"]["Protocol"] == "HTTPS"
    rule = RESOURCES["HttpApiRule"]["Properties"]
    assert (rule["ListenerArn"]["Ref"], rule["Conditions"][0]["PathPatternConfig"]) == (
        "HttpListener",
        {"Values": ["/api/*"]},
    )
    assert rule["Actions"][0]["FixedResponseConfig"]["StatusCode"] == "403"


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_instance_gives_credentials_to_itself_alone_and_its_disk_is_encrypted(name: str) -> None:
    data = RESOURCES[name]["Properties"]["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    (disk,) = data["BlockDeviceMappings"]
    assert (disk["Ebs"]["VolumeType"], disk["Ebs"]["Encrypted"]) == ("gp3", True)
    assert disk["Ebs"]["DeleteOnTermination"] is True


@pytest.mark.parametrize(("name", "tier"), [("WebTemplate", "web"), ("WorkerTemplate", "worker")])
def test_an_instance_runs_its_own_image_and_at_last_the_images_start_script(name: str, tier: str) -> None:
    image = RESOURCES[name]["Properties"]["LaunchTemplateData"]["ImageId"]
    assert value_of(image) == f"/fleetsight/image/{tier}"
    assert TEMPLATE["Parameters"][image["Ref"]]["Type"] == "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"
    assert user_data(name).splitlines()[-1] == f"exec /opt/fleetsight/start {tier}"


def test_a_worker_can_read_its_tags_and_powers_off_as_configured() -> None:
    data = RESOURCES["WorkerTemplate"]["Properties"]["LaunchTemplateData"]
    assert data["MetadataOptions"]["InstanceMetadataTags"] == "enabled"
    assert value_of(data["InstanceInitiatedShutdownBehavior"]) == shipped_values()["fleet"]["scale_in"]


def test_user_data_is_a_valid_configuration_with_the_stacks_names_on_both_tiers() -> None:
    config = of_this_stack()
    assert config.aws.region == "eu-central-1"
    assert {name.startswith("fleetsight") for name in config.names.model_dump().values()} == {True}
    assert config.fleet.launch_template == value_of(RESOURCES["WorkerTemplate"]["Properties"]["LaunchTemplateName"])
    assert config.fleet.subnet_ids == ("subnet-1", "subnet-2")
    worker, web = (settings(user_data(name)) for name in ("WorkerTemplate", "WebTemplate"))
    assert worker.items() <= web.items()
    required = {"AWS__REGION", "NAMES__INPUT_BUCKET", "WORKER__BUNDLE"}
    assert {f"FLEETSIGHT__{name}" for name in required} <= worker.keys()


def test_only_the_web_instance_has_the_controllers_role_and_the_tls_parameter() -> None:
    for line in ("CONTROLLER_ROLE='<ControllerRole.Arn>'", "TLS_PARAMETER='/fleetsight/tls'"):
        assert f"export FLEETSIGHT_{line}\n" in user_data("WebTemplate")
        assert line.partition("=")[0] not in user_data("WorkerTemplate")
    # The template waits for the policy by which the instance may read it.
    assert "TlsPolicy" in references(RESOURCES["WebTemplate"])
    parameter = TEMPLATE["Parameters"]["TlsParameter"]
    assert parameter["Default"] == ""
    for name, valid in (("", True), ("/a/tls", True), ("tls", False), ("/a b", False), ("/a'; reboot #", False)):
        assert bool(re.fullmatch(parameter["AllowedPattern"], name)) is valid


def test_without_a_load_balancer_the_web_instance_has_an_address_that_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "export FLEETSIGHT_ADDRESS='<PageIp.AllocationId>'\n" in user_data("WebTemplate")
    assert value_of(TEMPLATE["Outputs"]["PageAddress"]["Value"]) == "https://<PageIp>"
    assert "Condition" not in TEMPLATE["Outputs"]["PageAddress"]
    monkeypatch.setitem(GIVEN, "CertificateArn", "arn:aws:acm:eu-central-1:123456789012:certificate/1")
    assert "export FLEETSIGHT_ADDRESS=''\n" in user_data("WebTemplate")
    assert value_of(TEMPLATE["Outputs"]["PageAddress"]["Value"]) == "https://<LoadBalancer.DNSName>"
