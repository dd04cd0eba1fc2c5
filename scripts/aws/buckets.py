"""Buckets: whether one exists, its deletion with all its objects, and the bucket of the bake.

Source archives go through the bake's bucket to builders, and their reports return. Builders have no role: they use
presigned URLs, each valid for one object and an hour.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from scripts.aws.bake.spec import SourceArchive
from scripts.aws.context import TAG, AwsAccount, AwsContext

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CreateBucketRequestTypeDef

SIGNED_SECONDS = 3600
"""Lifetime of a presigned URL."""

EXPIRY_DAYS = 1
"""Age at which the bucket deletes its objects."""

BUCKET_SECONDS = 3600.0
"""The longest wait until S3 releases the name of a deleted bucket."""

NOT_FOUND = {"404", "NoSuchBucket", "NoSuchKey", "NotFound"}


def bucket_exists(account: AwsAccount, bucket: str) -> bool:
    """Return whether a bucket of this name exists in this account."""
    # Another account may own the name, and must not receive our data.
    return _exists(lambda: account.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account.id))


def _exists(head: Callable[[], object]) -> bool:
    try:
        head()
    except ClientError as error:
        if error.response["Error"]["Code"] in NOT_FOUND:
            return False
        raise
    return True


def empty_bucket(account: AwsAccount, bucket: str) -> int:
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


def delete_bucket(account: AwsAccount, bucket: str) -> None:
    """Empty a bucket and delete it, if it exists."""
    if bucket_exists(account, bucket):
        empty_bucket(account, bucket)
        account.s3.delete_bucket(Bucket=bucket)


def source_key(source: SourceArchive) -> str:
    """Return the key of a source archive, which its content determines."""
    return f"source/{source.facts.sha256}.tar.gz"


def report_key(role: str, run: str) -> str:
    """Return the key of the report of a run's builder."""
    return f"{role}/{run}.json"


def log_key(role: str, run: str) -> str:
    """Return the key of the log of a run's builder."""
    return f"{role}/{run}.log"


def ensure_bucket(context: AwsContext) -> None:
    """Create the bucket unless it exists; in any case make it private, encrypted and accessible by TLS only."""
    s3, bucket = context.account.s3, context.bake_bucket
    if not bucket_exists(context.account, bucket):
        asked: CreateBucketRequestTypeDef = {"Bucket": bucket, "ObjectOwnership": "BucketOwnerEnforced"}
        if context.account.region_name != "us-east-1":  # S3 does not accept us-east-1 as a location
            asked["CreateBucketConfiguration"] = {"LocationConstraint": context.account.region_name}  # type: ignore[typeddict-item]
        what = f"S3 to free the name of the deleted bucket {bucket}, which takes it up to an hour; try again then"
        context.waiter.until(lambda: _create_bucket(context, asked), what, seconds=BUCKET_SECONDS, every=10.0)
        context.report_change(f"made the bucket {bucket}")
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": TAG, "Value": context.prefix}]})
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    s3.put_bucket_encryption(
        Bucket=bucket,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
        },
    )
    s3.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "nothing-stays",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "Expiration": {"Days": EXPIRY_DAYS},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": EXPIRY_DAYS},
                }
            ]
        },
    )
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(_tls_only_policy(context.account.partition, bucket)))
    context.report_change(f"closed the bucket {bucket} to everybody else")


def _create_bucket(context: AwsContext, asked: "CreateBucketRequestTypeDef") -> bool:
    """Make the bucket; return False while S3 is busy with one of this name that was deleted a moment ago.

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, OperationAborted
    """
    try:
        context.account.s3.create_bucket(**asked)
    except ClientError as error:
        if error.response["Error"]["Code"] != "OperationAborted":
            raise
        return False
    return True


def _tls_only_policy(partition: str, bucket: str) -> dict[str, object]:
    everything = [f"arn:{partition}:s3:::{bucket}", f"arn:{partition}:s3:::{bucket}/*"]
    refused = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": everything}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": "OnlyOverTls", **refused, "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
            {"Sid": "OnlyOverTls12OrNewer", **refused, "Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}}},
        ],
    }


def upload_source(context: AwsContext, source: SourceArchive) -> None:
    """Upload the source archive to the bucket, unless it is there already."""
    key = source_key(source)
    s3, bucket = context.account.s3, context.bake_bucket
    if not _exists(lambda: s3.head_object(Bucket=bucket, Key=key)):
        s3.upload_file(str(source.path), bucket, key)
        size = source.path.stat().st_size / 2**20
        context.report_change(f"uploaded the source archive {source.facts.sha256[:12]} ({size:.0f} MB)")


def presigned_url(context: AwsContext, method: str, key: str) -> str:
    """Return a URL that allows `method`, which is get_object or put_object, on this object for an hour."""
    return context.account.s3.generate_presigned_url(
        method, Params={"Bucket": context.bake_bucket, "Key": key}, ExpiresIn=SIGNED_SECONDS
    )


def read_object(context: AwsContext, key: str) -> bytes | None:
    """Return an object's content, or None if it does not exist."""
    try:
        return context.account.s3.get_object(Bucket=context.bake_bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in NOT_FOUND:
            return None
        raise


def delete_objects(context: AwsContext, *prefixes: str) -> None:
    """Delete all objects under these prefixes, if the bucket exists."""
    if not bucket_exists(context.account, context.bake_bucket):
        return
    for prefix in prefixes:
        pages = context.account.s3.get_paginator("list_objects_v2").paginate(
            Bucket=context.bake_bucket, Prefix=prefix
        )
        for page in pages:
            for entry in page.get("Contents", []):
                context.account.s3.delete_object(Bucket=context.bake_bucket, Key=entry["Key"])
                context.report_change(f"deleted {entry['Key']} of the bucket {context.bake_bucket}")
