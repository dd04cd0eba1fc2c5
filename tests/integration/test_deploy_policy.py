"""The printed policies of the user who deploys, by the judgement of iam-simulate with AWS's service data.

The ways to more rights are those of https://rhinosecuritylabs.com/aws/aws-privilege-escalation-methods-mitigation/,
and of launch templates: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/launch-template-permissions.html.
"""

import json

import pytest

from scripts.aws.preflight.permissions import boundary_policy, deploy_policies
from tests.support.iam.checks import ACCOUNT
from tests.support.iam.judge import PermissionCheck, judge
from tests.support.least_privilege import KEY_POLICY

REGION = "us-east-1"
VALUES = {"partition": "aws", "region": REGION, "account": ACCOUNT}
IAM, EC2 = f"arn:aws:iam::{ACCOUNT}", f"arn:aws:ec2:{REGION}:{ACCOUNT}"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0123"
BOUNDARY = f"{IAM}:policy/fs-{REGION}-boundary"
OWN, BOUND = f"{IAM}:role/fs-WebRole-ABC", {"iam:PermissionsBoundary": BOUNDARY}
OTHER = {"iam:PermissionsBoundary": f"{IAM}:policy/anything"}
OURS, THEIRS = {"aws:ResourceTag/fleetsight": "fs"}, {"aws:ResourceTag/fleetsight": "other"}

