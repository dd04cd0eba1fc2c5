"""The permissions that the user who deploys needs: one list, for the preflight and for the policy that it prints."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from botocore.exceptions import ClientError

from scripts.aws.context import AwsAccount
from scripts.aws.deploy.settings import OFF

if TYPE_CHECKING:
    from mypy_boto3_iam.type_defs import ContextEntryTypeDef

Policy = dict[str, Any]
"""An IAM policy."""

OTHER_RESOURCES: Policy = {
    "Sid": "OtherResources",
    "Effect": "Allow",
    "Action": ["s3:GetObject", "s3:ListBucket", "s3:PutObject", "ssm:GetParameter"],
    "Resource": {"Ref": "OtherResources"},
}
"""The statement of the boundary for what an administrator names."""

PASS_SERVICE_ROLE: Policy = {
    "Sid": "PassServiceRole",
    "Effect": "Allow",
    "Action": "iam:PassRole",
    "Resource": {"Fn::GetAtt": ["ServiceRole", "Arn"]},
    "Condition": {"StringEquals": {"iam:PassedToService": "cloudformation.amazonaws.com"}},
}
"""The statement of a user who lets CloudFormation work with the service role."""

CLOUDFORMATION: Policy = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "cloudformation.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}
"""The trust policy of the service role."""

TEMPLATE_PARAMETERS: Mapping[str, Any] = {
    "WithServiceRole": {
        "Type": "String",
        "Default": "false",
        "AllowedValues": ["true", "false"],
        "Description": "Whether CloudFormation works with a role of its own: up --service-role ARN.",
    },
    "OtherResources": {
        "Type": "CommaDelimitedList",
        "Default": "",
        "Description": "ARNs of buckets, their objects (arn:aws:s3:::photos/*) and parameters outside the prefix "
        "that the stack's roles may use.",
    },
}
TEMPLATE_CONDITIONS: Mapping[str, Any] = {
    "HasServiceRole": {"Fn::Equals": [{"Ref": "WithServiceRole"}, "true"]},
    "HasOthers": {"Fn::Not": [{"Fn::Equals": [{"Fn::Join": ["", {"Ref": "OtherResources"}]}, ""]}]},
}

MAX_STATEMENTS_CHARACTERS = 6_144 - 50
"""The largest list of statements, in JSON without white space: a managed policy is limited to 6,144 characters.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
"""

INFRA = Path(__file__).parents[3] / "infra"
PERMISSIONS_PATH, BOUNDARY_PATH = INFRA / "permissions.yaml", INFRA / "boundary.yaml"

BOUNDARY = "arn:{partition}:iam::{account}:policy/{prefix}-{region}-boundary"
"""The ARN of the permissions boundary that the printed template creates."""

PSEUDO_VALUES = {"partition": "${AWS::Partition}", "region": "${AWS::Region}", "account": "${AWS::AccountId}"}
"""What stands for an account and its region in a CloudFormation template."""


@dataclass(frozen=True)
class Permission:
    """Actions that `fleetsight up` needs on some resources, for its own calls and CloudFormation's on its behalf.

    Attributes:
        name: of the policy's statement.
        resources: ARNs without `arn:PARTITION:`, with {prefix}, {region} and {account}; or *.
        actions: the required actions, which are simulated one by one.
        more: further actions of the policy: those that AWS needs only sometimes, and patterns.
        part: parameter of the stack that turns the need for these actions on; empty if they are always needed.
        effect: Allow or Deny.
        condition: of the policy's statement, with the same words in braces and {boundary}.
        by: `stack` if only CloudFormation needs the actions; a service role can have them instead of its user.
            `person` if only the user needs them.
    """

    name: str
    resources: Sequence[str]
    actions: str = ""
    more: str = ""
    part: str = ""
    effect: str = "Allow"
    condition: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    by: str = ""

    def arns(self, values: Mapping[str, str]) -> list[str]:
        """Return the ARNs of the resources, with `values` for the words in braces."""
        return [
            each if each == "*" else f"arn:{values['partition']}:{each.format_map(values)}" for each in self.resources
        ]

    def statement(self, values: Mapping[str, str]) -> dict[str, Any]:
        """Return the statement of a policy, with `values` for the words in braces."""
        allowed = {*self.actions.split(), *self.more.split()}
        # The size of a policy is limited: no action is named beside a pattern that it matches.
        actions = [one for one in sorted(allowed) if not any(fnmatchcase(one, other) for other in allowed - {one})]
        condition = {
            operator: {key: value.format_map(values) for key, value in keys.items()}
            for operator, keys in self.condition.items()
        }
        statement = {"Sid": self.name, "Effect": self.effect, "Action": actions, "Resource": self.arns(values)}
        return {**statement, "Condition": condition} if condition else statement


@cache
def all_permissions(path: Path = PERMISSIONS_PATH) -> tuple[Permission, ...]:
    """Return the permissions for a stack with all its parts, or those of another file."""
    return tuple(Permission(**each) for each in yaml.safe_load(path.read_text(encoding="utf-8")))


def needed_permissions(parameters: Mapping[str, str]) -> list[Permission]:
    """Return the permissions for a stack with these parameters."""
    needed = [each for each in all_permissions() if not each.part or parameters.get(each.part, "") not in OFF]
    return [each for each in needed if each.effect == "Allow"]


def deploy_policies(
    prefix: str,
    values: Mapping[str, str] = PSEUDO_VALUES,
    boundary: str = BOUNDARY,
    *,
    with_service_role: bool = False,
) -> list[Policy]:
    """Return the IAM policies that together allow `fleetsight up` with all parts that a stack can have.

    Each fits into a managed policy. No region, partition or account is longer than CloudFormation's name for it.

    Args:
        prefix: of the stack.
        values: the partition, the region and the account.
        boundary: ARN of the permissions boundary that the stack's roles must have.
        with_service_role: leave out what only CloudFormation needs, which has the rights of a service role.
    """
    known = {**values, "prefix": prefix}
    known["boundary"] = boundary.format_map(known)
    needed = [each for each in all_permissions() if not (with_service_role and each.by == "stack")]
    policies: list[Policy] = []
    for statement in (each.statement(known) for each in needed):
        with_it = [*policies[-1]["Statement"], statement] if policies else []
        if with_it and len(json.dumps(with_it, separators=(",", ":"))) <= MAX_STATEMENTS_CHARACTERS:
            policies[-1]["Statement"] = with_it
        else:
            policies.append({"Version": "2012-10-17", "Statement": [statement]})
    return policies


def boundary_policy(prefix: str, values: Mapping[str, str] = PSEUDO_VALUES) -> Policy:
    """Return the policy that limits what the stack's roles may ever do."""
    known = {**values, "prefix": prefix}
    return {
        "Version": "2012-10-17",
        "Statement": [each.statement(known) for each in all_permissions(BOUNDARY_PATH)],
    }


