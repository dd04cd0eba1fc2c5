"""The permissions that the user who deploys needs: one list, for the preflight and for the policy that it prints."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scripts.aws.context import AwsAccount

if TYPE_CHECKING:
    from mypy_boto3_iam.type_defs import ContextEntryTypeDef

OFF = {"", "0", "false"}
"""Values of a parameter that turn its part of the stack off."""

MAX_STATEMENTS_CHARACTERS = 6_144 - 50
"""The largest list of statements, in JSON without white space: a managed policy is limited to 6,144 characters.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
"""

PERMISSIONS_PATH = Path(__file__).parents[3] / "infra" / "permissions.yaml"


@dataclass(frozen=True)
class Permission:
    """Actions that `fleetsight up` needs on some resources, for its own calls and CloudFormation's on its behalf.

    Attributes:
        name: of the policy's statement.
        resources: ARNs without `arn:PARTITION:`, with {prefix}, {region} and {account}; or *.
        actions: the required actions, which are simulated one by one.
        more: further actions of the policy: those that AWS needs only sometimes, and patterns.
        part: parameter of the stack that turns the need for these actions on; empty if they are always needed.
    """

    name: str
    resources: Sequence[str]
    actions: str = ""
    more: str = ""
    part: str = ""

    def arns(self, prefix: str, partition: str, region: str, account_id: str) -> list[str]:
        """Return the ARNs of the resources."""
        values = {"prefix": prefix, "region": region, "account": account_id}
        return [each if each == "*" else f"arn:{partition}:{each.format_map(values)}" for each in self.resources]


@cache
def all_permissions() -> tuple[Permission, ...]:
    """Return the permissions for a stack with all its parts."""
    read = yaml.safe_load(PERMISSIONS_PATH.read_text(encoding="utf-8"))
    return tuple(Permission(**each) for each in read)


def needed_permissions(parameters: Mapping[str, str]) -> list[Permission]:
    """Return the permissions for a stack with these parameters."""
    return [each for each in all_permissions() if not each.part or parameters.get(each.part, "") not in OFF]


def deploy_policies(
    prefix: str,
    partition: str = "${AWS::Partition}",
    region: str = "${AWS::Region}",
    account_id: str = "${AWS::AccountId}",
) -> list[dict[str, Any]]:
    """Return the IAM policies that together allow `fleetsight up` with all parts that a stack can have.

    Each fits into a managed policy. No region, partition or account is longer than CloudFormation's name for it.
    """
    policies: list[dict[str, Any]] = []
    for each in all_permissions():
        allowed = {*each.actions.split(), *each.more.split()}
        # The size of a policy is limited: no action is named beside a pattern that it matches.
        actions = [one for one in sorted(allowed) if not any(fnmatchcase(one, other) for other in allowed - {one})]
        resources = each.arns(prefix, partition, region, account_id)
        statement = {"Sid": each.name, "Effect": "Allow", "Action": actions, "Resource": resources}
        with_it = [*policies[-1]["Statement"], statement] if policies else []
        if with_it and len(json.dumps(with_it, separators=(",", ":"))) <= MAX_STATEMENTS_CHARACTERS:
            policies[-1]["Statement"] = with_it
        else:
            policies.append({"Version": "2012-10-17", "Statement": [statement]})
    return policies


def deploy_template(prefix: str) -> dict[str, Any]:
    """Return a CloudFormation template with the policies of the user who deploys, for any account and region."""
    policies = {f"Deploy{number}": policy for number, policy in enumerate(deploy_policies(prefix), 1)}
    resources = {
        name: {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": _substituted(policy)}}
        for name, policy in policies.items()
    }
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"The IAM policies of the person who deploys {prefix}",
        "Resources": resources,
        "Outputs": {name: {"Value": {"Ref": name}} for name in resources},
    }


def _substituted(policy: dict[str, Any]) -> dict[str, Any]:
    statements = [
        {**each, "Resource": [one if one == "*" else {"Fn::Sub": one} for one in each["Resource"]]}
        for each in policy["Statement"]
    ]
    return {**policy, "Statement": statements}


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


def denials(account: AwsAccount, prefix: str, source: str, permissions: list[Permission]) -> dict[str, bool]:
    """Return the actions that the policies of `source` deny, and whether the real calls are certainly denied.

    The simulation can differ from a real call. It does not know all conditions of policies, such as a second factor
    at sign-in, and it simulates any resource (*) although a policy may allow some. Only a rollback needs deletions.
    """
    region: list[ContextEntryTypeDef] = [
        {
            "ContextKeyName": "aws:RequestedRegion",
            "ContextKeyType": "string",
            "ContextKeyValues": [account.region_name],
        }
    ]
    where = (prefix, account.caller_arn.split(":")[1], account.region_name, account.id)
    paginator = account.iam.get_paginator("simulate_principal_policy")
    found: dict[str, bool] = {}
    for permission in (each for each in permissions if each.actions):
        # `check_launch` asks EC2 itself about launches.
        actions = [each for each in permission.actions.split() if each != "ec2:RunInstances"]
        # A name that the pattern matches: the simulation accepts resources, not patterns.
        arns = [each if each == "*" else each.replace("*", "check") for each in permission.arns(*where)]
        pages = paginator.paginate(
            PolicySourceArn=source, ActionNames=actions, ResourceArns=arns, ContextEntries=region
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
