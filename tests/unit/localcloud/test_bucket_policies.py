"""A denial of what comes without TLS denies nothing on loopback, and every other denial holds."""

import json
from types import SimpleNamespace

import pytest
from moto.iam.access_control import PermissionResult

from localcloud.bucket_policies import PATCHES, without_tls

OVER_TLS = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": "*",
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}
OVER_NEW_TLS = {**OVER_TLS, "Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}}}
NEVER = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": "*"}


@pytest.mark.parametrize("statements", [OVER_TLS, [OVER_TLS, OVER_NEW_TLS]], ids=["one", "two"])
def test_statements_about_tls_are_left_out(statements: object) -> None:
    assert without_tls({"Version": "2012-10-17", "Statement": statements}) == {
        "Version": "2012-10-17",
        "Statement": [],
    }


def test_a_statement_with_a_further_condition_stays() -> None:
    mixed = {**OVER_TLS, "Condition": {"Bool": {"aws:SecureTransport": "false", "aws:ViaAWSService": "false"}}}
    assert without_tls({"Statement": [mixed, NEVER]})["Statement"] == [mixed, NEVER]


@pytest.mark.parametrize(
    ("policy", "action", "permission"),
    [
        (None, "s3:GetObject", PermissionResult.NEUTRAL),
        ([OVER_TLS, NEVER], "s3:GetObject", PermissionResult.NEUTRAL),
        ([OVER_TLS, NEVER], "s3:DeleteObject", PermissionResult.DENIED),
    ],
    ids=["no policy", "over tls", "never"],
)
def test_what_a_policy_denies_otherwise_is_denied(policy: object, action: str, permission: PermissionResult) -> None:
    text = None if policy is None else json.dumps({"Version": "2012-10-17", "Statement": policy}).encode()
    get_permission = PATCHES[0].build(None)
    assert get_permission(SimpleNamespace(policy=text), action, "arn:aws:s3:::b/k") == permission
