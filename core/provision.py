"""Provisioning of the resources in the configuration: buckets, queues with their redrive, and the job table.

For the local cloud and for tests; on AWS the stack creates them, with encryption, lifecycle and policies. All
functions are idempotent: existing resources stay, and existing queues get the configured attributes.
"""

import json
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from core.config import Config
from services.clients import Clients
from services.table import EXPIRES_AT

if TYPE_CHECKING:
    from mypy_boto3_s3.literals import BucketLocationConstraintType
    from mypy_boto3_s3.type_defs import CORSRuleTypeDef
    from mypy_boto3_sqs.literals import QueueAttributeNameType

_BUCKET_EXISTS = "BucketAlreadyOwnedByYou"
_OTHER_ATTRIBUTES = frozenset({"QueueAlreadyExists", "QueueNameExists", "AWS.SimpleQueueService.QueueNameExists"})
"""Codes of SQS if a queue exists with other attributes, from an earlier configuration."""
_TABLE_EXISTS = "ResourceInUseException"


def provision(clients: Clients, config: Config) -> None:
    """Create every bucket, queue and table in `config` that does not exist."""
    for bucket in sorted(config.names.buckets):
        _create_bucket(clients, bucket)
    web, own = config.web, list[str]()
    if web.direct_uploads:
        own = [f"http://{host}:{web.port}" for host in ("127.0.0.1", "localhost")]
    if origins := [*web.cors_origins, *own]:  # pages of these sites may send signed forms, as with the stack
        rule: CORSRuleTypeDef = {
            "AllowedMethods": ["POST"],
            "AllowedOrigins": origins,
            "AllowedHeaders": ["*"],
        }
        clients.s3.put_bucket_cors(Bucket=config.names.input_bucket, CORSConfiguration={"CORSRules": [rule]})
    _create_queues(clients, config)
    provision_table(clients, config)


def _create_bucket(clients: Clients, name: str) -> None:
    region = clients.endpoint.region
    try:
        if region == "us-east-1":  # which S3 does not accept as a location
            clients.s3.create_bucket(Bucket=name)
        else:
            place: BucketLocationConstraintType = region  # type: ignore[assignment]  # the configuration's, any
            clients.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": place})
    except ClientError as error:
        # Only us-east-1 accepts the creation of a bucket that exists.
        if error.response["Error"]["Code"] != _BUCKET_EXISTS:
            raise


def _create_queues(clients: Clients, config: Config) -> None:
    dead_letters = _create_queue(clients, config, config.names.dead_letter_queue, {})
    _create_queue(clients, config, config.names.response_queue, {})
    reply = clients.sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])
    redrive = {
        "deadLetterTargetArn": reply["Attributes"]["QueueArn"],
        "maxReceiveCount": config.queues.max_receive_count,
    }
    _create_queue(clients, config, config.names.request_queue, {"RedrivePolicy": json.dumps(redrive)})


def _create_queue(clients: Clients, config: Config, name: str, more: "dict[QueueAttributeNameType, str]") -> str:
    attributes: dict[QueueAttributeNameType, str] = {
        "VisibilityTimeout": str(config.queues.visibility_timeout_seconds),
        "MaximumMessageSize": str(config.queues.max_message_bytes),
        **more,
    }
    if config.queues.kind == "fifo":
        attributes |= {"FifoQueue": "true", "ContentBasedDeduplication": "false"}
    queue = config.queue_name(name)
    try:
        return clients.sqs.create_queue(QueueName=queue, Attributes=attributes)["QueueUrl"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in _OTHER_ATTRIBUTES:
            raise
    url = clients.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    attributes.pop("FifoQueue", None)  # no call changes it
    clients.sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)
    return url


def provision_table(clients: Clients, config: Config) -> None:
    """Create the job table unless it exists, and wait until it is active."""
    table = config.names.job_table
    try:
        clients.dynamodb.create_table(
            TableName=table,
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != _TABLE_EXISTS:
            raise
    clients.dynamodb.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    # DynamoDB refuses to enable what is enabled.
    status = clients.dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]["TimeToLiveStatus"]
    if status in {"DISABLED", "DISABLING"}:
        clients.dynamodb.update_time_to_live(
            TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": EXPIRES_AT}
        )
