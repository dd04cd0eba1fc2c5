"""What people have entrusted: images, results, jobs, accounts. The stack leaves it when it is deleted."""

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from scripts.aws.account import TAG, Account
from scripts.aws.buckets import delete_bucket
from scripts.aws.teardown.belongings.kind import Kind

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.type_defs import UserPoolTypeTypeDef


def kept_buckets(account: Account, prefix: str) -> list[str]:
    """Return the names that the stack gives to the buckets of images and of results."""
    return [f"{prefix}-{each}-{account.id}-{account.region_name}" for each in ("input", "output")]


def tagged_buckets(account: Account, prefix: str) -> list[str]:
    """Return all buckets of this prefix in this region, of which names of all of them end with it."""
    names = [each["Name"] for each in account.s3.list_buckets()["Buckets"]]
    ours = [each for each in names if each.startswith(f"{prefix}-") and each.endswith(f"-{account.region_name}")]
    return [each for each in ours if _tag_of_bucket(account, each) == prefix]


def _tag_of_bucket(account: Account, bucket: str) -> str | None:
    try:
        tags = account.s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchTagSet", "NoSuchBucket"}:
            return None
        raise
    return next((each["Value"] for each in tags if each["Key"] == TAG), None)


def _buckets(account: Account, prefix: str) -> list[str]:
    return [each for each in tagged_buckets(account, prefix) if each in kept_buckets(account, prefix)]


def _tables(account: Account, prefix: str) -> list[str]:
    name = f"{prefix}-jobs"
    try:
        table = account.dynamodb.describe_table(TableName=name)["Table"]
    except account.dynamodb.exceptions.ResourceNotFoundException:
        return []
    tags = account.dynamodb.list_tags_of_resource(ResourceArn=table["TableArn"]).get("Tags", [])
    return [name] if {"Key": TAG, "Value": prefix} in tags else []


def _delete_table(account: Account, one: str) -> None:
    if account.dynamodb.describe_table(TableName=one)["Table"].get("DeletionProtectionEnabled"):
        account.dynamodb.update_table(TableName=one, DeletionProtectionEnabled=False)
    account.dynamodb.delete_table(TableName=one)


def user_pools(account: Account, prefix: str) -> "list[UserPoolTypeTypeDef]":
    """Return what Cognito says of each user pool that carries the prefix as its name and its tag."""
    pages = account.cognito.get_paginator("list_user_pools").paginate(PaginationConfig={"PageSize": 60})
    ids = [each["Id"] for page in pages for each in page["UserPools"] if each["Name"] == prefix]
    pools = [account.cognito.describe_user_pool(UserPoolId=each)["UserPool"] for each in ids]
    return [each for each in pools if each.get("UserPoolTags", {}).get(TAG) == prefix]


def _pools(account: Account, prefix: str) -> list[str]:
    return [each["Id"] for each in user_pools(account, prefix)]


def delete_user_pool(account: Account, one: str) -> None:
    """Delete a user pool with its accounts."""
    # It is protected, so that only this deletes it. What such a call does not name becomes the default: its tags, by
    # which it is found when this has died in between, must not.
    tags = account.cognito.describe_user_pool(UserPoolId=one)["UserPool"].get("UserPoolTags", {})
    account.cognito.update_user_pool(UserPoolId=one, DeletionProtection="INACTIVE", UserPoolTags=tags)
    account.cognito.delete_user_pool(UserPoolId=one)


DATA = (
    Kind("bucket of images or results", _buckets, delete_bucket, data=True),
    Kind("job table", _tables, _delete_table, data=True),
    Kind("user pool", _pools, delete_user_pool, data=True),
)