WAYS_TO_MORE_RIGHTS = {
    "a role without the boundary": PermissionCheck("iam:CreateRole", OWN),
    "a role with another boundary": PermissionCheck("iam:CreateRole", OWN, OTHER),
    "a role of another name": PermissionCheck("iam:CreateRole", f"{IAM}:role/fs-admin", BOUND),
    "rights for a role without the boundary": PermissionCheck("iam:PutRolePolicy", OWN),
    "a policy for a role without the boundary": PermissionCheck(
        "iam:AttachRolePolicy", OWN, {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"}
    ),
    "another boundary for a role": PermissionCheck("iam:PutRolePermissionsBoundary", OWN, OTHER),
    "no boundary for a role": PermissionCheck("iam:DeleteRolePermissionsBoundary", OWN, BOUND),
    "another boundary's text": PermissionCheck("iam:CreatePolicyVersion", BOUNDARY),
    "an earlier text": PermissionCheck("iam:SetDefaultPolicyVersion", BOUNDARY),
    "the end of the boundary": PermissionCheck("iam:DeletePolicy", BOUNDARY),
    "the trust of another role": PermissionCheck("iam:UpdateAssumeRolePolicy", f"{IAM}:role/fs-admin"),
    "another role for an instance": PermissionCheck("iam:PassRole", f"{IAM}:role/admin"),
    "a key of a user": PermissionCheck("iam:CreateAccessKey", f"{IAM}:user/ann"),
    "a password": PermissionCheck("iam:CreateLoginProfile", f"{IAM}:user/ann"),
    "another password": PermissionCheck("iam:UpdateLoginProfile", f"{IAM}:user/ann"),
    "a policy of a user": PermissionCheck("iam:PutUserPolicy", f"{IAM}:user/ann"),
    "a policy for a user": PermissionCheck("iam:AttachUserPolicy", f"{IAM}:user/ann"),
    "a policy of a group": PermissionCheck("iam:PutGroupPolicy", f"{IAM}:group/all"),
    "a policy for a group": PermissionCheck("iam:AttachGroupPolicy", f"{IAM}:group/all"),
    "a group": PermissionCheck("iam:AddUserToGroup", f"{IAM}:group/admins"),
    "another role's session": PermissionCheck("sts:AssumeRole", f"{IAM}:role/admin"),
    "a command on an instance": PermissionCheck("ssm:SendCommand", f"{EC2}:instance/i-1"),
    "user data of another instance": PermissionCheck("ec2:ModifyInstanceAttribute", f"{EC2}:instance/i-1", THEIRS),
    "a version of another template": PermissionCheck(
        "ec2:CreateLaunchTemplateVersion", f"{EC2}:launch-template/lt-1", THEIRS
    ),
    "another template's default": PermissionCheck("ec2:ModifyLaunchTemplate", f"{EC2}:launch-template/lt-1", THEIRS),
    "another template's tag": PermissionCheck("ec2:CreateTags", f"{EC2}:launch-template/lt-1", THEIRS),
    "the tag of an instance without tags": PermissionCheck("ec2:CreateTags", f"{EC2}:instance/i-1"),
    "the end of another instance": PermissionCheck("ec2:TerminateInstances", f"{EC2}:instance/i-1", THEIRS),
    "another stack": PermissionCheck(
        "cloudformation:CreateChangeSet", f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/other/1"
    ),
    "a function with a role": PermissionCheck(
        "lambda:CreateFunction", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f"
    ),
    "a grant for a key that no service asks for": PermissionCheck(
        "kms:CreateGrant",
        KEY,
        {"kms:GrantIsForAWSResource": "false"},
        KEY_POLICY,
    ),
}

NEEDED = {
    "a role": PermissionCheck("iam:CreateRole", OWN, BOUND),
    "its rights": PermissionCheck("iam:PutRolePolicy", OWN, BOUND),
    "the end of its rights": PermissionCheck("iam:DeleteRolePolicy", OWN, BOUND),
    "the boundary for a role of before": PermissionCheck("iam:PutRolePermissionsBoundary", OWN, BOUND),
    "the role for an instance": PermissionCheck("iam:PassRole", OWN),
    "the boundary": PermissionCheck("iam:GetPolicy", BOUNDARY),
    "a version of the template": PermissionCheck(
        "ec2:CreateLaunchTemplateVersion", f"{EC2}:launch-template/lt-1", OURS
    ),
    "the template's default": PermissionCheck("ec2:ModifyLaunchTemplate", f"{EC2}:launch-template/lt-1", OURS),
    "a drain": PermissionCheck("ec2:CreateTags", f"{EC2}:instance/i-1", OURS),
    "tags of a new template": PermissionCheck(
        "ec2:CreateTags", f"{EC2}:launch-template/lt-1", {"ec2:CreateAction": "CreateLaunchTemplate"}
    ),
    "tags of a new group": PermissionCheck("ec2:CreateTags", f"{EC2}:security-group/sg-1"),
    "the end of a worker": PermissionCheck("ec2:TerminateInstances", f"{EC2}:instance/i-1", OURS),
    "the key of a table": PermissionCheck(
        "kms:CreateGrant",
        KEY,
        {"kms:GrantIsForAWSResource": "true"},
        KEY_POLICY,
    ),
    "data of a key": PermissionCheck("kms:GenerateDataKey", KEY, {}, KEY_POLICY),
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
    checks = {**WAYS_TO_MORE_RIGHTS, **{f"needed: {words}": each for words, each in NEEDED.items()}}
    verdicts = judge(f"{IAM}:user/ann", policies, list(checks.values()))
    return {words: verdict.allowed for words, verdict in zip(checks, verdicts, strict=True)}


@pytest.mark.parametrize("words", WAYS_TO_MORE_RIGHTS)
def test_the_user_who_deploys_is_no_administrator(printed: dict[str, bool], words: str) -> None:
    assert not printed[words]


@pytest.mark.parametrize("words", NEEDED)
def test_the_user_who_deploys_may_use_what_carries_the_boundary_or_the_tag(
    printed: dict[str, bool], words: str
) -> None:
    assert printed[f"needed: {words}"]


def test_a_role_with_every_right_does_nothing_beyond_the_boundary() -> None:
    bound = boundary_policy("fs", VALUES)
    assert len(json.dumps(bound, separators=(",", ":"))) <= 6_144
    checks = [*OUT_OF_BOUNDS.values(), PermissionCheck("s3:GetObject", f"arn:aws:s3:::fs-input-{ACCOUNT}-{REGION}/a")]
    verdicts = judge(OWN, {"all": EVERYTHING}, checks, bound)
    assert [each.allowed for each in verdicts] == [False] * len(OUT_OF_BOUNDS) + [True]
