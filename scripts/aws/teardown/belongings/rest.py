"""Parameters, log groups and buckets of a prefix that are outside the stack."""

from scripts.aws.account import TAG, Account
from scripts.aws.buckets import delete_bucket
from scripts.aws.teardown.belongings.data import kept_buckets, tagged_buckets
from scripts.aws.teardown.belongings.kind import Kind

LOGS = ("web", "controller", "worker")


def _parameters(account: Account, prefix: str) -> list[str]:
    # By the tag: a certificate that a user has put there under our prefix is the user's.
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


def _delete_parameter(account: Account, one: str) -> None:
    account.ssm.delete_parameter(Name=one)


def _delete_log_group(account: Account, one: str) -> None:
    account.logs.delete_log_group(logGroupName=one)


REST = (
    Kind("parameter", _parameters, _delete_parameter),
    Kind("log group", _log_groups, _delete_log_group),
    Kind("bucket", _buckets, delete_bucket),
)
