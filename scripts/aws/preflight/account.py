"""Checks of the account, its region and its caller, and of the names that a new stack takes."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from scripts.aws.buckets import bucket_exists
from scripts.aws.context import AwsAccount
from scripts.aws.deploy.settings import load_template, pseudo_values, substitute
from scripts.aws.preflight.findings import Finding, Level, PreflightCheck, StackPlan, guarded
from scripts.aws.preflight.permissions import OFF, denials, needed_permissions, policy_source
from scripts.aws.preflight.quotas import check_addresses, check_quota

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef

BUDGET_TYPE = "AWS::Budgets::Budget"

CONDITION_PARAMETERS = {"HasSite": "StaticSite"}
"""The parameters of the template's conditions on resources with names."""


def check_names(plan: StackPlan) -> Iterable[Finding]:
    """Find resources with the name of a resource that a new stack creates.

    A new stack adopts what the template keeps. Names of CloudFront's resources are not looked at.
    """
    wanted = stack_names(plan) if plan.is_new else {}

    def find_taken(kind: str) -> Iterable[Finding]:
        found = existing_names(plan.account, kind, plan.context.prefix, sorted(wanted[kind]))
        if names := sorted(wanted[kind].intersection(found)):
            words = f"{', '.join(names)} ({kind}) exists, and no stack of this prefix does"
            remedy = "`fleetsight down` deletes what an earlier stack left; delete others yourself, or give --prefix"
            yield Finding(Level.STOP, words, remedy)

    findings = [each for kind in wanted for each in guarded(partial(find_taken, kind))]
    yield from findings or [Finding(Level.OK, "all that the stack takes are free, or its own")]


def stack_names(plan: StackPlan) -> dict[str, set[str]]:
    """Return the names of the resources that the stack creates and does not adopt, by their types."""
    names: dict[str, set[str]] = {}
    for logical_name, each in load_template().resources.items():
        part = CONDITION_PARAMETERS.get(each.get("Condition", ""))
        is_left_out = part is not None and plan.parameters[part] in OFF
        if each["Type"] not in NAME_PROPERTIES or logical_name in load_template().retained or is_left_out:
            continue
        value: Any = each["Properties"][NAME_PROPERTIES[each["Type"]]]
        names.setdefault(each["Type"], set()).add(substitute(value["Fn::Sub"], pseudo_values(plan.context)))
    return names


NAME_PROPERTIES: Mapping[str, str] = {
    "AWS::CloudWatch::Dashboard": "DashboardName",
    "AWS::EC2::LaunchTemplate": "LaunchTemplateName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::S3::Bucket": "BucketName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::SSM::Parameter": "Name",
}
"""The property with the name of a resource, by type."""


def existing_names(account: AwsAccount, kind: str, prefix: str, names: Sequence[str]) -> Iterator[str]:
    """Yield existing names of resources of a type: at least those among `names`, which begin with the prefix."""
    match kind:
        case "AWS::CloudWatch::Dashboard":
            dashboards = account.cloudwatch.get_paginator("list_dashboards").paginate(DashboardNamePrefix=prefix)
            yield from (each["DashboardName"] for page in dashboards for each in page["DashboardEntries"])
        case "AWS::EC2::LaunchTemplate":
            by_name: FilterTypeDef = {"Name": "launch-template-name", "Values": names}
            templates = account.ec2.describe_launch_templates(Filters=[by_name])["LaunchTemplates"]
            yield from (each["LaunchTemplateName"] for each in templates)
        case "AWS::Logs::LogGroup":
            groups = account.logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"/{prefix}/")
            yield from (each["logGroupName"] for page in groups for each in page["logGroups"])
        case "AWS::S3::Bucket":
            yield from (each for each in names if bucket_exists(account, each))
        case "AWS::SNS::Topic":
            topics = account.sns.get_paginator("list_topics").paginate()
            yield from (each["TopicArn"].rpartition(":")[2] for page in topics for each in page["Topics"])
        case "AWS::SQS::Queue":
            queues = account.sqs.get_paginator("list_queues").paginate(QueueNamePrefix=prefix)
            yield from (url.rpartition("/")[2] for page in queues for url in page.get("QueueUrls", []))
        case "AWS::SSM::Parameter":
            yield from (each["Name"] for each in account.ssm.get_parameters(Names=names)["Parameters"])
        case _:
            raise AssertionError(f"the names of {kind} are not checked")


