"""Checks of the account, its region and its caller."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from botocore.exceptions import ClientError

from scripts.aws.deploy.settings import template_for
from scripts.aws.preflight.findings import Finding, Level, PreflightCheck, StackPlan
from scripts.aws.preflight.permissions import (
    Permission,
    denials,
    needed_permissions,
    pass_permission,
    policy_source,
)
from scripts.aws.preflight.quotas import check_addresses, check_quota
from services.cloudformation import parse_template


def check_rights(plan: StackPlan) -> Iterable[Finding]:
    """Find actions that the caller, or the role that CloudFormation assumes, may not call, by IAM's policy simulator.

    A stack keeps its role, also for users who may not pass it:
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-iam-servicerole.html
    """
    account, role, needed = plan.account, plan.service_role, needed_permissions(plan.parameters)
    if role:
        yield from _check_rights_of(plan, role, [each for each in needed if each.by != "person"])
        needed = [each for each in needed if each.by != "stack"]
        needed += [pass_permission(role)] if plan.passes_role else []
    if account.caller_arn.endswith(":root"):
        words = f"{account.caller_arn} may do everything"
        yield Finding(Level.WARNING, words, "Use a role with the policy of `fleetsight aws check --policy`")
    elif (source := policy_source(account)) is None:
        yield Finding(Level.WARNING, f"unknown: IAM simulates users and roles, and not {account.caller_arn}")
    else:
        yield from _check_rights_of(plan, source, needed)


def _check_rights_of(plan: StackPlan, source: str, needed: Sequence[Permission]) -> Iterable[Finding]:
    boundary = plan.parameters["PermissionsBoundaryArn"]
    if denied := denials(plan.account, plan.context.prefix, source, needed, boundary):
        remedy = "Have it allowed; `fleetsight aws check --policy` prints the policies"
        if certain := ", ".join(sorted(action for action, is_certain in denied.items() if is_certain)):
            yield Finding(Level.STOP, f"{source} may not call {certain}", remedy)
        if others := ", ".join(sorted(action for action, is_certain in denied.items() if not is_certain)):
            yield Finding(Level.WARNING, f"{source} perhaps may not call {others}", remedy)
    else:
        yield Finding(Level.OK, f"{source} may do its part of `up`")


OPTIONAL_SERVICES = {"Budgets": "--set MonthlyBudget=0", "CloudFront": "--set StaticSite=false"}
"""The options that leave a service out which some regions or partitions do not have."""


@cache
def _resource_types(template: str) -> list[str]:
    return sorted({each["Type"] for each in parse_template(template)["Resources"].values()})


def check_region(plan: StackPlan) -> Iterable[Finding]:
    """Find types of resources that CloudFormation does not have in the region, such as user pools.

    It refuses a template that holds one, if a condition leaves it out, too.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ValidateTemplate.html
    """
    kinds = _resource_types(template_for(plan.parameters))
    body = json.dumps({"Resources": {f"R{number}": {"Type": kind} for number, kind in enumerate(kinds)}})
    region = plan.account.region_name
    try:
        plan.account.cloudformation.validate_template(TemplateBody=body)
    except ClientError as error:
        _, _, lacking = error.response["Error"].get("Message", "").partition("Unrecognized resource types: ")
        if not lacking:
            raise
        owners = {OPTIONAL_SERVICES.get(each, "") for each in re.findall("AWS::([^:]+)::", lacking)}
        remedy = "Give another --region" if "" in owners else f"Give {' '.join(sorted(owners))}"
        yield Finding(Level.STOP, f"CloudFormation in {region} does not have {lacking}", remedy)
    else:
        yield Finding(Level.OK, f"CloudFormation in {region} has all types of resources")


def check_disk_key(plan: StackPlan) -> Iterable[Finding]:
    """Check that the disks' encryption key can be used by Auto Scaling and the controller.

    All disks of a stack are encrypted, by the account's default key if `DiskKeyArn` names no other. The whole account
    may use AWS's own key. A customer's key is for those that its policy names, which this check does not read. The
    stack gives its controller rights only for the key in `DiskKeyArn`.
    https://docs.aws.amazon.com/autoscaling/ec2/userguide/key-policy-requirements-EBS-encryption.html
    """
    account, named = plan.account, plan.parameters["DiskKeyArn"]
    key = named or account.ec2.get_ebs_default_kms_key_id()["KmsKeyId"]
    if key.endswith("alias/aws/ebs") or account.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyManager"] == "AWS":
        yield Finding(Level.OK, "AWS's own key of the account encrypts the disks")
        return
    page = "infra/README.md has the statements"
    if named:
        words = f"{key} encrypts the disks. If its policy does not allow Auto Scaling to use it, no instance starts"
        yield Finding(Level.WARNING, words, page)
        return
    yield Finding(
        Level.WARNING,
        f"{key} encrypts the disks. If its policy does not allow the whole account to use it, no instance starts",
        f"Take AWS's own key, `aws ec2 reset-ebs-default-kms-key-id --region {account.region_name}`, or name this "
        f"one, --set DiskKeyArn=ARN; {page} of its policy",
    )


def check_public_access(plan: StackPlan) -> Iterable[Finding]:
    """Check that EC2 does not block the traffic of internet gateways in the whole region.

    https://docs.aws.amazon.com/vpc/latest/userguide/security-vpc-bpa.html
    """
    options = plan.account.ec2.describe_vpc_block_public_access_options()["VpcBlockPublicAccessOptions"]
    mode, region = options.get("InternetGatewayBlockMode", "off"), plan.account.region_name
    if mode == "off":
        yield Finding(Level.OK, f"VPC Block Public Access is off in {region}")
        return
    blocked = "instances cannot call AWS" if mode == "block-bidirectional" else "the page cannot be reached"
    yield Finding(
        Level.WARNING,
        f"VPC Block Public Access is on in {region} ({mode}): {blocked}, unless the VPC or its subnets are excluded",
        "Have the VPC excluded: `aws ec2 create-vpc-block-public-access-exclusion`",
    )


ACCOUNT_CHECKS: Mapping[str, PreflightCheck] = {
    "rights": check_rights,
    "region": check_region,
    "quota": check_quota,
    "addresses": check_addresses,
    "disk key": check_disk_key,
    "public access": check_public_access,
}
