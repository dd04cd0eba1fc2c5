"""Buckets: whether one is there and ours, and how it is taken away, emptied of all that is in it first."""

from botocore.exceptions import ClientError

from scripts.aws.account import Account

GONE = {"404", "NoSuchBucket", "NotFound"}


def exists(account: Account, bucket: str) -> bool:
    """Return whether a bucket of that name is there, and this account's."""
    try:
        # Another account that has taken the name is not to be handed what is ours.
        account.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account.id)
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            return False
        raise
    return True


def empty_bucket(account: Account, bucket: str) -> int:
    """Delete all objects of a bucket, old versions and unfinished uploads too, and return how many those were."""
    for page in account.s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            account.s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    deleted = 0
    for versions in account.s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        found = [*versions.get("Versions", []), *versions.get("DeleteMarkers", [])]
        if found:
            objects = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found]
            reply = account.s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})  # type: ignore[typeddict-item]
            deleted += len(objects) - len(reply.get("Errors", []))
    return deleted


def delete_bucket(account: Account, bucket: str) -> None:
    """Empty a bucket and delete it, if it is there."""
    if exists(account, bucket):
        empty_bucket(account, bucket)
        account.s3.delete_bucket(Bucket=bucket)
