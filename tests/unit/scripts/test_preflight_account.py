"""The preflight's checks of the account, and how checks run."""

import json
import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, UnknownServiceError

from scripts.aws.deploy.settings import load_template
from scripts.aws.preflight.account import (
    NAMED_TYPES,
    check_disk_key,
    check_mail,
    check_names,
    check_public_access,
    check_region,
    check_rights,
    stack_names,
)
from scripts.aws.preflight.findings import Finding, Level, run_checks
from tests.support.preflight import StubbedAccount, stubbed_account

SENDER = "arn:aws:ses:us-east-1:123456789012:identity/a@example.org"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def key_answer(at: StubbedAccount, manager: str) -> None:
    at.stubs["ec2"].add_response("get_ebs_default_kms_key_id", {"KmsKeyId": KEY})
    reported = {"KeyMetadata": {"KeyId": KEY.rpartition("/")[2], "KeyManager": manager}}
    at.stubs["kms"].add_response("describe_key", reported, {"KeyId": KEY})


def test_the_default_disk_key_of_aws_is_accepted_by_its_alias() -> None:
    with stubbed_account("ec2") as at:
        at.stubs["ec2"].add_response("get_ebs_default_kms_key_id", {"KmsKeyId": "alias/aws/ebs"})
        assert [level for level, _, _ in at.found(check_disk_key)] == ["ok"]


@pytest.mark.parametrize(("manager", "level"), [("AWS", "ok"), ("CUSTOMER", "warning")])
def test_a_customer_managed_disk_key_is_a_warning(manager: str, level: str) -> None:
    with stubbed_account("ec2", "kms") as at:
        key_answer(at, manager)
        ((reported, words, remedy),) = at.found(check_disk_key)
    assert reported == level
    assert (KEY in words, "reset-ebs-default-kms-key-id --region us-east-1" in remedy) == (level == "warning",) * 2


def test_a_region_without_a_resource_type_is_a_stop() -> None:
    kinds = {each["Type"] for each in load_template().resources.values()}
    with stubbed_account("cloudformation") as at:
        stub = at.stubs["cloudformation"]
        stub.add_response("validate_template", {})
        request: list[Any] = []
        stub.client.meta.events.register("provide-client-params.*.*", lambda params, **_: request.append(params))
        assert [level for level, _, _ in at.found(check_region)] == ["ok"]
        assert {each["Type"] for each in json.loads(request[0]["TemplateBody"])["Resources"].values()} == kinds
        # As it was met in eu-central-2: https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/2177
        message = "Template format error: Unrecognized resource types: [AWS::Budgets::Budget]"
        stub.add_client_error("validate_template", "ValidationError", message)
        ((level, words, _),) = at.found(check_region)
        assert (level, words) == ("stop", "CloudFormation in us-east-1 does not have [AWS::Budgets::Budget]")
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


@pytest.mark.parametrize(("in_production", "level"), [(True, "ok"), (False, "warning")])
def test_the_ses_sandbox_is_a_warning(in_production: bool, level: str) -> None:
    with stubbed_account("sesv2", parameters={"SenderArn": SENDER}) as at:
        at.stubs["sesv2"].add_response("get_account", {"ProductionAccessEnabled": in_production})
        ((reported, words, _),) = at.found(check_mail)
    assert reported == level
    assert ("verified addresses only" in words) == (not in_production)


def test_ses_is_called_only_with_a_sender_and_sign_in_in_its_region() -> None:
    with stubbed_account("sesv2") as at:
        assert not at.found(check_mail)
        at.parameters = {"SenderArn": SENDER, "CreateUserPool": "false"}
        assert not at.found(check_mail)
        at.parameters = {"SenderArn": SENDER.replace("us-east-1", "eu-west-1")}
        assert [level for level, _, _ in at.found(check_mail)] == ["warning"]


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


def test_a_denied_simulation_is_a_warning() -> None:
    with stubbed_account("iam") as at:
        at.stubs["iam"].add_client_error("simulate_principal_policy", "AccessDenied", "not authorized")
        ((level, words, _),) = at.found(check_rights)
    assert level == "warning"
    assert "SimulatePrincipalPolicy" in words


OK = Finding(Level.OK, "fine")
DENIED = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetServiceQuota")
GONE = EndpointConnectionError(endpoint_url="https://budgets.example")
UNKNOWN = UnknownServiceError(service_name="budgets", known_service_names="ec2")


@pytest.mark.parametrize(
    ("error", "words"), [(DENIED, "GetServiceQuota"), (GONE, "https://budgets.example"), (UNKNOWN, "budgets")]
)
def test_a_failed_check_is_a_warning_and_others_continue(error: Exception, words: str) -> None:
    def fails(_: object) -> list[Finding]:
        raise error

    (first, reported), second = run_checks(StubbedAccount({}).plan(), {"quota": fails, "types": lambda _: [OK]})
    assert (first, reported.level) == ("quota", Level.WARNING)
    assert reported.found.startswith("cannot tell: ")
    assert words in reported.found
    assert second == ("types", OK)


