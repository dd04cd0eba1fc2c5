"""The resources of a prefix outside its stack, type by type: how they are found and deleted.

CloudFormation deletes the resources of the stack. Each service is read for the rest: the Resource Groups Tagging API
lags, and returns deleted resources too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from scripts.aws.buckets import delete_bucket
from scripts.aws.context import TAG, AwsAccount, AwsContext
from scripts.aws.instances import instances_named, instances_tagged, web_name, worker_name

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.type_defs import UserPoolTypeTypeDef
    from mypy_boto3_ec2.type_defs import FilterTypeDef

LOG_GROUPS = ("web", "controller", "worker")

DELETE_SECONDS = 600.0
"""The longest wait until a resource is no longer used, and until a deleted one no longer exists."""

IN_USE_CODES = {
    "DependencyViolation", "InvalidSnapshot.InUse", "OperationAborted", "ResourceInUseException", "VolumeInUse",
}  # fmt: skip
"""Error codes of a resource that another one, which is being deleted, still uses."""


@dataclass(frozen=True)
class ResourceType:
    """A type of resource.

    Attributes:
        name: of the type, for the user.
        find: returns the ids, or names, of the resources that carry a prefix's tag.
        delete: begins to delete a resource by its id.
        data: whether it holds users' data, which is kept unless the user deletes it explicitly.
    """

    name: str
    find: Callable[[AwsAccount, str], list[str]]
    delete: Callable[[AwsAccount, str], object]
    data: bool = False

    def delete_all(self, context: AwsContext) -> None:
        """Delete all resources of this type, and wait until they no longer exist.

        Raises:
            TimedOutError: one still exists after ten minutes.
        """
        account, prefix, waiter = context.account, context.prefix, context.waiter
        found = self.find(account, prefix)
        for one in found:
            what = f"the {self.name} {one} to be deleted, which something may still use"
            waiter.until(lambda one=one: self._begin(account, one), what, seconds=DELETE_SECONDS)  # type: ignore[misc]
            context.report_change(f"deleted the {self.name} {one}")
        if found:
            gone = f"every {self.name} to be gone"
            waiter.until(lambda: not self.find(account, prefix), gone, seconds=DELETE_SECONDS)

    def _begin(self, account: AwsAccount, one: str) -> bool:
        """Begin to delete a resource; return False while another resource uses it."""
        try:
            self.delete(account, one)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in IN_USE_CODES:
                return False
            # An earlier run of the command may have deleted it.
            if "NotFound" not in code and "NoSuch" not in code:
                raise
        return True


def _tag_filter(prefix: str) -> "list[FilterTypeDef]":
    return [{"Name": f"tag:{TAG}", "Values": [prefix]}]


def _instances(account: AwsAccount, prefix: str) -> list[str]:
    own = [*instances_named(account, web_name(prefix), worker_name(prefix)), *instances_tagged(account, prefix)]
    return sorted({each.instance_id for each in own})


def _images(account: AwsAccount, prefix: str) -> list[str]:
    pages = account.ec2.get_paginator("describe_images").paginate(Owners=["self"], Filters=_tag_filter(prefix))
    return [each["ImageId"] for page in pages for each in page["Images"]]


def _snapshots(account: AwsAccount, prefix: str) -> list[str]:
    pages = account.ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=_tag_filter(prefix))
    return [each["SnapshotId"] for page in pages for each in page["Snapshots"]]


def _volumes(account: AwsAccount, prefix: str) -> list[str]:
    pages = account.ec2.get_paginator("describe_volumes").paginate(Filters=_tag_filter(prefix))
    # EC2 deletes the volumes of terminated instances itself.
    return [each["VolumeId"] for page in pages for each in page["Volumes"] if each["State"] != "deleting"]


def _security_groups(account: AwsAccount, prefix: str) -> list[str]:
    pages = account.ec2.get_paginator("describe_security_groups").paginate(Filters=_tag_filter(prefix))
    return [each["GroupId"] for page in pages for each in page["SecurityGroups"]]


def _parameters(account: AwsAccount, prefix: str) -> list[str]:
    # By the tag: a certificate that a user has stored under our prefix is the user's.
    pages = account.ssm.get_paginator("describe_parameters").paginate(
        ParameterFilters=[{"Key": f"tag:{TAG}", "Values": [prefix]}]
    )
    return [each["Name"] for page in pages for each in page["Parameters"]]


def _log_groups(account: AwsAccount, prefix: str) -> list[str]:
    # By their names: the last lines of an instance create a group again, without a tag.
    ours = {f"/{prefix}/{each}" for each in LOG_GROUPS}
    pages = account.logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"/{prefix}/")
    return [each["logGroupName"] for page in pages for each in page["logGroups"] if each["logGroupName"] in ours]


def kept_buckets(account: AwsAccount, prefix: str) -> list[str]:
    """Return the names that the stack gives to the buckets of images, results, models and access logs."""
    return [f"{prefix}-{each}-{account.id}-{account.region_name}" for each in ("input", "output", "models", "logs")]


def _buckets(account: AwsAccount, prefix: str, *, data: bool) -> list[str]:
    """Return the buckets of this prefix in this region that hold data, or all others."""
    found, kept = [], kept_buckets(account, prefix)
    for each in account.s3.list_buckets()["Buckets"]:
        name = each["Name"]
        # All our names end with the region.
        is_ours = name.startswith(f"{prefix}-") and name.endswith(f"-{account.region_name}")
        if not is_ours or (name in kept) != data:
            continue
        try:
            tags = account.s3.get_bucket_tagging(Bucket=name)["TagSet"]
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"NoSuchTagSet", "NoSuchBucket"}:
                raise
            continue
        if {"Key": TAG, "Value": prefix} in tags:
            found.append(name)
    return found


def job_tables(account: AwsAccount, prefix: str) -> list[str]:
    """Return the stack's table and those that were restored from it."""
    own = f"{prefix}-jobs"
    pages = account.dynamodb.get_paginator("list_tables").paginate()
    names = [name for page in pages for name in page["TableNames"]]
    ours = [name for name in names if name == own or name.startswith(f"{own}-restored-")]
    return [name for name in ours if _has_tag(account, name, prefix)]


