"""What `@cloud-copilot/iam-simulate` judges of single statements, and what it does not know."""

import json
import re
from typing import Any

import pytest

from tests.support.iam.judge import JudgeError, PermissionCheck, judge
from tests.support.stack_template import SERVER_ROLES, listed, statements, value_of

pytestmark = pytest.mark.processes


FORMS = {
    "Queue": "arn:aws:sqs:eu-central-1:123456789012:name",
    "Bucket": "arn:aws:s3:::name",
    "JobTable": "arn:aws:dynamodb:eu-central-1:123456789012:table/name",
    "UserPool": "arn:aws:cognito-idp:eu-central-1:123456789012:userpool/id",
    "Role": "arn:aws:iam::123456789012:role/name",
    "Profile": "arn:aws:iam::123456789012:instance-profile/name",
    "Logs": "arn:aws:logs:eu-central-1:123456789012:log-group:name:*",
}
"""ARNs that only AWS knows, by the end of the resource's name in the template."""


def as_on_aws(role: str) -> dict[str, Any]:
    """Return the statements of a role with an ARN of the right form for each that only AWS knows."""

    def form(found: re.Match[str]) -> str:
        return next((arn for end, arn in FORMS.items() if found[1].endswith(f"{end}.Arn")), "name")

    return dict(json.loads(re.sub(r"<([\w.]+)>", form, json.dumps(value_of(statements(role))))))


def request_for(action: str, resource: str, condition: dict[str, dict[str, Any]]) -> PermissionCheck:
    """Return a request that a statement with this condition allows, if AWS gives it the keys of the condition."""
    keys = {
        key: value if operator.startswith("ForAllValues:") else listed(value)[0].replace("*", "1")
        for operator, values in condition.items()
        if operator != "Null"
        for key, value in values.items()
    }
    arn = resource if resource == "*" else resource.replace(":name:*", ":name:log-stream:name").replace("*", "1")
    return PermissionCheck(action, arn, keys)


@pytest.mark.parametrize("role", SERVER_ROLES)
def test_each_statement_allows_a_request_that_aws_can_make(role: str) -> None:
    """A condition on a key that a request never has, or a resource of another type, allows nothing without a word."""
    own = as_on_aws(role)
    requests = [
        (sid, request_for(action, resource, each.get("Condition", {})))
        for sid, each in own.items()
        for action in listed(each["Action"])
        for resource in listed(each["Resource"])
    ]
    policies = {sid: {"Version": "2012-10-17", "Statement": [each]} for sid, each in own.items()}
    verdicts = judge(SESSION, policies, [request for _, request in requests])
    assert [each for each, found in zip(requests, verdicts, strict=True) if each[0] not in found.statements] == []


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
