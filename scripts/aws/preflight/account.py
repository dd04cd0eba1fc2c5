"""Whether the account, its region and its caller have what a stack needs."""

import json
from collections.abc import Iterable, Mapping

from botocore.exceptions import ClientError

from scripts.aws.deploy.template import template
from scripts.aws.preflight.findings import Check, Finding, Level, StackPlan
from scripts.aws.preflight.machines import check_quota
from scripts.aws.preflight.names import check_names
from scripts.aws.preflight.rights import OFF, denials, needed, policy_source


def check_rights(plan: StackPlan) -> Iterable[Finding]:
    """Find what the caller may not do, by IAM's policy simulator."""
    account = plan.account
    source = policy_source(account)
    if account.caller_arn.endswith(":root"):
        words = f"{account.caller_arn} may do everything"
        yield Finding(Level.WARNING, words, "Use a role with the policy of `fleetsight aws check --policy`")
    elif source is None:
        yield Finding(Level.WARNING, f"cannot tell: IAM simulates users and roles, and not {account.caller_arn}")
    elif denied := denials(account, plan.operation.prefix, source, needed(plan.parameters)):
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
    kinds = sorted({each["Type"] for each in template().resources.values()})
    body = json.dumps({"Resources": {f"R{number}": {"Type": kind} for number, kind in enumerate(kinds)}})
    region = plan.account.region_name
    try:
        plan.account.cloudformation.validate_template(TemplateBody=body)
    except ClientError as error:
        _, _, lacking = error.response["Error"].get("Message", "").partition("Unrecognized resource types: ")
        if not lacking:
            raise
        yield Finding(Level.STOP, f"CloudFormation in {region} does not have {lacking}", "Give another --region")
    else:
        yield Finding(Level.OK, f"CloudFormation in {region} has all types of resources")


def check_disk_key(plan: StackPlan) -> Iterable[Finding]:
    """Find out whether disks are encrypted by a key that Auto Scaling and the controller may not use.

    All disks of a stack are encrypted, by the account's default key if no other is named. The whole account may use
    AWS's own key. A customer's key is for those that its policy names, and roles of a new stack are not among them.
    https://docs.aws.amazon.com/autoscaling/ec2/userguide/key-policy-requirements-EBS-encryption.html
    """
    account = plan.account
    key = account.ec2.get_ebs_default_kms_key_id()["KmsKeyId"]
    if key.endswith("alias/aws/ebs") or account.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyManager"] == "AWS":
        yield Finding(Level.OK, "AWS's own key of the account encrypts the disks")
        return
    yield Finding(
        Level.WARNING,
        f"{key} encrypts the disks. If its policy does not allow the whole account to use it, no instance starts",
        f"Take AWS's own key: `aws ec2 reset-ebs-default-kms-key-id --region {account.region_name}`",
    )


def check_public_access(plan: StackPlan) -> Iterable[Finding]:
    """Find out whether EC2 blocks the traffic of internet gateways in the whole region.

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
    """Find out whether SES sends the codes of sign-up to every address.

    https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_GetAccount.html
    """
    sender = plan.parameters["SenderArn"]
    if not sender or plan.parameters["CreateUserPool"] in OFF:
        return
    region = sender.split(":")[3]
    if region != plan.account.region_name:
        yield Finding(Level.WARNING, f"cannot tell: SES of the sender is in {region}, another region")
    elif plan.account.ses.get_account()["ProductionAccessEnabled"]:
        yield Finding(Level.OK, f"SES in {region} sends to every address")
    else:
        words = f"SES in {region} is in the sandbox, and sends codes to verified addresses only"
        yield Finding(Level.WARNING, words, "Ask for production access in the console of SES")


CHECKS: Mapping[str, Check] = {
    "rights": check_rights,
    "region": check_region,
    "quota": check_quota,
    "disk key": check_disk_key,
    "public access": check_public_access,
    "names": check_names,
    "mail": check_mail,
}
