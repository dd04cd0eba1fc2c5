"""Buckets of any kind: whether one exists, and its deletion with all its objects."""

from botocore.exceptions import ClientError

from scripts.aws.account import Account

NO_BUCKET = {"404", "NoSuchBucket", "NotFound"}


def bucket_exists(account: Account, bucket: str) -> bool:
    """Return whether a bucket of this name exists in this account."""
    try:
        # Another account may own the name, and must not receive our data.
        account.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account.id)
    except ClientError as error:
        if error.response["Error"]["Code"] in NO_BUCKET:
            return False
        raise
    return True


def empty_bucket(account: Account, bucket: str) -> int:
    """Delete all objects of a bucket, old versions and unfinished uploads too, and return the number of objects."""
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
    """Empty a bucket and delete it, if it exists."""
    if bucket_exists(account, bucket):
        empty_bucket(account, bucket)
        account.s3.delete_bucket(Bucket=bucket)