def deploy_template(prefix: str, boundary: str = "") -> dict[str, Any]:
    """Return a CloudFormation template with the policies of the user who deploys, for any account and region.

    Its parameter `WithServiceRole` adds a role for CloudFormation, and the smaller policies of a user who passes it.

    Args:
        prefix: of the stack.
        boundary: ARN of the permissions boundary that the account has for the stack's roles; if it is empty, the
            template creates one.
    """
    bound_by = boundary or BOUNDARY
    deploy = _managed(prefix, "Deploy", deploy_policies(prefix, boundary=bound_by))
    service_role = {
        "Type": "AWS::IAM::Role",
        "Condition": "HasServiceRole",
        "Properties": {
            "AssumeRolePolicyDocument": CLOUDFORMATION,
            "ManagedPolicyArns": [{"Ref": one} for one in deploy],
        },
    }
    own = [
        *deploy_policies(prefix, boundary=bound_by, with_service_role=True),
        {"Version": "2012-10-17", "Statement": [PASS_SERVICE_ROLE]},
    ]
    person = {name: {**each, "Condition": "HasServiceRole"} for name, each in _managed(prefix, "Person", own).items()}
    resources: dict[str, Any] = {**deploy, "ServiceRole": service_role, **person}
    parameters, conditions = dict(TEMPLATE_PARAMETERS), dict(TEMPLATE_CONDITIONS)
    if boundary:
        del parameters["OtherResources"], conditions["HasOthers"]
    else:
        bound = boundary_policy(prefix)
        bound["Statement"].append({"Fn::If": ["HasOthers", OTHER_RESOURCES, {"Ref": "AWS::NoValue"}]})
        resources |= _managed(prefix, "Boundary", [bound])
    outputs: dict[str, Any] = {
        name: {"Value": {"Ref": name}} for name in resources if name != "ServiceRole" and name not in person
    }
    outputs["ServiceRole"] = {"Condition": "HasServiceRole", "Value": {"Fn::GetAtt": ["ServiceRole", "Arn"]}}
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"The IAM policies of the person who deploys {prefix}",
        "Parameters": parameters,
        "Conditions": conditions,
        "Resources": resources,
        "Outputs": outputs,
    }