def _has_tag(account: AwsAccount, table: str, prefix: str) -> bool:
    try:
        arn = account.dynamodb.describe_table(TableName=table)["Table"]["TableArn"]
        tags = account.dynamodb.list_tags_of_resource(ResourceArn=arn).get("Tags", [])
    except account.dynamodb.exceptions.ResourceNotFoundException:
        return False  # deleted meanwhile
    return {"Key": TAG, "Value": prefix} in tags


def _delete_table(account: AwsAccount, one: str) -> None:
    if account.dynamodb.describe_table(TableName=one)["Table"].get("DeletionProtectionEnabled"):
        account.dynamodb.update_table(TableName=one, DeletionProtectionEnabled=False)
    account.dynamodb.delete_table(TableName=one)


def user_pools(account: AwsAccount, prefix: str) -> "list[UserPoolTypeTypeDef]":
    """Return Cognito's description of each user pool with the prefix as its name and its tag."""
    pages = account.cognito.get_paginator("list_user_pools").paginate(PaginationConfig={"PageSize": 60})
    ids = [each["Id"] for page in pages for each in page["UserPools"] if each["Name"] == prefix]
    pools = [account.cognito.describe_user_pool(UserPoolId=each)["UserPool"] for each in ids]
    return [each for each in pools if each.get("UserPoolTags", {}).get(TAG) == prefix]


def delete_user_pool(account: AwsAccount, one: str) -> None:
    """Delete a user pool with its accounts."""
    # The pool is protected from deletion, and cannot be deleted with a domain, which a failed stack leaves.
    # UpdateUserPool resets all that it does not name: the call names the tags, so that a run after a crash between
    # these calls finds the pool again.
    pool = account.cognito.describe_user_pool(UserPoolId=one)["UserPool"]
    tags = pool.get("UserPoolTags", {})
    account.cognito.update_user_pool(UserPoolId=one, DeletionProtection="INACTIVE", UserPoolTags=tags)
    if domain := pool.get("Domain"):
        account.cognito.delete_user_pool_domain(Domain=domain, UserPoolId=one)
    account.cognito.delete_user_pool(UserPoolId=one)


RESOURCE_TYPES = (
    ResourceType("instance", _instances, lambda account, one: account.ec2.terminate_instances(InstanceIds=[one])),
    ResourceType("image", _images, lambda account, one: account.ec2.deregister_image(ImageId=one)),
    ResourceType("snapshot", _snapshots, lambda account, one: account.ec2.delete_snapshot(SnapshotId=one)),
    ResourceType("volume", _volumes, lambda account, one: account.ec2.delete_volume(VolumeId=one)),
    ResourceType(
        "security group", _security_groups, lambda account, one: account.ec2.delete_security_group(GroupId=one)
    ),
    ResourceType("parameter", _parameters, lambda account, one: account.ssm.delete_parameter(Name=one)),
    ResourceType("log group", _log_groups, lambda account, one: account.logs.delete_log_group(logGroupName=one)),
    ResourceType("bucket", partial(_buckets, data=False), delete_bucket),
    ResourceType("bucket of data", partial(_buckets, data=True), delete_bucket, data=True),
    ResourceType("job table", job_tables, _delete_table, data=True),
    ResourceType(
        "user pool",
        lambda account, prefix: [each["Id"] for each in user_pools(account, prefix)],
        delete_user_pool,
        data=True,
    ),
)
"""In the order in which they can be deleted."""
