"""The one list of rights: complete for the stack and the commands, and simulated as IAM documents it."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint  # type: ignore[import-untyped]
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER  # type: ignore[import-untyped]
from click.testing import CliRunner

from scripts.aws import context as accounts
from scripts.aws.commands import check_command
from scripts.aws.deploy.settings import load_template
from scripts.aws.preflight.permissions import (
    all_permissions,
    denials,
    deploy_policies,
    deploy_template,
    needed_permissions,
)
from tests.support.aws_stage import USER, stubbed_account
from tests.support.iam.commands import OTHERWISE_NAMED, SERVICES, calls_in_source
from tests.support.stack_template import SERVER_ROLES, listed

OWN_BOUNDARY = "arn:aws:iam::123456789012:policy/limits"
PATTERNS = [
    action
    for right in all_permissions()
    if right.effect == "Allow"
    for action in (*right.actions.split(), *right.more.split())
]
FOLDER = Path(accounts.__file__).parent

UNUSED = [
    *("firehose:*", "kinesis:*", "kms:*", "managed-fleets:*", "s3tables:*", "ssm:Get*", "vpc-lattice:*", "vpce:*"),
    *("*:*Kinesis*", "*:*Table*Replica*", "*:ImportTable", "*:*ContributorInsights*", "*:PutResourcePolicy"),
    *("dynamodb:*Item", "dynamodb:Query", "dynamodb:Scan", "logs:*LogStream*", "logs:PutLogEvents"),
    *(
        "logs:PutBearerTokenAuthentication",
        "logs:CreateLogDelivery",
        "logs:*ResourcePolic*",
        "*:*DataProtectionPolicy",
    ),
    *("logs:PutIndexPolicy", "s3:*MetadataTable*", "s3:REST.PUT.OBJECT", "iam:*GroupPolicy", "iam:*UserPolicy"),
    *("s3:PutA*Configuration", "s3:PutBucketNotification"),
    *("s3:PutBucketAbac", "s3:PutBucketObjectLockConfiguration", "s3:PutBucketReplication", "s3:PutBucketWebsite"),
    *("s3:PutI*Configuration", "s3:PutMetricsConfiguration", "s3:PutObject*", "s3:PutReplicationConfiguration"),
    *("ec2:AcceptAddressTransfer", "ec2:AssociateAddress", "cognito-idp:AddCustomAttributes"),
    *("autoscaling:*LoadBalancers", "autoscaling:*LifecycleHook", "autoscaling:CancelInstanceRefresh"),
    *("autoscaling:DeleteNotificationConfiguration", "dynamodb:DeleteResourcePolicy", "logs:*KmsKey"),
    *("logs:DeleteIndexPolicy", "logs:DeleteRetentionPolicy", "logs:PutLogGroupDeletionProtection"),
    "s3:UpdateBucketMetadata*",
    "iam:DeleteRolePermissionsBoundary",  # the user who deploys could take the boundary away
    "cloudfront:updateDistribution",  # of a user pool's domain of your own
    *("cloudfront:CreateConnectionGroup", "autoscaling:*Metrics*", "autoscaling:PutNotificationConfiguration"),
]
"""What schemas name for properties that the template does not use."""


def is_allowed(action: str) -> bool:
    return any(fnmatchcase(action, pattern) for pattern in PATTERNS)


def test_the_policy_has_the_calls_of_cloudformation_for_each_resource() -> None:
    wanted = set[tuple[str, str]]()
    for kind in {each["Type"] for each in load_template().resources.values()}:
        handlers = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema["handlers"]
        for name in ("create", "read", "update", "delete"):
            wanted |= {(kind, each) for each in handlers.get(name, {}).get("permissions", [])}
    used = {(kind, each) for kind, each in wanted if not any(fnmatchcase(each, pattern) for pattern in UNUSED)}
    assert sorted((kind, each) for kind, each in used if not is_allowed(each)) == []


def calls() -> set[str]:
    """Return the action of each call in the commands."""
    actions = {f"{SERVICES.get(owner, owner)}:{call}" for owner, call in calls_in_source(FOLDER.rglob("*.py"))}
    return {OTHERWISE_NAMED.get(each, each) for each in actions} - {"sts:GetCallerIdentity"}  # which needs no right


def test_the_policy_has_the_calls_of_the_commands() -> None:
    found = calls()
    assert {"ec2:RunInstances", "freetier:GetAccountPlanState", "ssm:PutParameter"} <= found
    assert not sorted(each for each in found if not is_allowed(each))


@pytest.mark.parametrize(
    "where",
    [
        ("aws-us-gov", "us-gov-west-1", "123456789012"),
        ("aws", "ap-southeast-2", "123456789012"),
        ("${AWS::Partition}", "${AWS::Region}", "${AWS::AccountId}"),
    ],
)
def test_each_policy_fits_into_a_managed_one_and_is_limited_to_the_prefix(where: tuple[str, str, str]) -> None:
    """A user, a group or a role takes ten managed policies of at most 6,144 characters without white space each, a
    user inline 2,048 in all: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html.
    """
    prefix = "a-long-prefix-16"
    partition, region, account_id = where
    policies = deploy_policies(prefix, {"partition": partition, "region": region, "account": account_id})
    assert all(len(json.dumps(each, separators=(",", ":"))) <= 6_144 for each in policies)
    assert len(policies) <= 3
    statements = [each for policy in policies for each in policy["Statement"]]
    by_name = {each["Sid"]: each for each in statements}
    assert len(by_name) == len(statements) == len(all_permissions())
    assert by_name["Roles"]["Resource"][0] == f"arn:{partition}:iam::{account_id}:role/{prefix}-WebRole-*"
    assert by_name["RolesWithTheBoundary"]["Condition"] == {
        "StringEquals": {
            "iam:PermissionsBoundary": f"arn:{partition}:iam::{account_id}:policy/{prefix}-{region}-boundary"
        }
    }
    assert by_name["Queues"]["Resource"][0] == f"arn:{partition}:sqs:{region}:{account_id}:{prefix}-requests"
    everywhere = {action for each in statements if "*" in each["Resource"] for action in each["Action"]}
    harmless = ("iam:Get", "iam:List", "iam:SimulatePrincipalPolicy")
    assert not [each for each in everywhere if each.startswith("iam:") and not each.startswith(harmless)]


def test_the_printed_template_of_the_policies_is_valid_in_every_region_and_needs_no_account() -> None:
    """A template without a bucket has 51,200 bytes at most:
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html.
    """
    longest = CliRunner().invoke(check_command, ["--policy", "--prefix", "a-long-prefix-16"])
    assert len(longest.output.encode()) <= 51_200
    printed = CliRunner().invoke(check_command, ["--policy", "--prefix", "fleet"], env={"AWS_PROFILE": "missing"})
    template = json.loads(printed.output)
    assert template == deploy_template("fleet")
    named = {name: each["Properties"].get("ManagedPolicyName") for name, each in template["Resources"].items()}
    assert named["Deploy1"] == {"Fn::Sub": "fleet-${AWS::Region}-deploy1"}
    assert named["Boundary"] == {"Fn::Sub": "fleet-${AWS::Region}-boundary"}
    own = CliRunner().invoke(check_command, ["--policy", "--set", f"PermissionsBoundaryArn={OWN_BOUNDARY}"])
    assert "Boundary" not in json.loads(own.output)["Resources"]
    assert own.output.count(OWN_BOUNDARY) == 1
    regions = ManualArgs(regions=["us-east-1", "us-gov-west-1", "cn-north-1"])
    assert lint(printed.output, config=regions) == lint(own.output, config=regions) == []


def test_a_service_role_takes_the_rights_for_roles_from_its_user() -> None:
    resources = deploy_template("fleet")["Resources"]
    person = [each for name, each in resources.items() if name.startswith("Person")]
    statements = [one for each in person for one in each["Properties"]["PolicyDocument"]["Statement"]]
    allowed = {
        action: each["Sid"] for each in statements if each["Effect"] == "Allow" for action in listed(each["Action"])
    }
    assert {each for each in allowed if each.startswith("iam:") and "Get" not in each and "List" not in each} == {
        "iam:PassRole",
        "iam:SimulatePrincipalPolicy",
    }
    assert allowed["iam:PassRole"] == "PassServiceRole"
    made = calls()
    assert not sorted(each for each in made if not any(fnmatchcase(each, one) for one in allowed))
    attached = [each["Ref"] for each in resources["ServiceRole"]["Properties"]["ManagedPolicyArns"]]
    assert attached == [name for name in resources if name.startswith("Deploy")]


def test_the_rights_for_what_every_stack_sets_at_its_buckets_are_simulated() -> None:
    """Without one of them CloudFormation fails in the middle of a creation or an update."""
    actions = {
        "BucketEncryption": "s3:PutEncryptionConfiguration",
        "LifecycleConfiguration": "s3:PutLifecycleConfiguration",
        "OwnershipControls": "s3:PutBucketOwnershipControls",
        "PublicAccessBlockConfiguration": "s3:PutBucketPublicAccessBlock",
        "Tags": "s3:PutBucketTagging",
        "VersioningConfiguration": "s3:PutBucketVersioning",
    }
    buckets = [each for each in load_template().resources.values() if each["Type"] == "AWS::S3::Bucket"]
    always = {
        name
        for each in buckets
        if "Condition" not in each
        for name, value in each["Properties"].items()
        if name != "BucketName" and not (isinstance(value, dict) and "Fn::If" in value)
    }
    simulated = {action for each in needed_permissions({}) for action in each.actions.split()}
    assert {actions[name] for name in always} <= simulated


def evaluated(action: str, decision: str, missing: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {"EvalActionName": action, "EvalDecision": decision, "MissingContextValues": list(missing), **more}


DENIED = {"AllowedByOrganizations": False}


@pytest.mark.parametrize(
    ("result", "denied"),
    [
        (evaluated("iam:CreateRole", "allowed"), {}),
        (evaluated("iam:CreateRole", "implicitDeny"), {"iam:CreateRole": True}),
        (evaluated("iam:CreateRole", "explicitDeny"), {"iam:CreateRole": True}),
        (evaluated("iam:DeleteRole", "implicitDeny"), {"iam:DeleteRole": False}),
        (evaluated("iam:CreateRole", "explicitDeny", ("aws:MultiFactorAuthPresent",)), {"iam:CreateRole": False}),
        (evaluated("iam:PassRole", "explicitDeny", OrganizationsDecisionDetail=DENIED), {"iam:PassRole": False}),
        (
            evaluated(
                "iam:CreateRole", "implicitDeny",
                ResourceSpecificResults=[
                    {"EvalResourceName": "a", "EvalResourceDecision": "allowed"},
                    {"EvalResourceName": "b", "EvalResourceDecision": "implicitDeny",
                     "MissingContextValues": ["iam:PermissionsBoundary"]},
                ],
            ),
            {"iam:CreateRole": False},
        ),
    ],
    ids=["allowed", "implicit", "explicit", "deletes", "second-factor", "organization", "boundary"],
)  # fmt: skip
def test_a_denial_is_certain_unless_the_simulation_lacks_context(
    result: dict[str, Any], denied: dict[str, bool]
) -> None:
    (roles,) = (right for right in all_permissions() if right.name == "RolesWithTheBoundary")
    request = {
        "PolicySourceArn": USER,
        "ActionNames": roles.actions.split(),
        "ResourceArns": [f"arn:aws:iam::123456789012:role/fs-{role}-check" for role in SERVER_ROLES],
        "ContextEntries": [
            {"ContextKeyName": "aws:RequestedRegion", "ContextKeyType": "string", "ContextKeyValues": ["us-east-1"]},
            {
                "ContextKeyName": "iam:PermissionsBoundary",
                "ContextKeyType": "string",
                "ContextKeyValues": ["arn:own"],
            },
        ],
    }
    with stubbed_account("iam") as at:
        first = {"EvaluationResults": [evaluated("iam:PassRole", "allowed")], "IsTruncated": True, "Marker": "m"}
        at.stubs["iam"].add_response("simulate_principal_policy", first, request)
        last = {"EvaluationResults": [result], "IsTruncated": False}
        at.stubs["iam"].add_response("simulate_principal_policy", last, {**request, "Marker": "m"})
        assert denials(at.account, "fs", USER, [roles], "arn:own") == denied
