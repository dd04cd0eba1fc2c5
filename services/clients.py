"""The one place that makes clients of the cloud: endpoint, region, credentials, retries, time-outs, pool size.

A session is shared, since loading botocore's service models costs more than a call.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config as BotoConfig
from botocore.exceptions import NoCredentialsError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from obstore.store import S3Credential, S3Store

CREDENTIALS_KEPT = timedelta(minutes=10)
"""How long credentials are valid for an object store, which asks again five minutes before their end.

botocore, which it asks, renews a role's credentials when they have ten minutes left.
"""


@dataclass(frozen=True)
class Endpoint:
    """Where the cloud is and how patiently to call it.

    Attributes:
        region: AWS region.
        url: address of the embedded cloud; None on AWS.
        max_attempts: calls in all, the first included; with jitter between them, up to 20 s.
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
    """Makes each client once, when first asked; clients may be shared by threads."""

    endpoint: Endpoint
    _session: botocore.session.Session = field(default_factory=botocore.session.get_session, repr=False)

    @cached_property
    def s3(self) -> "S3Client":
        """The S3 client, for buckets as a whole; `services.s3.Bucket` is the way to an object."""
        client: S3Client = self._client("s3")
        return client

    @cached_property
    def sqs(self) -> "SQSClient":
        """The SQS client."""
        client: SQSClient = self._client("sqs")
        return client

    @cached_property
    def ec2(self) -> "EC2Client":
        """The EC2 client."""
        client: EC2Client = self._client("ec2")
        return client

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        """The DynamoDB client."""
        client: DynamoDBClient = self._client("dynamodb")
        return client

    def object_store(self, bucket: str) -> "S3Store":
        """Return a new connection pool to the objects of `bucket`."""
        from obstore.store import S3Store

        endpoint = self.endpoint
        # A bucket's name is no host name on loopback, and one with dots has no certificate on AWS.
        place: Any = (
            {"endpoint": endpoint.url} if endpoint.url else {"virtual_hosted_style_request": "." not in bucket}
        )
        return S3Store(
            bucket,
            region=endpoint.region,
            credential_provider=self._credentials,
            # One at a time: deleting several is another call, whose answer has to be read for each.
            disable_bulk_delete=True,
            client_options={
                "allow_http": endpoint.url is not None,
                "connect_timeout": timedelta(seconds=endpoint.connect_timeout),
                "timeout": timedelta(seconds=endpoint.read_timeout),
            },
            retry_config={
                "max_retries": endpoint.max_attempts - 1,
                # About as patient as botocore: 8 attempts take about a minute.
                "backoff": {
                    "init_backoff": timedelta(seconds=0.25),
                    "max_backoff": timedelta(seconds=20),
                    "base": 4,
                },
            },
            **place,
        )

    def _client(self, service: str) -> Any:
        return self._session.create_client(service, endpoint_url=self.endpoint.url, config=self._config)

    @cached_property
    def _config(self) -> BotoConfig:
        return BotoConfig(
            region_name=self.endpoint.region,
            retries={"mode": "standard", "total_max_attempts": self.endpoint.max_attempts},
            connect_timeout=self.endpoint.connect_timeout,
            read_timeout=self.endpoint.read_timeout,
            max_pool_connections=self.endpoint.pool_size,
            # mypy has checked the parameters, and the service does: checking each call again costs a twentieth of it.
            parameter_validation=False,
            # The default adds a checksum pass to every transfer; TLS and Content-MD5 where required remain.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if self.endpoint.url else "auto"},
        )

    def _credentials(self) -> "S3Credential":
        """Return what botocore signs with at this moment; the environment, a profile or the instance's role."""
        found = self._session.get_credentials()
        now = found.get_frozen_credentials() if found else None
        if now is None or now.access_key is None or now.secret_key is None:
            raise NoCredentialsError
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_KEPT,
        }
