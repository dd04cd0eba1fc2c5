"""The printed policies of the user who deploys, by the judgement of iam-simulate with AWS's service data.

The ways to more rights are those of https://rhinosecuritylabs.com/aws/aws-privilege-escalation-methods-mitigation/,
and of launch templates: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/launch-template-permissions.html.
"""

import json

import pytest

from scripts.aws.preflight.permissions import boundary_policy, deploy_policies
from tests.support.iam.checks import ACCOUNT
from tests.support.iam.judge import PermissionCheck, judge

pytestmark = pytest.mark.thorough

REGION = "us-east-1"
VALUES = {"partition": "aws", "region": REGION, "account": ACCOUNT}
IAM, EC2 = f"arn:aws:iam::{ACCOUNT}", f"arn:aws:ec2:{REGION}:{ACCOUNT}"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0123"
BOUNDARY = f"{IAM}:policy/fs-{REGION}-boundary"
OWN, BOUND = f"{IAM}:role/fs-WebRole-ABC", {"iam:PermissionsBoundary": BOUNDARY}
OTHER = {"iam:PermissionsBoundary": f"{IAM}:policy/anything"}
THEIRS = {"aws:ResourceTag/fleetsight": "other"}

KEY_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
    ],
}
"""The policy that KMS gives a key by default, which lets the account's IAM policies decide."""

WAYS_TO_MORE_RIGHTS = {
    "a role without the boundary": PermissionCheck("iam:CreateRole", OWN),
    "a role with another boundary": PermissionCheck("iam:CreateRole", OWN, OTHER),
    "a role of another name": PermissionCheck("iam:CreateRole", f"{IAM}:role/fs-admin", BOUND),
    "rights for a role without the boundary": PermissionCheck("iam:PutRolePolicy", OWN),
    "another boundary for a role": PermissionCheck("iam:PutRolePermissionsBoundary", OWN, OTHER),
    "no boundary for a role": PermissionCheck("iam:DeleteRolePermissionsBoundary", OWN, BOUND),
    "another boundary's text": PermissionCheck("iam:CreatePolicyVersion", BOUNDARY),
    "the end of the boundary": PermissionCheck("iam:DeletePolicy", BOUNDARY),
    "the trust of another role": PermissionCheck("iam:UpdateAssumeRolePolicy", f"{IAM}:role/fs-admin"),
    "another role for an instance": PermissionCheck("iam:PassRole", f"{IAM}:role/admin"),
    "a key of a user": PermissionCheck("iam:CreateAccessKey", f"{IAM}:user/ann"),
    "a password": PermissionCheck("iam:CreateLoginProfile", f"{IAM}:user/ann"),
    "a policy for a user": PermissionCheck("iam:AttachUserPolicy", f"{IAM}:user/ann"),
    "a group": PermissionCheck("iam:AddUserToGroup", f"{IAM}:group/admins"),
    "another role's session": PermissionCheck("sts:AssumeRole", f"{IAM}:role/admin"),
    "a command on an instance": PermissionCheck("ssm:SendCommand", f"{EC2}:instance/i-1"),
    "user data of another instance": PermissionCheck("ec2:ModifyInstanceAttribute", f"{EC2}:instance/i-1", THEIRS),
    "a version of another template": PermissionCheck(
        "ec2:CreateLaunchTemplateVersion", f"{EC2}:launch-template/lt-1", THEIRS
    ),
    "another template's tag": PermissionCheck("ec2:CreateTags", f"{EC2}:launch-template/lt-1", THEIRS),
    "the tag of an instance without tags": PermissionCheck("ec2:CreateTags", f"{EC2}:instance/i-1"),
    "another stack": PermissionCheck(
        "cloudformation:CreateChangeSet", f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/other/1"
    ),
    "a grant for a key that no service asks for": PermissionCheck(
        "kms:CreateGrant",
        KEY,
        {"kms:GrantIsForAWSResource": "false"},
        KEY_POLICY,
    ),
}


OUT_OF_BOUNDS = {
    "a user": PermissionCheck("iam:CreateUser", f"{IAM}:user/me"),
    "a role": PermissionCheck("iam:CreateRole", OWN, BOUND),
    "another role's session": PermissionCheck("sts:AssumeRole", f"{IAM}:role/admin"),
    "another role for an instance": PermissionCheck("iam:PassRole", f"{IAM}:role/admin"),
    "another bucket": PermissionCheck("s3:GetObject", "arn:aws:s3:::payroll/may.csv"),
    "another parameter": PermissionCheck("ssm:GetParameter", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/prod/key"),
    "a secret": PermissionCheck(
        "secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:s-1"
    ),
    "another table": PermissionCheck("dynamodb:GetItem", f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/orders"),
    "another instance": PermissionCheck("ec2:TerminateInstances", f"{EC2}:instance/i-1", THEIRS),
    "another template's tag": PermissionCheck("ec2:CreateTags", f"{EC2}:launch-template/lt-1"),
    "a key by itself": PermissionCheck("kms:Decrypt", KEY, {}, KEY_POLICY),
}

EVERYTHING = {
    "Version": "2012-10-17",
    "Statement": [{"Sid": "All", "Effect": "Allow", "Action": "*", "Resource": "*"}],
}


@pytest.fixture(scope="module")
def printed() -> dict[str, bool]:
    """Whether the printed policies allow each action, by its words."""
    policies = {str(number): each for number, each in enumerate(deploy_policies("fs", VALUES))}
    verdicts = judge(f"{IAM}:user/ann", policies, list(WAYS_TO_MORE_RIGHTS.values()))
    return {words: verdict.allowed for words, verdict in zip(WAYS_TO_MORE_RIGHTS, verdicts, strict=True)}


@pytest.mark.parametrize("words", WAYS_TO_MORE_RIGHTS)
def test_the_user_who_deploys_is_no_administrator(printed: dict[str, bool], words: str) -> None:
    assert not printed[words]


def test_a_role_with_every_right_does_nothing_beyond_the_boundary() -> None:
    bound = boundary_policy("fs", VALUES)
    assert len(json.dumps(bound, separators=(",", ":"))) <= 6_144
    checks = [*OUT_OF_BOUNDS.values(), PermissionCheck("s3:GetObject", f"arn:aws:s3:::fs-input-{ACCOUNT}-{REGION}/a")]
    verdicts = judge(OWN, {"all": EVERYTHING}, checks, bound)
    assert [each.allowed for each in verdicts] == [False] * len(OUT_OF_BOUNDS) + [True]
