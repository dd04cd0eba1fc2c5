"""What `@cloud-copilot/iam-simulate` judges of single statements, and what it does not know."""

import pytest

from tests.support.iam.judge import JudgeError, PermissionCheck, judge
from tests.support.stack_template import GIVEN, statements, value_of

pytestmark = pytest.mark.processes


def test_mails_come_from_the_verified_domain_and_its_subdomains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verified domain may be used with its subdomains: https://docs.aws.amazon.com/ses/latest/dg/creating-identities.html"""
    monkeypatch.setitem(GIVEN, "SenderArn", "arn:aws:ses:eu-central-1:123456789012:identity/example.org")
    mail = {"mail": {"Version": "2012-10-17", "Statement": [value_of(statements("ControllerRole")["MailUsers"])]}}
    identity = "arn:aws:ses:eu-central-1:123456789012:identity/example.org"
    senders = ("you@example.org", "you@mail.example.org", "you@notexample.org", "you@example.org.net")
    checks = [PermissionCheck("ses:SendEmail", identity, {"ses:FromAddress": each}) for each in senders]
    assert [bool(each.statements) for each in judge(SESSION, mail, checks)] == [True, True, False, False]


EVERYTHING = {"Sid": "All", "Effect": "Allow", "Action": "*", "Resource": "*"}
ALL = {"own": {"Version": "2012-10-17", "Statement": [EVERYTHING]}}
SESSION = "arn:aws:sts::123456789012:assumed-role/name/session"


@pytest.mark.parametrize(
    "check",
    [
        PermissionCheck("s3:ReadObject", "arn:aws:s3:::name/key"),
        PermissionCheck("sqs:SendMessage", "arn:aws:s3:::name/key"),
        PermissionCheck("s3:GetObject", "arn:aws:s3:::name/key", {"s3:Colour": "red"}),
    ],
    ids=["action", "resource", "key"],
)
def test_what_awss_data_do_not_know_is_an_error_and_no_verdict(check: PermissionCheck) -> None:
    assert judge(SESSION, ALL, [PermissionCheck("s3:GetObject", "arn:aws:s3:::name/key")])[0].needed == ("All",)
    with pytest.raises(JudgeError, match=f"Error: {check.action}"):
        judge(SESSION, ALL, [check])
