"""The permissions that the user who deploys needs: one list, for the preflight and for the policy that it prints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scripts.aws.context import AwsAccount

if TYPE_CHECKING:
    from mypy_boto3_iam.type_defs import ContextEntryTypeDef

OFF = {"", "0", "false"}
"""Values of a parameter that turn its part of the stack off."""

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

    def arns(self, account: AwsAccount, prefix: str) -> list[str]:
        """Return the ARNs of the resources."""
        partition = account.caller_arn.split(":")[1]
        values = {"prefix": prefix, "region": account.region_name, "account": account.id}
        return [each if each == "*" else f"arn:{partition}:{each.format_map(values)}" for each in self.resources]


@cache
def all_permissions() -> tuple[Permission, ...]:
    """Return the permissions for a stack with all its parts."""
    read = yaml.safe_load(PERMISSIONS_PATH.read_text(encoding="utf-8"))
    return tuple(Permission(**each) for each in read)


def needed_permissions(parameters: Mapping[str, str]) -> list[Permission]:
    """Return the permissions for a stack with these parameters."""
    return [each for each in all_permissions() if not each.part or parameters.get(each.part, "") not in OFF]


def deploy_policy(account: AwsAccount, prefix: str) -> dict[str, Any]:
    """Return the IAM policy that allows `fleetsight up` with all parts that a stack can have."""
    statements = [
        {
            "Sid": each.name,
            "Effect": "Allow",
            "Action": sorted({*each.actions.split(), *each.more.split()}),
            "Resource": each.arns(account, prefix),
        }
        for each in all_permissions()
    ]
    return {"Version": "2012-10-17", "Statement": statements}


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
    paginator = account.iam.get_paginator("simulate_principal_policy")
    found: dict[str, bool] = {}
    for permission in (each for each in permissions if each.actions):
        # `check_launch` asks EC2 itself about launches.
        actions = [each for each in permission.actions.split() if each != "ec2:RunInstances"]
        # A name that the pattern matches: the simulation accepts resources, not patterns.
        arns = [each if each == "*" else each.replace("*", "check") for each in permission.arns(account, prefix)]
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
