"""What the extension of the local cloud for rehearsals corrects in moto."""

import json
from types import SimpleNamespace

import pytest
from moto.iam.access_control import PermissionResult

from localcloud.patches import MODULES, apply_patches, patches_of
from tests.support.account.s3 import get_permission


@pytest.mark.parametrize("service", ["autoscaling", "cognitoidp", "dynamodb", "ec2", "s3"])
def test_the_patches_of_rehearsals_fit_the_installed_moto(service: str) -> None:
    assert MODULES[service][-1].startswith("tests.support.account.")
    assert all(patch.why for patch in patches_of(service))
    apply_patches(service)


OVER_TLS = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": "*",
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}
OVER_NEW_TLS = {**OVER_TLS, "Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}}}
NEVER = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": "*"}


TLS_AND_MORE = {**OVER_TLS, "Condition": {"Bool": {"aws:SecureTransport": "false", "aws:ViaAWSService": "false"}}}


@pytest.mark.parametrize(
    ("statements", "action", "permission"),
    [
        (None, "s3:GetObject", PermissionResult.NEUTRAL),
        (OVER_TLS, "s3:GetObject", PermissionResult.NEUTRAL),
        ([OVER_TLS, OVER_NEW_TLS, NEVER], "s3:GetObject", PermissionResult.NEUTRAL),
        ([OVER_TLS, NEVER], "s3:DeleteObject", PermissionResult.DENIED),
        ([TLS_AND_MORE], "s3:GetObject", PermissionResult.DENIED),
    ],
)
def test_a_bucket_policy_holds_without_its_statements_about_tls_alone(
    statements: object, action: str, permission: PermissionResult
) -> None:
    document = {"Version": "2012-10-17", "Statement": statements}
    bucket = SimpleNamespace(policy=None if statements is None else json.dumps(document).encode())
    assert get_permission(bucket, action, "arn:aws:s3:::b/k") == permission