def test_a_slow_check_is_a_warning_and_delays_no_other() -> None:
    never = threading.Event()

    def hangs(_: object) -> list[Finding]:
        never.wait()
        return [OK]

    (_, reported), *others = run_checks(StubbedAccount({}).plan(), {"rights": hangs}, seconds=0.0)
    assert (reported.level, reported.found, others) == (
        Level.WARNING,
        "cannot tell: AWS did not answer within 0 s",
        [],
    )
    never.set()


def test_a_bug_in_a_check_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run_checks(StubbedAccount({}).plan(), {"quota": lambda _: [OK] * (1 // 0)})


def test_a_finding_is_one_line_with_its_remedy() -> None:
    page = Finding(Level.STOP, f"<html>\n <p>{'x' * 1_000}", "Do this")
    line = page.line("mail")
    assert line.startswith("stop     mail: <html> <p>xxx")
    assert line.endswith("x…. Do this")
    assert len(line) < 700


SERVICES = ("budgets", "cloudwatch", "ec2", "logs", "sns", "sqs", "ssm")
BUDGET = {"TimeUnit": "MONTHLY", "BudgetType": "COST"}
ARN = "arn:aws:sns:us-east-1:123456789012:"


def answers(at: StubbedAccount, **found: Any) -> None:
    """Have each service answer in the order of the template; by default it has nothing of this prefix."""
    stubs = at.stubs
    if (budgets := found.get("budgets", [])) is not None:
        stubs["budgets"].add_response("describe_budgets", {"Budgets": budgets})
    stubs["cloudwatch"].add_response("list_dashboards", {"DashboardEntries": found.get("dashboards", [])})
    stubs["ec2"].add_response("describe_launch_templates", {"LaunchTemplates": found.get("templates", [])})
    stubs["logs"].add_response("describe_log_groups", {"logGroups": found.get("groups", [])})
    stubs["sns"].add_response("list_topics", {"Topics": found.get("topics", [])})
    stubs["sqs"].add_response("list_queues", {"QueueUrls": found.get("queues", [])})
    stubs["ssm"].add_response("get_parameters", {"Parameters": found.get("parameters", [])})


def test_checked_names_exclude_adopted_and_disabled_resources() -> None:
    with stubbed_account() as at:
        names = stack_names(at.plan())
        assert set(names) == set(NAMED_TYPES) - {"AWS::S3::Bucket"}
        assert names["AWS::SQS::Queue"] == {"fs-requests", "fs-responses", "fs-dead-letters"}
        assert names["AWS::Budgets::Budget"] == {"fs-us-east-1-monthly"}
        at.parameters = {"StaticSite": "true", "MonthlyBudget": "0"}
        names = stack_names(at.plan())
    assert names["AWS::S3::Bucket"] == {"fs-site-123456789012-us-east-1"}
    assert "AWS::Budgets::Budget" not in names


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({"budgets": [{**BUDGET, "BudgetName": "fs-us-east-1-monthly"}]}, "fs-us-east-1-monthly"),
        ({"dashboards": [{"DashboardName": "fs-us-east-1"}]}, "fs-us-east-1"),
        ({"templates": [{"LaunchTemplateName": "fs-worker"}]}, "fs-worker"),
        ({"groups": [{"logGroupName": "/fs/worker"}]}, "/fs/worker"),
        ({"topics": [{"TopicArn": f"{ARN}fs-alerts"}]}, "fs-alerts"),
        ({"queues": ["https://sqs.us-east-1.amazonaws.com/123456789012/fs-requests"]}, "fs-requests"),
        ({"parameters": [{"Name": "/fs/bundle"}]}, "/fs/bundle"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_an_existing_name_stops_a_new_stack(found: dict[str, Any], name: str) -> None:
    with stubbed_account(*SERVICES) as at:
        answers(at, **found)
        ((level, words, remedy),) = at.found(check_names)
    assert level == "stop"
    assert words.startswith(f"{name} (AWS::")
    assert "fleetsight down" in remedy


def test_names_with_the_same_prefix_are_different() -> None:
    with stubbed_account(*SERVICES) as at:
        answers(
            at,
            queues=["https://sqs.us-east-1.amazonaws.com/123456789012/fs-requests-old"],
            topics=[{"TopicArn": f"{ARN}other-fs-alerts"}],
            groups=[{"logGroupName": "/fs/worker/old"}],
        )
        assert [level for level, _, _ in at.found(check_names)] == ["ok"]


def test_an_unavailable_service_is_a_warning_and_others_are_checked() -> None:
    with stubbed_account(*SERVICES) as at:
        answers(at, queues=["https://sqs.us-east-1.amazonaws.com/123456789012/fs-requests"], budgets=None)
        at.stubs["budgets"].add_client_error("describe_budgets", "AccessDeniedException", "no")
        found = sorted(level for level, _, _ in at.found(check_names))
    assert found == ["stop", "warning"]


def test_an_existing_stack_owns_its_names() -> None:
    with stubbed_account(is_new=False) as at:
        assert [level for level, _, _ in at.found(check_names)] == ["ok"]
