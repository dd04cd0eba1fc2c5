"""Each statement of a role allows requests that AWS can make, as `@cloud-copilot/iam-simulate` judges."""

import json
import re
from typing import Any

import pytest

from tests.support.iam.judge import JudgeError, PermissionCheck, judge
from tests.support.stack_template import GIVEN, SERVER_ROLES, listed, statements, value_of

pytestmark = pytest.mark.processes

FORMS = {
    "Queue.Arn": "arn:aws:sqs:eu-central-1:123456789012:name",
    "Bucket.Arn": "arn:aws:s3:::name",
    "JobTable.Arn": "arn:aws:dynamodb:eu-central-1:123456789012:table/name",
    "UserPool.Arn": "arn:aws:cognito-idp:eu-central-1:123456789012:userpool/id",
    "Role.Arn": "arn:aws:iam::123456789012:role/name",
    "Profile.Arn": "arn:aws:iam::123456789012:instance-profile/name",
    "Logs.Arn": "arn:aws:logs:eu-central-1:123456789012:log-group:name:*",
}
"""ARNs that only AWS knows, by the end of their names in the template."""


def as_on_aws(statement: dict[str, Any]) -> dict[str, Any]:
    """Return a statement with a value of the right form for each that only AWS knows."""

    def form(match: re.Match[str]) -> str:
        return next((arn for end, arn in FORMS.items() if match[1].endswith(end)), "name")

    found: dict[str, Any] = json.loads(re.sub(r"<([\w.]+)>", form, json.dumps(value_of(statement))))
    return found


def request_for(action: str, resource: str, condition: dict[str, dict[str, Any]]) -> PermissionCheck:
    """Return a request that a statement with this condition allows, if AWS gives it the keys of the condition."""
    context = {
        key: value if operator.startswith("ForAllValues:") else listed(value)[0].replace("*", "1")
        for operator, keys in condition.items()
        if operator != "Null"
        for key, value in keys.items()
    }
    arn = resource if resource == "*" else resource.replace(":name:*", ":name:log-stream:name").replace("*", "1")
    return PermissionCheck(action, arn, context)


@pytest.mark.parametrize("role", SERVER_ROLES)
def test_each_statement_allows_a_request_that_aws_can_make(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition on a key that a request does not have allows nothing, and AWS does not say so.

    The same holds for a resource of a type that the action does not have.
    """
    monkeypatch.setitem(GIVEN, "SenderArn", "arn:aws:ses:eu-central-1:123456789012:identity/me@example.org")
    monkeypatch.setitem(GIVEN, "RestoredJobTable", "name-restored-20261125t120000z")
    own = {sid: as_on_aws(statement) for sid, statement in statements(role).items()}
    requests = [
        (sid, request_for(action, resource, each.get("Condition", {})))
        for sid, each in own.items()
        for action in listed(each["Action"])
        for resource in listed(each["Resource"])
    ]
    policies = {sid: {"Version": "2012-10-17", "Statement": [each]} for sid, each in own.items()}
    session = f"arn:aws:sts::123456789012:assumed-role/{role}/session"
    verdicts = judge(session, policies, [request for _, request in requests])
    assert len(verdicts) > 5
    for (sid, request), verdict in zip(requests, verdicts, strict=True):
        assert sid in verdict.statements, request


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