def _managed(prefix: str, name: str, policies: Sequence[Policy]) -> dict[str, dict[str, Any]]:
    """Return managed policies by their logical names; a single one has no number.

    IAM Identity Center knows policies by their names, so CloudFormation does not generate them.
    """
    names = [f"{name}{number}" for number in range(1, len(policies) + 1)] if len(policies) > 1 else [name]
    return {
        each: {
            "Type": "AWS::IAM::ManagedPolicy",
            "Properties": {
                "ManagedPolicyName": {"Fn::Sub": f"{prefix}-{PSEUDO_VALUES['region']}-{each.lower()}"},
                "PolicyDocument": _substituted(policy),
            },
        }
        for each, policy in zip(names, policies, strict=True)
    }


def _substituted(value: Any) -> Any:
    """Return a part of a template in which `Fn::Sub` is around each text that names a pseudo parameter."""
    if isinstance(value, dict):
        return {key: _substituted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_substituted(each) for each in value]
    return {"Fn::Sub": value} if isinstance(value, str) and "${" in value else value


def existing_boundary(account: AwsAccount, prefix: str) -> str:
    """Return the ARN of the boundary that the printed template has created for the stack, or an empty text.

    A user who may not read the policy may create roles without it.
    """
    values = {"partition": account.caller_arn.split(":")[1], "region": account.region_name, "account": account.id}
    arn = BOUNDARY.format_map({**values, "prefix": prefix})
    try:
        account.iam.get_policy(PolicyArn=arn)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchEntity", "AccessDenied"}:
            return ""
        raise
    return arn


def policy_source(account: AwsAccount) -> str | None:
    """Return the ARN of the user or the role with the policies of the caller, or None if the caller is neither.

    The simulation does not accept a session: a role's session is `assumed-role/NAME/SESSION`, without the path of the
    role. The root user and federated users have no policies of their own.
    https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
    """
    _, _, service, _, _, resource = account.caller_arn.split(":", 5)
    kind, _, name = resource.partition("/")
    if (service, kind) == ("iam", "user"):
        return account.caller_arn
    if (service, kind) == ("sts", "assumed-role"):
        return account.iam.get_role(RoleName=name.split("/")[0])["Role"]["Arn"]
    return None


def pass_permission(service_role: str) -> Permission:
    """Return the permission of a user who lets CloudFormation assume this role."""
    resource = service_role.split(":", 2)[2]
    return Permission("PassServiceRole", [resource], "iam:PassRole", condition=PASS_SERVICE_ROLE["Condition"])


def denials(
    account: AwsAccount, prefix: str, source: str, permissions: Sequence[Permission], boundary: str = ""
) -> dict[str, bool]:
    """Return the actions that the policies of `source` deny, and whether the real calls are certainly denied.

    The simulation can differ from a real call. It does not know all conditions of policies, such as a second factor
    at sign-in, and it simulates any resource (*) although a policy may allow some. Only a rollback needs deletions.
    """
    values = {"partition": account.partition, "region": account.region_name, "account": account.id}
    values |= {"prefix": prefix, "boundary": boundary}
    paginator = account.iam.get_paginator("simulate_principal_policy")
    found: dict[str, bool] = {}
    for permission in (each for each in permissions if each.actions):
        # `check_launch` asks EC2 itself about launches.
        actions = [each for each in permission.actions.split() if each != "ec2:RunInstances"]
        # A name that the pattern matches: the simulation accepts resources, not patterns.
        arns = [each if each == "*" else each.replace("*", "check") for each in permission.arns(values)]
        known = {"aws:RequestedRegion": account.region_name, **permission.condition.get("StringEquals", {})}
        context: list[ContextEntryTypeDef] = [
            {"ContextKeyName": key, "ContextKeyType": "string", "ContextKeyValues": [value.format_map(values)]}
            for key, value in known.items()
            if value.format_map(values)
        ]
        pages = paginator.paginate(
            PolicySourceArn=source, ActionNames=actions, ResourceArns=arns, ContextEntries=context
        )
        for result in (each for page in pages for each in page["EvaluationResults"]):
            action = result["EvalActionName"]
            specific = [
                (str(each["EvalResourceDecision"]), each.get("MissingContextValues"))
                for each in result.get("ResourceSpecificResults", [])
            ]
            # Conditions of an organisation's policies may hold for the real call.
            by_organization = not result.get("OrganizationsDecisionDetail", {}).get("AllowedByOrganizations", True)
            for decision, missing in specific or [(str(result["EvalDecision"]), result.get("MissingContextValues"))]:
                if decision != "allowed":
                    is_complete = not missing and not by_organization
                    is_certain = is_complete and (decision == "explicitDeny" or arns != ["*"])
                    found[action] = found.get(action, False) or (is_certain and ":Delete" not in action)
    return found
