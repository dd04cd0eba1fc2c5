"""Proof that nothing of a prefix is left: every service is asked, and then the one that knows the tags of many."""

from botocore.exceptions import ClientError

from scripts.aws.account import TAG
from scripts.aws.deploy.stacks import find
from scripts.aws.operation import Operation
from scripts.aws.teardown.belongings import KINDS
from scripts.aws.waiting import TimedOutError
from services.errors import FleetsightError

LAG_SECONDS = 120.0
"""How long the tagging API may go on telling of what is gone."""

ASKED_THEMSELVES = (
    "cloudformation:stack", "cloudfront:distribution", "cognito-idp:userpool", "dynamodb:table", "ec2:image",
    "ec2:instance", "ec2:launch-template", "ec2:security-group", "ec2:snapshot", "ec2:volume", "iam:role",
    "logs:log-group", "s3:", "sqs:", "ssm:parameter",
)  # fmt: skip
"""Services, or types, that are asked themselves, and know better than the tagging API."""


class LeftBehindError(FleetsightError):
    """Raised when something is left that should be gone; the message names each thing."""


def prove(operation: Operation, *, with_data: bool) -> None:
    """Look everywhere for what is left.

    Raises:
        LeftBehindError: there is something.
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
        raise LeftBehindError(f"of {prefix} there is left:{listed}\nrun this again; if it stays, delete it by hand")
    operation.say(f"Nothing that carries the tag {TAG}={prefix} is left" + ("." if with_data else ", but data."))


def _still_tagged(operation: Operation) -> list[str]:
    """Return what the tagging API tells of, once it tells of nothing or has had time to forget."""
    told: list[str] = []

    def nothing() -> bool:
        told[:] = _elsewhere(operation)
        return not told

    try:
        operation.waiting.until(nothing, "the tagging API to tell of nothing", seconds=LAG_SECONDS)
    except TimedOutError:
        operation.say("The tagging API, which may lag by some minutes, still tells of something.")
    except ClientError as error:
        operation.say(f"The tagging API cannot be asked ({error}); the services themselves have been.")
    return told


def _elsewhere(operation: Operation) -> list[str]:
    """Return what the tagging API tells of, but what the services have been asked about themselves."""
    pages = operation.account.tagging.get_paginator("get_resources").paginate(
        TagFilters=[{"Key": TAG, "Values": [operation.prefix]}]
    )
    arns = [each["ResourceARN"] for page in pages for each in page["ResourceTagMappingList"]]
    return [each for each in arns if not _type(each).startswith(ASKED_THEMSELVES)]


def _type(arn: str) -> str:
    """Return service and type, such as ec2:instance."""
    _, _, service, _, _, resource = arn.split(":", 5)
    return f"{service}:{resource.split('/', maxsplit=1)[0].split(':', maxsplit=1)[0]}"
