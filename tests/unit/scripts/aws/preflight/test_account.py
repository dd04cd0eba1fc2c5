"""What an account lacks, against answers as AWS documents them."""

import json
from typing import Any

import pytest

from scripts.aws.deploy.settings import load_template
from scripts.aws.preflight.account import check_disk_key, check_mail, check_public_access, check_region, check_rights
from tests.support.preflight import StubbedAccount, stubbed_account

SENDER = "arn:aws:ses:us-east-1:123456789012:identity/a@example.org"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def key_answer(at: StubbedAccount, manager: str) -> None:
    at.stubs["ec2"].add_response("get_ebs_default_kms_key_id", {"KmsKeyId": KEY})
    told = {"KeyMetadata": {"KeyId": KEY.rpartition("/")[2], "KeyManager": manager}}
    at.stubs["kms"].add_response("describe_key", told, {"KeyId": KEY})


def test_aws_own_key_is_fine_by_its_alias() -> None:
    with stubbed_account("ec2") as at:
        at.stubs["ec2"].add_response("get_ebs_default_kms_key_id", {"KmsKeyId": "alias/aws/ebs"})
        assert [level for level, _, _ in at.found(check_disk_key)] == ["ok"]


@pytest.mark.parametrize(("manager", "level"), [("AWS", "ok"), ("CUSTOMER", "warning")])
def test_a_customers_key_is_one_that_instances_may_not_use(manager: str, level: str) -> None:
    with stubbed_account("ec2", "kms") as at:
        key_answer(at, manager)
        ((told, words, remedy),) = at.found(check_disk_key)
    assert told == level
    assert (KEY in words, "reset-ebs-default-kms-key-id --region us-east-1" in remedy) == (level == "warning",) * 2


def test_a_region_has_every_type_of_the_template_or_is_none_for_it() -> None:
    kinds = {each["Type"] for each in load_template().resources.values()}
    with stubbed_account("cloudformation") as at:
        stub = at.stubs["cloudformation"]
        stub.add_response("validate_template", {})
        asked: list[Any] = []
        stub.client.meta.events.register("provide-client-params.*.*", lambda params, **_: asked.append(params))
        assert [level for level, _, _ in at.found(check_region)] == ["ok"]
        assert {each["Type"] for each in json.loads(asked[0]["TemplateBody"])["Resources"].values()} == kinds
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
def test_an_account_may_block_internet_gateways_in_the_whole_region(mode: str, level: str, words: str) -> None:
    with stubbed_account("ec2") as at:
        options = {"AwsRegion": "us-east-1", "State": "update-complete", "InternetGatewayBlockMode": mode}
        answer = {"VpcBlockPublicAccessOptions": options}
        at.stubs["ec2"].add_response("describe_vpc_block_public_access_options", answer)
        ((told, found, _),) = at.found(check_public_access)
    assert (told, words in found) == (level, True)


@pytest.mark.parametrize(("in_production", "level"), [(True, "ok"), (False, "warning")])
def test_mail_from_the_sandbox_reaches_verified_addresses_only(in_production: bool, level: str) -> None:
    with stubbed_account("sesv2", parameters={"SenderArn": SENDER}) as at:
        at.stubs["sesv2"].add_response("get_account", {"ProductionAccessEnabled": in_production})
        ((told, words, _),) = at.found(check_mail)
    assert told == level
    assert ("verified addresses only" in words) == (not in_production)


def test_ses_is_not_asked_without_a_sender_or_without_sign_in_or_about_another_region() -> None:
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
        ((level, told, _),) = at.found(check_rights)
    assert level == "warning"
    assert words in told


def test_what_may_not_be_called_is_a_stop_if_certain_and_a_warning_if_not(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = {"iam:CreateRole": True, "sqs:DeleteQueue": False}
    with stubbed_account("iam") as at:
        monkeypatch.setattr("scripts.aws.preflight.account.denials", lambda *_: denied)
        stop, warning = at.found(check_rights)
        assert stop[:2] == ("stop", f"{at.caller} may not call iam:CreateRole")
        assert warning[:2] == ("warning", f"{at.caller} perhaps may not call sqs:DeleteQueue")
        monkeypatch.setattr("scripts.aws.preflight.account.denials", lambda *_: {})
        assert [level for level, _, _ in at.found(check_rights)] == ["ok"]


def test_a_simulation_that_is_denied_is_a_warning() -> None:
    with stubbed_account("iam") as at:
        at.stubs["iam"].add_client_error("simulate_principal_policy", "AccessDenied", "not authorized")
        ((level, words, _),) = at.found(check_rights)
    assert level == "warning"
    assert "SimulatePrincipalPolicy" in words
