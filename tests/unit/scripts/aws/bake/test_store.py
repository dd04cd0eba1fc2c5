"""The bucket of a bake, against S3's answers."""

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from scripts.aws.account import Account
from scripts.aws.buckets import ensure_bucket
from scripts.aws.context import AwsContext, TimedOutError
from tests.support.aws_stage import Time
from tests.support.stubs import stubbed


def context(s3: Stubber, done: list[str]) -> AwsContext:
    """A site with an account of which S3 and its own number are asked."""
    account = Account("us-east-1", _clients={"s3": s3.client})
    account.__dict__["id"] = "123456789012"  # known already
    return AwsContext(account, "fs", done.append, Time(pause=0).waiter)


def refuse(s3: Stubber, code: str) -> None:
    s3.add_client_error("create_bucket", code, http_status_code=409)


def test_a_name_that_s3_has_not_freed_yet_is_waited_for() -> None:
    done = list[str]()
    with stubbed("s3") as s3:
        s3.add_client_error("head_bucket", "404")
        for _ in range(3):
            refuse(s3, "OperationAborted")
        for call in (
            "create_bucket",
            "put_bucket_tagging",
            "put_public_access_block",
            "put_bucket_encryption",
            "put_bucket_lifecycle_configuration",
            "put_bucket_policy",
        ):
            s3.add_response(call, {})
        ensure_bucket(context(s3, done))
    assert done[0] == "made the bucket fs-bake-123456789012-us-east-1"


def test_it_is_given_up_after_an_hour_with_the_remedy() -> None:
    with stubbed("s3") as s3:
        s3.add_client_error("head_bucket", "404")
        for _ in range(361):
            refuse(s3, "OperationAborted")
        with pytest.raises(TimedOutError, match=r"free the name of the deleted bucket .*; try again then"):
            ensure_bucket(context(s3, []))


def test_a_name_that_another_account_has_is_not_waited_for() -> None:
    with stubbed("s3") as s3:
        s3.add_client_error("head_bucket", "404")
        refuse(s3, "BucketAlreadyExists")
        with pytest.raises(ClientError, match="BucketAlreadyExists"):
            ensure_bucket(context(s3, []))
