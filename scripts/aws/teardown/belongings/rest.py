"""What a prefix has besides: parameters, log groups, buckets; and what the stack alone makes and deletes."""

from botocore.exceptions import ClientError

from scripts.aws.account import TAG, Account
from scripts.aws.buckets import delete_bucket
from scripts.aws.teardown.belongings.data import kept_buckets, tagged_buckets
from scripts.aws.teardown.belongings.kind import Kind

LOGS = ("web", "controller", "worker")


def _parameters(account: Account, prefix: str) -> list[str]:
    # By the tag: a certificate that somebody has put there under our prefix is theirs.
    pages = account.ssm.get_paginator("describe_parameters").paginate(
        ParameterFilters=[{"Key": f"tag:{TAG}", "Values": [prefix]}]
    )
    return [each["Name"] for page in pages for each in page["Parameters"]]


def _log_groups(account: Account, prefix: str) -> list[str]:
    # By their names: what an instance writes at the last makes a group anew, without a tag.
    ours = {f"/{prefix}/{each}" for each in LOGS}
    pages = account.logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"/{prefix}/")
    return [each["logGroupName"] for page in pages for each in page["logGroups"] if each["logGroupName"] in ours]


def _buckets(account: Account, prefix: str) -> list[str]:
    return [each for each in tagged_buckets(account, prefix) if each not in kept_buckets(account, prefix)]


def _queues(account: Account, prefix: str) -> list[str]:
    pages = account.sqs.get_paginator("list_queues").paginate(QueueNamePrefix=f"{prefix}-")
    urls = [url for page in pages for url in page.get("QueueUrls", [])]
    return [url for url in urls if account.sqs.list_queue_tags(QueueUrl=url).get("Tags", {}).get(TAG) == prefix]


def _roles(account: Account, prefix: str) -> list[str]:
    pages = account.iam.get_paginator("list_roles").paginate()
    names = [
        each["RoleName"] for page in pages for each in page["Roles"] if each["RoleName"].startswith(f"{prefix}-")
    ]
    ours = {"Key": TAG, "Value": prefix}
    return [name for name in names if ours in account.iam.list_role_tags(RoleName=name)["Tags"]]


def _distributions(account: Account, prefix: str) -> list[str]:
    # Each is asked itself: a list has no tags, and the tagging API knows of them in us-east-1 only.
    pages = account.cloudfront.get_paginator("list_distributions").paginate()
    found = [each for page in pages for each in page["DistributionList"].get("Items", [])]
    return [each["Id"] for each in found if _tag_of_distribution(account, each["ARN"]) == prefix]


def _tag_of_distribution(account: Account, arn: str) -> str | None:
    try:
        tags = account.cloudfront.list_tags_for_resource(Resource=arn)["Tags"].get("Items", [])
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchDistribution", "NoSuchResource"}:
            return None  # it has gone meanwhile
        raise
    return next((each.get("Value") for each in tags if each["Key"] == TAG), None)


def _delete_parameter(account: Account, one: str) -> None:
    account.ssm.delete_parameter(Name=one)


def _delete_log_group(account: Account, one: str) -> None:
    account.logs.delete_log_group(logGroupName=one)


REST = (
    Kind("parameter", _parameters, _delete_parameter),
    Kind("log group", _log_groups, _delete_log_group),
    Kind("bucket", _buckets, delete_bucket),
)

STACK_ONLY = (Kind("queue", _queues), Kind("role", _roles), Kind("distribution", _distributions))