def check_rights(plan: StackPlan) -> Iterable[Finding]:
    """Find actions that the caller may not call, by IAM's policy simulator."""
    account, prefix = plan.account, plan.context.prefix
    source, boundary = plan.service_role or policy_source(account), plan.parameters["PermissionsBoundaryArn"]
    if account.caller_arn.endswith(":root"):
        words = f"{account.caller_arn} may do everything"
        yield Finding(Level.WARNING, words, "Use a role with the policy of `fleetsight aws check --policy`")
    elif source is None:
        yield Finding(Level.WARNING, f"unknown: IAM simulates users and roles, and not {account.caller_arn}")
    elif denied := denials(account, prefix, source, needed_permissions(plan.parameters), boundary):
        remedy = "Have it allowed; `fleetsight aws check --policy` prints the policy for `up`"
        if certain := ", ".join(sorted(action for action, is_certain in denied.items() if is_certain)):
            yield Finding(Level.STOP, f"{source} may not call {certain}", remedy)
        if others := ", ".join(sorted(action for action, is_certain in denied.items() if not is_certain)):
            yield Finding(Level.WARNING, f"{source} perhaps may not call {others}", remedy)
    else:
        yield Finding(Level.OK, f"{source} may do what `up` does")


def check_region(plan: StackPlan) -> Iterable[Finding]:
    """Find types of resources that CloudFormation does not have in the region, such as user pools.

    It refuses a template that holds one, if a condition leaves it out, too.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ValidateTemplate.html
    """
    kinds = {each["Type"] for each in load_template().resources.values()}
    if plan.parameters["MonthlyBudget"] in OFF:
        kinds.discard(BUDGET_TYPE)  # which `up` takes out of the template
    body = json.dumps({"Resources": {f"R{number}": {"Type": kind} for number, kind in enumerate(sorted(kinds))}})
    region = plan.account.region_name
    try:
        plan.account.cloudformation.validate_template(TemplateBody=body)
    except ClientError as error:
        _, _, lacking = error.response["Error"].get("Message", "").partition("Unrecognized resource types: ")
        if not lacking:
            raise
        remedy = "Give --budget 0" if lacking == f"[{BUDGET_TYPE}]" else "Give another --region"
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
    page = "docs/aws.md has the statements"
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


def check_mail(plan: StackPlan) -> Iterable[Finding]:
    """Check that SES sends the codes of sign-up to every address.

    https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_GetAccount.html
    """
    sender = plan.parameters["SenderArn"]
    if not sender or plan.parameters["CreateUserPool"] in OFF:
        return
    region = sender.split(":")[3]
    if region != plan.account.region_name:
        words = f"mails of finished jobs are sent by SES in {plan.account.region_name}, and the sender is in {region}"
        yield Finding(Level.WARNING, words, f"Verify the sender in {plan.account.region_name}, too")
    elif plan.account.ses.get_account()["ProductionAccessEnabled"]:
        yield Finding(Level.OK, f"SES in {region} sends to every address")
    else:
        words = f"SES in {region} is in the sandbox, and sends codes to verified addresses only"
        yield Finding(Level.WARNING, words, "Ask for production access in the console of SES")


ACCOUNT_CHECKS: Mapping[str, PreflightCheck] = {
    "rights": check_rights,
    "region": check_region,
    "quota": check_quota,
    "addresses": check_addresses,
    "disk key": check_disk_key,
    "public access": check_public_access,
    "names": check_names,
    "mail": check_mail,
}
