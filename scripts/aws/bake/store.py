"""The bucket that a bake passes through: the source archive on its way to builders, their reports on their way back.

Builders have no role. They fetch and put by signed addresses, each good for one object and an hour.
"""

import json
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from scripts.aws.account import TAG
from scripts.aws.bake.recipe import Site, Source
from scripts.aws.buckets import exists

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CreateBucketRequestTypeDef

SIGNED_SECONDS = 3600
EXPIRY_DAYS = 1
NAME_SECONDS = 3600.0
GONE = {"404", "NoSuchBucket", "NoSuchKey", "NotFound"}


def source_key(source: Source) -> str:
    """Return where a source archive lies: archives are told apart by what is in them."""
    return f"source/{source.facts.sha256}.tar.gz"


def report_key(role: str, run: str) -> str:
    """Return where the builder of that run puts its report."""
    return f"{role}/{run}.json"


def log_key(role: str, run: str) -> str:
    """Return where it puts its log."""
    return f"{role}/{run}.log"


def provide_bucket(site: Site) -> None:
    """Make the bucket, unless it is there; and private, encrypted and TLS only, whether or not it was."""
    s3, bucket = site.account.s3, site.bucket
    if not exists(site.account, bucket):
        asked: CreateBucketRequestTypeDef = {"Bucket": bucket, "ObjectOwnership": "BucketOwnerEnforced"}
        if site.account.region_name != "us-east-1":  # which S3 does not know as a place
            asked["CreateBucketConfiguration"] = {"LocationConstraint": site.account.region_name}  # type: ignore[typeddict-item]
        what = f"S3 to free the name of the deleted bucket {bucket}, which takes it up to an hour; try again then"
        site.waiting.until(lambda: _is_made(site, asked), what, seconds=NAME_SECONDS, every=10.0)
        site.done(f"made the bucket {bucket}")
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": TAG, "Value": site.prefix}]})
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
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(_only_over_tls(bucket)))
    site.done(f"closed the bucket {bucket} to everybody else")


def _is_made(site: Site, asked: "CreateBucketRequestTypeDef") -> bool:
    """Make the bucket; return False while S3 is busy with one of this name that was deleted a moment ago.

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, OperationAborted
    """
    try:
        site.account.s3.create_bucket(**asked)
    except ClientError as error:
        if error.response["Error"]["Code"] != "OperationAborted":
            raise
        return False
    return True


def _only_over_tls(bucket: str) -> dict[str, object]:
    everything = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    refused = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": everything}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": "OnlyOverTls", **refused, "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
            {"Sid": "OnlyOverTls12OrNewer", **refused, "Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}}},
        ],
    }


def upload(site: Site, source: Source) -> None:
    """Put the source archive into the bucket, unless it is there."""
    key = source_key(source)
    if not _has(site, key):
        site.account.s3.upload_file(str(source.path), site.bucket, key)
        size = source.path.stat().st_size / 2**20
        site.done(f"uploaded the source archive {source.facts.sha256[:12]} ({size:.0f} MB)")


def address(site: Site, method: str, key: str) -> str:
    """Return an address at which anybody may `get_object` or `put_object` this one object, for an hour."""
    return site.account.s3.generate_presigned_url(
        method, Params={"Bucket": site.bucket, "Key": key}, ExpiresIn=SIGNED_SECONDS
    )


def read(site: Site, key: str) -> bytes | None:
    """Return an object, or None where there is none."""
    try:
        return site.account.s3.get_object(Bucket=site.bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            return None
        raise


def remove(site: Site, *prefixes: str) -> None:
    """Delete all objects under these prefixes, if there is a bucket."""
    if not exists(site.account, site.bucket):
        return
    for prefix in prefixes:
        pages = site.account.s3.get_paginator("list_objects_v2").paginate(Bucket=site.bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents", []):
                site.account.s3.delete_object(Bucket=site.bucket, Key=entry["Key"])
                site.done(f"deleted {entry['Key']} of the bucket {site.bucket}")


def _has(site: Site, key: str) -> bool:
    try:
        site.account.s3.head_object(Bucket=site.bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            return False
        raise
    return True
