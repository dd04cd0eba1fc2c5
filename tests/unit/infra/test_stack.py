"""The stack as a whole: well-formed, tagged, and watched over."""

import re

import pytest

from scripts.aws.deploy.settings import StackSettings, load_template, parameter_values
from scripts.aws.teardown.drain import MAX_GROUP_SIZE
from tests.conftest import ROOT
from tests.support.stack_template import (
    GIVEN,
    RESOURCES,
    TEMPLATE,
    as_json,
    of_type,
    references,
    statements,
    user_data,
    value_of,
)

WEB_INSTANCES = load_template().parameters["WebInstances"]


def test_every_alarm_and_the_budget_reach_the_same_topic() -> None:
    alarms = of_type("CloudWatch::Alarm")
    assert set(alarms) == {
        "ImagesWaitTooLong",
        "NobodyCollectsAnswers",
        "NobodyControls",
        "FleetAtMaximum",
        "DeadLetters",
        "PageFails",
        "WebFails",
    }
    assert all(alarm["AlarmActions"] == [{"Ref": "Alerts"}] for alarm in alarms.values())
    notes = RESOURCES["MonthlyCost"]["Properties"]["NotificationsWithSubscribers"]
    assert [note["Subscribers"] for note in notes] == [
        [{"SubscriptionType": "SNS", "Address": {"Ref": "Alerts"}}],
        [{"SubscriptionType": "SNS", "Address": {"Ref": "Alerts"}}],
    ]


