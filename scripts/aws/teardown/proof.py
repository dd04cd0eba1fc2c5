"""Proof that nothing of a prefix is left: services are asked for each kind, then for what the tagging API lists."""

import re
from collections.abc import Callable, Mapping

from botocore.exceptions import ClientError

from scripts.aws.account import TAG, Account
from scripts.aws.deploy.stacks import find
from scripts.aws.operation import Operation
from scripts.aws.teardown.belongings import KINDS
from scripts.aws.waiting import TimedOutError
from services.errors import FleetsightError

GONE_SECONDS = 600.0
"""Longest time until services no longer know what has been deleted, and the tagging API no longer lists the rest."""

ASKED_THEMSELVES = (
    "cloudformation:stack", "cognito-idp:userpool", "dynamodb:table", "ec2:image", "ec2:instance",
    "ec2:security-group", "ec2:snapshot", "ec2:volume", "logs:log-group", "s3:", "ssm:parameter",
)  # fmt: skip
"""Types that are in `KINDS` or are the stack."""

TAGS_OF: Mapping[str, Callable[[Account, str], object]] = {
    "autoscaling": lambda account, arn: account.autoscaling.describe_tags(
        Filters=[{"Name": "auto-scaling-group", "Values": [_name(arn)]}]
    )["Tags"],
    "cloudfront": lambda account, arn: account.cloudfront.list_tags_for_resource(Resource=arn)["Tags"].get("Items"),
    "cloudwatch": lambda account, arn: account.cloudwatch.list_tags_for_resource(ResourceARN=arn)["Tags"],
    "ec2": lambda account, arn: account.ec2.describe_tags(
        Filters=[{"Name": "resource-id", "Values": [_name(arn)]}, {"Name": "key", "Values": [TAG]}]
    )["Tags"],
    "elasticloadbalancing": lambda account, arn: account.elbv2.describe_tags(ResourceArns=[arn])["TagDescriptions"],
    "sns": lambda account, arn: account.sns.list_tags_for_resource(ResourceArn=arn)["Tags"],
    "sqs": lambda account, arn: account.sqs.get_queue_url(QueueName=_name(arn))["QueueUrl"],
}
"""Asks the service of an ARN for its tags; if the resource does not exist, the result is empty or an error."""

_MISSING = ("NotFound", "NoSuch", "NonExistent", "DoesNotExist")
"""Parts of the error codes that say that a resource does not exist."""


class ResourcesLeftError(FleetsightError):
    """Raised when something is left that should be gone; the message names each thing."""


def prove(operation: Operation, *, with_data: bool) -> None:
    """Look everywhere for what is left.

    Raises:
        ResourcesLeftError: there is something.
    """
    account, prefix = operation.account, operation.prefix
    left = [
        f"{kind.name} {one}" for kind in KINDS if with_data or not kind.data for one in kind.find(account, prefix)
    ]
    if (stack := find(account, prefix)) is not None:
        left.append(f"stack {stack.name}, {stack.status}")
    left += _still_tagged(operation)
    if left:
        listed = "".join(f"\n  {each}" for each in left)
        raise ResourcesLeftError(
            f"of {prefix} there is left:{listed}\nrun this again; if it stays, delete it by hand"
        )
    operation.say(f"Nothing that carries the tag {TAG}={prefix} is left" + ("." if with_data else ", but data."))


def _still_tagged(operation: Operation) -> list[str]:
    """Return what the tagging API lists and the service of each still knows, after a bounded wait.

    The tagging API returns "tagged or previously tagged resources". A resource counts as long as it is listed if its
    service cannot be asked.
    https://docs.aws.amazon.com/resourcegroupstagging/latest/APIReference/API_GetResources.html
    """
    left: list[str] = []

    def nothing() -> bool:
        left[:] = [arn for arn in _listed(operation) if _exists(operation.account, arn)]
        return not left

    try:
        operation.waiting.until(nothing, "the last tagged resources to be deleted", seconds=GONE_SECONDS)
    except TimedOutError:
        operation.say(f"Some tagged resources still exist after {GONE_SECONDS:.0f} s.")
    except ClientError as error:
        operation.say(f"The tagging API cannot be asked ({error}); the services themselves have been.")
    return left


def _listed(operation: Operation) -> list[str]:
    """Return the ARNs that the tagging API lists, without the types that were asked for themselves."""
    pages = operation.account.tagging.get_paginator("get_resources").paginate(
        TagFilters=[{"Key": TAG, "Values": [operation.prefix]}]
    )
    arns = [each["ResourceARN"] for page in pages for each in page["ResourceTagMappingList"]]
    return [each for each in arns if not _type(each).startswith(ASKED_THEMSELVES)]


def _exists(account: Account, arn: str) -> bool:
    """Return False if the resource's own service does not know it."""
    question = TAGS_OF.get(arn.split(":")[2])
    try:
        return question is None or bool(question(account, arn))
    except ClientError as error:
        return not any(part in error.response["Error"]["Code"] for part in _MISSING)


def _name(arn: str) -> str:
    """Return the last part of an ARN: the name or the id."""
    return re.split("[:/]", arn)[-1]


def _type(arn: str) -> str:
    """Return service and type, such as ec2:instance."""
    _, _, service, _, _, resource = arn.split(":", 5)
    return f"{service}:{resource.split('/', maxsplit=1)[0].split(':', maxsplit=1)[0]}"
