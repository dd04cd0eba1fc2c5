"""Buckets, tables and queues."""

import json
from typing import Any

from botocore.exceptions import ClientError

from services.embedded.stacks.kinds.absent import gone_is_good
from services.embedded.stacks.kinds.kind import Cloud, Made
from services.embedded.stacks.model import Resource


class Bucket:
    """``AWS::S3::Bucket``: with encryption, rules for the sites that may use it, and tags; the rest is noted."""

    fixed = frozenset({"BucketName"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make the bucket, then set it up."""
        name = resource.properties.get("BucketName") or cloud.name(resource.logical_id, 63).lower()
        region = cloud.place.region
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            cloud.call("s3", "create_bucket", Bucket=name, **where)
        except ClientError as error:
            cloud.adopt_if(error, resource, "BucketAlreadyOwnedByYou", "BucketName")
        self._set_up(cloud, name, resource.properties)
        attributes = {
            "Arn": f"arn:aws:s3:::{name}",
            "DomainName": f"{name}.s3.amazonaws.com",
            "RegionalDomainName": f"{name}.s3.{region}.amazonaws.com",
        }
        return Made(name, attributes)

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Set it up anew."""
        self._set_up(cloud, resource.physical_id, properties)
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it; one that is not empty is not deleted."""
        with gone_is_good():
            cloud.call("s3", "delete_bucket", Bucket=resource.physical_id)

    def _set_up(self, cloud: Cloud, name: str, wanted: dict[str, Any]) -> None:
        if access := wanted.get("PublicAccessBlockConfiguration"):
            cloud.call("s3", "put_public_access_block", Bucket=name, PublicAccessBlockConfiguration=access)
        if encryption := wanted.get("BucketEncryption"):
            rules = [
                {"ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"]}
                for rule in encryption["ServerSideEncryptionConfiguration"]
            ]
            cloud.call("s3", "put_bucket_encryption", Bucket=name, ServerSideEncryptionConfiguration={"Rules": rules})
        if cors := wanted.get("CorsConfiguration"):
            allowed = [_cors(rule) for rule in cors["CorsRules"]]
            cloud.call("s3", "put_bucket_cors", Bucket=name, CORSConfiguration={"CORSRules": allowed})
        else:
            cloud.call("s3", "delete_bucket_cors", Bucket=name)
        if tags := cloud.tag_list(wanted):
            cloud.call("s3", "put_bucket_tagging", Bucket=name, Tagging={"TagSet": tags})


def _cors(rule: dict[str, Any]) -> dict[str, Any]:
    names = {"Id": "ID", "MaxAge": "MaxAgeSeconds", "ExposedHeaders": "ExposeHeaders"}
    return {names.get(name, name): value for name, value in rule.items()}


class Table:
    """``AWS::DynamoDB::Table``: with its time to live and tags; other changes of it are noted."""

    fixed = frozenset({"TableName", "KeySchema", "AttributeDefinitions"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make the table, then let its items expire; one that is adopted stays as it is."""
        try:
            return self._create(cloud, resource)
        except ClientError as error:
            cloud.adopt_if(error, resource, "ResourceInUseException", "TableName")
        found = cloud.call("dynamodb", "describe_table", TableName=resource.properties["TableName"])["Table"]
        return Made(found["TableName"], {"Arn": found["TableArn"]})

    def _create(self, cloud: Cloud, resource: Resource) -> Made:
        wanted = resource.properties
        encryption = {"Enabled": True} if wanted.get("SSESpecification", {}).get("SSEEnabled") else None
        made = cloud.call(
            "dynamodb",
            "create_table",
            TableName=wanted.get("TableName") or cloud.name(resource.logical_id),
            AttributeDefinitions=wanted["AttributeDefinitions"],
            KeySchema=wanted["KeySchema"],
            BillingMode=wanted.get("BillingMode"),
            ProvisionedThroughput=wanted.get("ProvisionedThroughput"),
            SSESpecification=encryption,
            Tags=cloud.tag_list(wanted) or None,
        )["TableDescription"]
        self._let_expire(cloud, made["TableName"], {}, wanted)
        return Made(made["TableName"], {"Arn": made["TableArn"]})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change when its items expire, and its tags."""
        self._let_expire(cloud, resource.physical_id, resource.properties, properties)
        arn, before = resource.attributes["Arn"], cloud.all_tags(resource.properties)
        if tags := cloud.tag_list(properties):
            # moto's table has two tags of one key when its value is only set anew.
            keys = [*before, *(tag["Key"] for tag in tags)]
            cloud.call("dynamodb", "untag_resource", ResourceArn=arn, TagKeys=keys)
            cloud.call("dynamodb", "tag_resource", ResourceArn=arn, Tags=tags)
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it with its items."""
        with gone_is_good():
            cloud.call("dynamodb", "delete_table", TableName=resource.physical_id)

    def _let_expire(self, cloud: Cloud, table: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        wanted = new.get("TimeToLiveSpecification")
        if wanted and wanted != old.get("TimeToLiveSpecification"):
            cloud.call("dynamodb", "update_time_to_live", TableName=table, TimeToLiveSpecification=wanted)


class Queue:
    """``AWS::SQS::Queue``."""

    fixed = frozenset({"QueueName", "FifoQueue"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make the queue."""
        wanted = resource.properties
        name = wanted.get("QueueName") or cloud.name(resource.logical_id, 80)
        tags = cloud.all_tags(wanted)
        made = cloud.call("sqs", "create_queue", QueueName=name, Attributes=_attributes(wanted), tags=tags or None)
        url = made["QueueUrl"]
        found = cloud.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
        return Made(url, {"Arn": found["Attributes"]["QueueArn"], "QueueName": name, "QueueUrl": url})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change its attributes and tags."""
        url = resource.physical_id
        changeable = {name: value for name, value in _attributes(properties).items() if name != "FifoQueue"}
        cloud.call("sqs", "set_queue_attributes", QueueUrl=url, Attributes=changeable)
        if tags := cloud.all_tags(properties):
            cloud.call("sqs", "tag_queue", QueueUrl=url, Tags=tags)
        return Made(url, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it with its messages."""
        with gone_is_good():
            cloud.call("sqs", "delete_queue", QueueUrl=resource.physical_id)


def _attributes(properties: dict[str, Any]) -> dict[str, str]:
    return {
        name: json.dumps(value)
        if isinstance(value, dict)
        else str(value).lower()
        if value in (True, False)
        else str(value)
        for name, value in properties.items()
        if name not in {"QueueName", "Tags"}
    }
