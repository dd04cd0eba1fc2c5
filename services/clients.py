"""The one place that makes boto3 clients: endpoint, region, retries, time-outs, pool size.

A session is shared, since loading boto3's service models costs more than a call.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config as BotoConfig

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient


@dataclass(frozen=True)
class Endpoint:
    """Where the cloud is and how patiently to call it.

    Attributes:
        region: AWS region.
        url: address of the embedded cloud; None on AWS.
        max_attempts: calls in all, the first included; standard mode backs off with jitter up to 20 s between.
        connect_timeout: seconds.
        read_timeout: seconds; longer than the longest long poll (20 s).
        pool_size: connections kept open to each service; at least the threads that share a client.
    """

    region: str
    url: str | None = None
    max_attempts: int = 8
    connect_timeout: float = 3.0
    read_timeout: float = 30.0
    pool_size: int = 16


@dataclass
class Clients:
    """Makes each client once, when first asked; boto3 clients may be shared by threads."""

    endpoint: Endpoint
    _session: boto3.session.Session = field(default_factory=boto3.session.Session, repr=False)

    @cached_property
    def _config(self) -> BotoConfig:
        return BotoConfig(
            region_name=self.endpoint.region,
            retries={"mode": "standard", "total_max_attempts": self.endpoint.max_attempts},
            connect_timeout=self.endpoint.connect_timeout,
            read_timeout=self.endpoint.read_timeout,
            max_pool_connections=self.endpoint.pool_size,
            # The default adds a checksum pass to every transfer; TLS and Content-MD5 where required remain.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # A bucket name is no host name on loopback.
            s3={"addressing_style": "path" if self.endpoint.url else "auto"},
        )

    @cached_property
    def s3(self) -> "S3Client":
        """The S3 client."""
        return self._session.client("s3", endpoint_url=self.endpoint.url, config=self._config)

    @cached_property
    def sqs(self) -> "SQSClient":
        """The SQS client."""
        return self._session.client("sqs", endpoint_url=self.endpoint.url, config=self._config)

    @cached_property
    def ec2(self) -> "EC2Client":
        """The EC2 client."""
        return self._session.client("ec2", endpoint_url=self.endpoint.url, config=self._config)

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        """The DynamoDB client."""
        return self._session.client("dynamodb", endpoint_url=self.endpoint.url, config=self._config)
