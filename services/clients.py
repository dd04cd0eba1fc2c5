"""The one place that makes clients of the cloud: endpoint, region, credentials, retries, time-outs, pool size.

A session is shared, since loading botocore's service models costs more than a call.
"""

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config as BotoConfig
from botocore.exceptions import NoCredentialsError
from botocore.loaders import Loader

from services.endpoint import APP_ID, Endpoint

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from obstore.store import S3Credential, S3Store

CREDENTIALS_KEPT = timedelta(minutes=10)
"""How long credentials are valid for an object store, which asks again five minutes before their end.

botocore, which it asks, renews a role's credentials when they have ten minutes left.
"""


class FastModelLoader(Loader):
    """botocore's service models, found by the names of their folders.

    botocore looks into all 440 folders, twice for each client, to know that a service is there: half the time that
    making a client takes.
    """

    def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 (botocore's signature)
        """Return what may be a service; one without a model of this type is found out when that is loaded."""
        folders = [Path(path) for path in self.search_paths]
        return sorted({service.name for folder in folders if folder.is_dir() for service in folder.iterdir()})


_LOADER = FastModelLoader()
"""Shared by all sessions of a process: it keeps the models that it has read, and reading one takes longer than a
call.
"""


def new_session() -> botocore.session.Session:
    """Return a session that finds its service models quickly."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _LOADER)
    return session


@dataclass
class Clients:
    """Makes each client once, when first asked; clients may be shared by threads."""

    endpoint: Endpoint
    session: botocore.session.Session = field(default_factory=new_session, repr=False)

    @cached_property
    def s3(self) -> "S3Client":
        """The S3 client, for buckets as a whole; `services.s3.Bucket` is the way to an object."""
        client: S3Client = self._client("s3")
        return client

    @cached_property
    def s3_signing(self) -> "S3Client":
        """The S3 client that signs what others send: by Signature Version 4, for the region's own address.

        botocore's defaults would sign by Version 2, which the newer regions refuse, and for the global address, which
        redirects to the region for a day after a bucket was made.
        """
        # A bucket's name is no host name on loopback.
        style: Any = {"addressing_style": "path" if self.endpoint.url else "virtual"}
        own = self._config.merge(BotoConfig(signature_version="s3v4", s3=style))
        client: S3Client = self._client("s3", own)
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

    @cached_property
    def cognito_idp(self) -> "CognitoIdentityProviderClient":
        """The Cognito client, which tries a call twice at most: a person waits for the answer and tries again."""
        attempts: Any = {"mode": "standard", "total_max_attempts": min(2, self.endpoint.max_attempts)}
        client: CognitoIdentityProviderClient = self._client(
            "cognito-idp", self._config.merge(BotoConfig(retries=attempts))
        )
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
            # One at a time: deleting several is another call, with an answer to be read for each.
            disable_bulk_delete=True,
            client_options={
                "allow_http": endpoint.url is not None,
                "connect_timeout": timedelta(seconds=endpoint.connect_timeout),
                "timeout": timedelta(seconds=endpoint.read_timeout),
                "user_agent": f"fleetsight app/{os.environ.get(APP_ID, 'fleetsight')}",
            },
            retry_config={
                "max_retries": endpoint.max_attempts - 1,
                # 8 attempts take about a minute.
                "backoff": {
                    "init_backoff": timedelta(seconds=0.25),
                    "max_backoff": timedelta(seconds=20),
                    "base": 4,
                },
            },
            **place,
        )

    def _client(self, service: str, config: BotoConfig | None = None) -> Any:
        return self.session.create_client(service, endpoint_url=self.endpoint.url, config=config or self._config)

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
        found = self.session.get_credentials()
        now = found.get_frozen_credentials() if found else None
        if now is None or now.access_key is None or now.secret_key is None:
            raise NoCredentialsError
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_KEPT,
        }