def test_only_alarms_and_budgets_of_this_account_write_to_the_topic() -> None:
    allow, refuse = of_type("SNS::TopicPolicy")["AlertsPolicy"]["PolicyDocument"]["Statement"]
    assert [each["Resource"] for each in (allow, refuse)] == [{"Ref": "Alerts"}] * 2
    assert [each["Action"] for each in (allow, refuse)] == ["sns:Publish"] * 2
    assert (allow["Effect"], refuse["Principal"]) == ("Allow", "*")
    assert set(allow["Principal"]["Service"]) == {"budgets.amazonaws.com", "cloudwatch.amazonaws.com"}
    assert value_of(allow["Condition"]) == {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    assert (refuse["Effect"], refuse["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


@pytest.mark.parametrize("name", of_type("Logs::LogGroup"))
def test_logs_do_not_stay_for_ever(name: str) -> None:
    assert value_of(RESOURCES[name]["Properties"]["RetentionInDays"]) == 30


def test_the_dashboard_is_json_of_widgets_that_do_not_overlap() -> None:
    widgets = as_json(RESOURCES["Dashboard"]["Properties"]["DashboardBody"])["widgets"]
    places = {(each["x"], each["y"]) for each in widgets}
    assert len(places) == len(widgets)
    assert {each["x"] for each in widgets} <= {0, 12}


# CloudFormation gives these no tags of their own.
UNTAGGED = {
    "AWS::AutoScaling::AutoScalingGroup",  # has them, each with PropagateAtLaunch; below
    "AWS::CloudFront::Function",
    "AWS::CloudFront::OriginAccessControl",
    "AWS::CloudFront::ResponseHeadersPolicy",
    "AWS::Cognito::UserPoolClient",
    "AWS::Cognito::UserPoolGroup",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::IAM::InstanceProfile",
    "AWS::IAM::Policy",
    "AWS::Logs::MetricFilter",
    "AWS::Route53::RecordSet",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
}


@pytest.mark.parametrize("name", [name for name, each in RESOURCES.items() if each["Type"] not in UNTAGGED])
def test_everything_that_can_have_a_tag_says_whose_it_is(name: str) -> None:
    properties = RESOURCES[name]["Properties"]
    if "TagSpecifications" in properties:
        tags = properties["TagSpecifications"][0]["Tags"]
    else:
        tags = next(properties[key] for key in ("Tags", "UserPoolTags", "ResourceTags") if key in properties)
    mine = tags["fleetsight"] if isinstance(tags, dict) else {tag["Key"]: tag["Value"] for tag in tags}["fleetsight"]
    assert mine == {"Ref": "Prefix"}


def test_a_web_instance_is_replaced_by_one_more_than_there_are_and_all_signal() -> None:
    group, count = RESOURCES["WebGroup"], {"Ref": "WebInstances"}
    assert (group["Properties"]["MinSize"], group["Properties"]["DesiredCapacity"]) == (count, count)
    assert group["CreationPolicy"]["ResourceSignal"]["Count"] == count
    assert group["UpdatePolicy"]["AutoScalingRollingUpdate"]["MinInstancesInService"] == count
    # "must be less than the MaxSize": TemplateReference/aws-attribute-updatepolicy.html of AWS.
    assert int(group["Properties"]["MaxSize"]) == MAX_GROUP_SIZE == max(map(int, WEB_INSTANCES.allowed)) + 1
    assert WEB_INSTANCES.default == "1"
    (tag,) = group["Properties"]["Tags"]
    assert (tag["Key"], tag["PropagateAtLaunch"]) == ("fleetsight", True)


def test_several_web_instances_need_a_load_balancer() -> None:
    values = parameter_values(load_template(), StackSettings({"WebInstances": "2"}), None)
    (said,) = load_template().broken_rules(values)
    assert said.startswith("WebInstances above 1 needs CertificateArn")
    assert load_template().broken_rules({**values, "CertificateArn": "arn:aws:acm:eu-west-1:1:certificate/a"}) == []


def seconds(duration: str) -> int:
    """Return a duration of whole minutes, such as PT15M, in seconds."""
    return int(duration.removeprefix("PT").removesuffix("M")) * 60


def test_the_stack_waits_for_the_signal_of_a_new_web_instance_for_longer_than_that_may_take() -> None:
    group = RESOURCES["WebGroup"]
    rolling = group["UpdatePolicy"]["AutoScalingRollingUpdate"]
    created = group["CreationPolicy"]["ResourceSignal"]
    assert (rolling["WaitOnResourceSignals"], rolling["MinSuccessfulInstancesPercent"]) == (True, 100)
    timer = (ROOT / "ami/files/web/etc/systemd/system/fleetsight-unstarted@ready.timer").read_text()
    until_failure = int(timer.split("OnBootSec=")[1].split()[0])
    for wait in (rolling["PauseTime"], created["Timeout"]):
        assert until_failure + 120 <= seconds(wait) <= 3_600, "a launch may take two minutes; AWS allows an hour"
    # Nothing replaces the new instance before it has signalled, and what a rolling update needs goes on.
    suspended = set(rolling["SuspendProcesses"])
    assert {"HealthCheck", "ReplaceUnhealthy", "AZRebalance"} <= suspended
    assert not suspended & {"Launch", "Terminate", "AddToLoadBalancer"}


def test_a_web_instance_may_signal_before_its_group_waits_and_to_its_own_stack_alone() -> None:
    statement = statements("WebRole")["SignalTheStack"]
    assert statement["Action"] == "cloudformation:SignalResource"
    assert value_of(statement["Resource"]) == GIVEN["AWS::StackId"]
    assert f"export FLEETSIGHT_STACK='{GIVEN['AWS::StackId']}'\n" in user_data("WebTemplate")
    # The role has this statement from its creation on; what the start needs besides is made before the group, too.
    own = [each["Sid"] for each in RESOURCES["WebRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]]
    assert "SignalTheStack" in own
    before = {*RESOURCES["WebGroup"]["DependsOn"], *references(RESOURCES["WebTemplate"])}
    assert {
        "WebInstanceRunsController",
        "SessionManagerPolicy",
        "BundlePolicy",
        "TlsPolicy",
        "SignInPolicy",
    } <= before


def test_no_parameter_or_output_is_a_secret() -> None:
    assert not any(each.get("NoEcho") for each in TEMPLATE["Parameters"].values())
    assert not [name for name in TEMPLATE["Outputs"] if re.search(r"secret|password|key$", name, re.IGNORECASE)]
